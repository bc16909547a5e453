"""/api/v1/devices: the machines behind the tunnels."""

from __future__ import annotations

from typing import Annotated

import msgspec

from proxy_engine import storage, tokens
from proxy_engine.api.names import Name, Named
from proxy_engine.api.paging import Page, PageQuery, cursor_of, key_of, page_of
from proxy_engine.api.problems import Problem
from proxy_engine.api.routes import Call, Routes
from proxy_engine.links.devices import LABELS_MAX, check_labels
from proxy_engine.links.table import Link
from proxy_engine.storage import DeviceEvent
from proxy_engine.tls.certificate_names import NAMES_MAX, check_names

routes = Routes("devices", "The machines behind the tunnels.")
SETTLED = ("labels", "is_blocked", "certificate_names")  # the rest moves with its links
MISSING = {404: "there is no such device"}
TAKEN = {409: "a device has this name"}
BOUND = {409: "a device has this name, or this name of a certificate"}
CertificateNames = Annotated[
    list[str],
    msgspec.Meta(
        max_length=NAMES_MAX,
        description="`cn:NAME`, `dns:NAME` or `uri:URI`, one of which its client certificate has "
        "to have; none: its own name, if it shows one",
    ),
]
Labels = Annotated[dict[str, str], msgspec.Meta(max_length=LABELS_MAX)]


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
    certificate: Annotated[
        list[str], msgspec.Meta(description="names of the one it was opened with")
    ]


class Device(msgspec.Struct, kw_only=True):
    """A device, online if it has links. Counts are of all the time since it was registered."""

    id: int
    name: str
    labels: dict[str, str]
    certificate_names: CertificateNames
    is_online: bool
    is_blocked: bool
    online_since: float | None
    created_at: float
    first_seen_at: float | None
    last_seen_at: float | None
    owner_token: Annotated[
        str | None, msgspec.Meta(description="it registered itself with this token")
    ]
    address: str
    agent: str
    platform: str
    links_total: int
    requests_total: int
    bytes_in_total: int
    bytes_out_total: int
    links: list[DeviceLink]


class DeviceQuery(PageQuery, forbid_unknown_fields=True, kw_only=True):
    online: bool | None = None
    blocked: bool | None = None
    label: Annotated[
        list[str], msgspec.Meta(description="`name=value` or `name`; all have to match")
    ] = msgspec.field(default_factory=list)


