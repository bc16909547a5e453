"""What the server sees, as events of hooks.

While no hook wants an event, nothing is made of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from proxy_engine.hooks.events import (
    DeviceDisconnect,
    DevicePresence,
    TunnelClose,
    TunnelData,
    TunnelPresence,
)
from proxy_engine.hooks.requests import Names, Requests
from proxy_engine_core import log_batch

if TYPE_CHECKING:
    from proxy_engine.hooks.hook import Hook
    from proxy_engine.hooks.manager import Manager
    from proxy_engine.links.table import Link
    from proxy_engine.storage import DeviceEvent, Tunnel
    from proxy_engine.tunnels.routes import Change, TunnelTable

GONE_MAX = 1000  # devices whose names are kept, for what is told of them a little later


class HookFeed:
    """
    Args:
        redact: a path and query as others may see it.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        hooks: Manager,
        *,
        redact: Callable[[str], str],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._hooks = hooks
        self._clock = clock
        self._started_at = clock()
        self._tunnels: TunnelTable | None = None
        self._present: Callable[[int], str | None] = lambda device_id: None
        self._gone: dict[int, str] = {}  # devices that were online, the first to go first
        self._names = Names(self._tunnel_name, self._device_name, redact)
        self._requests = 0  # ever
        self._bytes: dict[int, tuple[int, int, float]] = {}  # told of a tunnel, and when

    def watch(self, tunnels: TunnelTable, device_name: Callable[[int], str | None]) -> None:
        """
        Args:
            tunnels: all there are.
            device_name: of one that is online; called from the threads of hooks, too.
        """
        self._tunnels, self._present = tunnels, device_name

    def _tunnel(self, tunnel_id: int) -> Tunnel | None:
        return None if self._tunnels is None else self._tunnels.by_id(tunnel_id)

    def _tunnel_name(self, tunnel_id: int) -> str | None:
        tunnel = self._tunnel(tunnel_id)
        return None if tunnel is None else tunnel.name

    def _device_name(self, device_id: int) -> str | None:
        return self._present(device_id) or self._gone.get(device_id)

    # Devices

    def device(self, name: str, event: DeviceEvent) -> None:
        """It came or went, of which there is a record."""
        self._gone.pop(event.device_id, None)
        if event.kind == "offline":
            self._gone[event.device_id] = name
            if len(self._gone) > GONE_MAX:
                del self._gone[next(iter(self._gone))]
        told = f"on_device_{event.kind}"
        if self._hooks.wants(told):
            self._hooks.tell(
                told,
                DevicePresence(
                    at=event.at,
                    device=name,
                    device_id=event.device_id,
                    address=event.address,
                    reason=event.reason,
                ),
            )

    def link_down(
        self, link: Link, left: int, reason: str, bytes_in: int, bytes_out: int, seconds: float
    ) -> None:
        """
        Args:
            left: links of its device that are up.
        """
        if self._hooks.wants("on_device_disconnect"):
            self._hooks.tell(
                "on_device_disconnect",
                DeviceDisconnect(
                    at=self._clock(),
                    device=link.device,
                    device_id=link.device_id,
                    token=link.token,
                    token_id=link.token_id,
                    peer=link.peer,
                    address=link.peer.rpartition(":")[0].strip("[]"),
                    number=link.number,
                    links=left,
                    reason=reason,
                    bytes_in=bytes_in,
                    bytes_out=bytes_out,
                    seconds=seconds,
                ),
            )

    # Tunnels

    def tunnel(self, change: Change, tunnel: Tunnel) -> None:
        if change == "deleted":
            self._bytes.pop(tunnel.id, None)
        elif change in ("online", "offline"):
            self._presence(f"on_tunnel_{change}", tunnel)

    def _presence(self, told: str, tunnel: Tunnel) -> None:
        if self._hooks.wants(told):
            self._hooks.tell(
                told,
                TunnelPresence(
                    at=self._clock(),
                    tunnel=tunnel.name,
                    tunnel_id=tunnel.id,
                    kind=tunnel.kind,
                    port=tunnel.port,
                    device_id=tunnel.device_id,
                ),
            )

    def tunnel_closed(self, tunnel: Tunnel, left: int) -> None:
        """A link serves it no more; `left` still do."""
        if self._hooks.wants("on_tunnel_close"):
            self._hooks.tell(
                "on_tunnel_close",
                TunnelClose(
                    at=self._clock(),
                    tunnel=tunnel.name,
                    tunnel_id=tunnel.id,
                    kind=tunnel.kind,
                    device=self._device_name(tunnel.device_id) or "",
                    links=left,
                ),
            )

    # Requests and bytes

    def requests(self, batch: bytes) -> None:
        """Packed records of requests that ended (proxy_engine_core.log_batch)."""
        if not self._hooks.wants("on_request"):
            return
        count = log_batch.count(batch)
        before, self._requests = self._requests, self._requests + count
        made: dict[int, Requests] = {}  # hooks with the same share have one

        def share(hook: Hook) -> tuple[Requests, int]:
            every = hook.sample
            found = made.get(every)
            if found is None:
                found = Requests(batch, count, self._names, -before % every, every)
                made[every] = found
            return found, len(found)

        self._hooks.tell_each("on_request", share)

    def data(self, counts: Mapping[int, tuple[int, int]]) -> None:
        """
        Args:
            counts: bytes from and to visitors since the server started, by tunnel.
        """
        now = self._clock()
        told = []
        for tunnel_id, (total_in, total_out) in counts.items():
            before = self._bytes.get(tunnel_id, (0, 0, self._started_at))
            before_in, before_out, told_at = before
            if (total_in, total_out) == (before_in, before_out):
                continue
            tunnel = self._tunnel(tunnel_id)
            if tunnel is None:
                continue
            self._bytes[tunnel_id] = total_in, total_out, now
            told.append(
                TunnelData(
                    at=now,
                    tunnel=tunnel.name,
                    tunnel_id=tunnel_id,
                    kind=tunnel.kind,
                    bytes_in=total_in - before_in,
                    bytes_out=total_out - before_out,
                    total_in=total_in,
                    total_out=total_out,
                    seconds=now - told_at,
                )
            )
        if told:
            self._hooks.tell("on_data", tuple(told))
