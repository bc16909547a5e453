"""What the engine says, on its way to all who want it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy_engine_core import log_batch
from proxy_engine_core.core import EVENT_LINK_DOWN, EVENT_LINK_UP, EVENT_REQUESTS_OPEN

if TYPE_CHECKING:
    from proxy_engine.app import Server
    from proxy_engine.storage import Tunnel
    from proxy_engine.tunnels.routes import Change
    from proxy_engine_core.core import Event


class EngineFeed:
    def __init__(self, server: Server) -> None:
        self._server = server

    def event(self, event: Event) -> None:
        server = self._server
        gone = server.links.get(event[1]) if event[0] == EVENT_LINK_DOWN else None
        server.links.on_event(event)
        server.diagnosis.on_event(event)
        if event[0] == EVENT_REQUESTS_OPEN and server.open_requests is not None:
            server.open_requests.on_event(*event[1:])
        if event[0] == EVENT_LINK_UP and (link := server.links.get(event[1])) is not None:
            others = len(server.links.of_device(link.device_id))
            server.events.device(link.device, "up", others, link.peer)
        if event[0] == EVENT_LINK_DOWN and gone is not None:
            others = len(server.links.of_device(gone.device_id))
            server.events.device(gone.device, "down", others, gone.peer, event[3])
            server.hooks.feed.link_down(gone, others, *event[3:])

    def logs(self, batch: bytes) -> None:
        """Finished requests, packed."""
        server = self._server
        server.links.registry.count(log_batch.totals(batch))
        server.request_log.put(batch)
        server.events.requests(batch)
        server.hooks.feed.requests(batch)
        server.otlp.put(batch)
        if server.settings.access_log:
            server.access_log.put(batch)

    def tunnel(self, change: Change, tunnel: Tunnel) -> None:
        self._server.events.tunnel(change, tunnel)
        self._server.hooks.feed.tunnel(change, tunnel)

    # --- names for those who know ids; those of one from any thread -------------------------

    def tunnel_names(self) -> dict[int, str]:
        return {tunnel.id: tunnel.name for tunnel in self._server.table}

    def device_names(self) -> dict[int, str]:
        return {link.device_id: link.device for link in self._server.links}

    def tunnel_name(self, tunnel_id: int) -> str | None:
        tunnel = self._server.table.by_id(tunnel_id)
        return None if tunnel is None else tunnel.name

    def device_name(self, device_id: int) -> str | None:
        return self._server.links.device_name(device_id)