class NewDevice(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A device registered before it connects."""

    name: Name
    labels: Labels = {}


class DeviceChange(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What is left out, or null, stays as it is."""

    name: Name | None = None
    labels: Annotated[Labels | None, msgspec.Meta(description="instead of all it has")] = None
    is_blocked: Annotated[
        bool | None, msgspec.Meta(description="true ends its links and keeps it out")
    ] = None
    certificate_names: Annotated[
        CertificateNames | None, msgspec.Meta(description="instead of all it has")
    ] = None


class Presence(msgspec.Struct, kw_only=True):
    """A device came or went. Two "online" in a row: the server was killed in between."""

    at: float
    kind: storage.Presence
    address: str
    reason: str


@routes.get("/api/v1/devices")
async def list_devices(call: Call, query: DeviceQuery) -> Page[Device]:
    """All devices, by name."""
    owners = await _owners(call)
    found = [
        device
        for device in await call.service.store.devices()
        if (query.blocked is None or device.is_blocked == query.blocked)
        and (query.online is None or _is_online(call, device) == query.online)
        and all(_has_label(device, wanted) for wanted in query.label)
    ]
    page = page_of(found, query, lambda device: device.name)
    return Page([_device(call, device, owners) for device in page.items], page.next)


@routes.post("/api/v1/devices", status=201, problems=TAKEN)
async def create_device(call: Call, body: NewDevice) -> Device:
    """Register a device ahead.

    It is there without having connected: to be blocked, labelled, or given a token.
    """
    tokens.check_name(body.name, "device")
    check_labels(body.labels)
    device = await call.service.store.device_add(body.name, body.labels, call.now())
    call.answer_headers["Location"] = f"/api/v1/devices/{device.name}"
    return _device(call, device, {})


@routes.get("/api/v1/devices/{name}", problems=MISSING, etag=True, settled=SETTLED)
async def read_device(call: Call, path: Named) -> Device:
    """One device."""
    return _device(call, await _find(call, path.name), await _owners(call))


@routes.patch("/api/v1/devices/{name}", problems={**MISSING, **BOUND}, etag=True, settled=SETTLED)
async def change_device(call: Call, path: Named, body: DeviceChange) -> Device:
    """Rename, label, block or unblock a device, or bind names of certificates to it.

    Blocking ends its links at once, and so does a name that their certificates do not have. A
    device that tells its own name (`connect --device`) has to be told the new one.
    """
    if body.name is not None:
        tokens.check_name(body.name, "device")
    if body.labels is not None:
        check_labels(body.labels)
    if body.certificate_names is not None:
        check_names(body.certificate_names)
        await _check_not_taken(call, path.name, body.certificate_names)
    changed = await call.service.store.device_change(
        path.name,
        new_name=body.name,
        labels=body.labels,
        is_blocked=body.is_blocked,
        certificate_names=body.certificate_names,
    )
    return await _changed(call, changed)


@routes.post("/api/v1/devices/{name}/kick", problems=MISSING)
async def kick_device(call: Call, path: Named) -> Device:
    """End the links a device has now. It may come back at once."""
    changed = await call.service.store.device_change(path.name, kicked_at=call.now())
    return await _changed(call, changed)


@routes.delete("/api/v1/devices/{name}", problems=MISSING, etag=True)
async def delete_device(call: Call, path: Named) -> None:
    """Delete a device with its tunnels, its history and the tokens that are for it alone."""
    if not await call.service.store.device_delete(path.name):
        raise _missing()
    await call.service.access_changed()


@routes.get("/api/v1/devices/{name}/history", problems=MISSING)
async def read_history(call: Call, path: Named, query: PageQuery) -> Page[Presence]:
    """When a device came and went, newest first."""
    device = await _find(call, path.name)
    found = await call.service.store.device_events(
        device.id, query.limit + 1, key_of(query.cursor, int)
    )
    page = found[: query.limit]
    return Page(
        [_presence(event) for event in page],
        cursor_of(page[-1].id) if len(found) > len(page) else None,
    )


async def _check_not_taken(call: Call, name: str, names: list[str]) -> None:
    """A certificate is for one device."""
    for device in await call.service.store.devices():
        for taken in device.certificate_names:
            if device.name != name and taken in names:
                raise Problem(409, "certificate_taken", f"{taken} is bound to {device.name}")


async def _find(call: Call, name: str) -> storage.Device:
    for device in await call.service.store.devices():
        if device.name == name:
            return device
    raise _missing()


async def _changed(call: Call, device: storage.Device | None) -> Device:
    if device is None:
        raise _missing()
    await call.service.access_changed()
    return _device(call, device, await _owners(call))


def _missing() -> Problem:
    return Problem(404, "unknown_device", "there is no device of this name")


def _has_label(device: storage.Device, wanted: str) -> bool:
    name, equals, value = wanted.partition("=")
    return device.labels.get(name) == value if equals else name in device.labels


def _is_online(call: Call, device: storage.Device) -> bool:
    return call.service.links.registry.online_since(device.id) is not None


async def _owners(call: Call) -> dict[int, str]:
    return {token.id: token.name for token in await call.service.store.tokens()}


def _device(call: Call, device: storage.Device, owners: dict[int, str]) -> Device:
    since = call.service.links.registry.online_since(device.id)
    return Device(
        id=device.id,
        name=device.name,
        labels=device.labels,
        certificate_names=list(device.certificate_names),
        is_online=since is not None,
        is_blocked=device.is_blocked,
        online_since=since,
        created_at=device.created_at,
        first_seen_at=device.first_seen_at,
        last_seen_at=device.last_seen_at,
        owner_token=owners.get(device.owner_token_id or 0),
        address=device.address,
        agent=device.agent,
        platform=device.platform,
        links_total=device.links,
        requests_total=device.requests,
        bytes_in_total=device.bytes_in,
        bytes_out_total=device.bytes_out,
        links=[_link(link) for link in call.service.links.of_device(device.id)],
    )


def _presence(event: DeviceEvent) -> Presence:
    return Presence(at=event.at, kind=event.kind, address=event.address, reason=event.reason)


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
        certificate=list(link.certificate),
    )
