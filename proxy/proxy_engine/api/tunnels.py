"""/api/v1/tunnels: the public names and who serves them."""

from __future__ import annotations

import msgspec

from proxy_engine.api.paging import Page, PageQuery, page_of
from proxy_engine.api.routes import Call, Routes

routes = Routes("tunnels", "The public names and who serves them.")


class Tunnel(msgspec.Struct, kw_only=True):
    """A public name. It belongs to the device that registered it first."""

    id: int
    name: str
    kind: str
    url: str
    device: str | None
    is_online: bool
    created_at: float


@routes.get("/api/v1/tunnels")
async def list_tunnels(call: Call, query: PageQuery) -> Page[Tunnel]:
    """All tunnels, by name."""
    service = call.service
    names = {device.id: device.name for device in await service.store.devices()}
    page = page_of(await service.store.tunnels(), query, lambda tunnel: tunnel.name)
    items = [
        Tunnel(
            id=tunnel.id,
            name=tunnel.name,
            kind=tunnel.kind,
            url=service.table.url(tunnel, names.get(tunnel.device_id, "?")),
            device=names.get(tunnel.device_id),
            is_online=bool(service.table.links(tunnel)),
            created_at=tunnel.created_at,
        )
        for tunnel in page.items
    ]
    return Page(items, page.next)
