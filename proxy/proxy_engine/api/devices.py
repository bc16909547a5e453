"""/api/v1/devices: the machines behind the tunnels."""

from __future__ import annotations

import msgspec

from proxy_engine import storage
from proxy_engine.api.paging import Page, PageQuery, page_of
from proxy_engine.api.routes import Call, Routes
from proxy_engine.link_table import Link

routes = Routes("devices", "The machines behind the tunnels.")


class DeviceLink(msgspec.Struct, kw_only=True):
    """One connection of a device, as it is now."""

    id: int
    number: int
    worker: int
    peer: str
    since: float
    agent: str
    platform: str
    token: str


class Device(msgspec.Struct, kw_only=True):
    """A device, online if it has links. Times are seconds since the epoch."""

    id: int
    name: str
    created_at: float
    last_seen_at: float | None
    is_blocked: bool
    links: list[DeviceLink]


@routes.get("/api/v1/devices")
async def list_devices(call: Call, query: PageQuery) -> Page[Device]:
    """All devices, by name."""
    page = page_of(await call.service.store.devices(), query, lambda device: device.name)
    return Page([_device(call, device) for device in page.items], page.next)


def _device(call: Call, device: storage.Device) -> Device:
    return Device(
        id=device.id,
        name=device.name,
        created_at=device.created_at,
        last_seen_at=device.last_seen_at,
        is_blocked=device.is_blocked,
        links=[_link(link) for link in call.service.links.of_device(device.id)],
    )


def _link(link: Link) -> DeviceLink:
    return DeviceLink(
        id=link.id,
        number=link.number,
        worker=link.worker,
        peer=link.peer,
        since=link.since,
        agent=link.agent,
        platform=link.platform,
        token=link.token,
    )
