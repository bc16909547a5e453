"""What the server sees, as events of hooks.

While no hook wants an event, nothing is made of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
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
    from proxy_engine.tunnels.routes import Change


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
        self._tunnels: dict[int, Tunnel] = {}
        self._tunnel_names: dict[int, str] = {}
        self._devices: dict[int, str] = {}  # names of those that ever were online here
        self._names = Names(self._tunnel_names, self._devices, redact)
        self._online: set[int] = set()  # tunnels
        self._requests = 0  # ever
        self._bytes: dict[int, tuple[int, int, float]] = {}  # by tunnel, and when they were told

    def load(self, tunnels: Iterable[Tunnel]) -> None:
        """The tunnels known from before."""
        now = self._clock()
        for tunnel in tunnels:
            self._know(tunnel, now)

    def _know(self, tunnel: Tunnel, now: float) -> None:
        self._tunnels[tunnel.id] = tunnel
        self._tunnel_names[tunnel.id] = tunnel.name
        self._bytes.setdefault(tunnel.id, (0, 0, now))

    # Devices

    def device(self, name: str, event: DeviceEvent) -> None:
        """It came or went, of which there is a record."""
        self._devices[event.device_id] = name
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
            self._tunnels.pop(tunnel.id, None)
            self._tunnel_names.pop(tunnel.id, None)
            self._bytes.pop(tunnel.id, None)
        else:
            self._know(tunnel, self._clock())
        if change == "online":
            self._online.add(tunnel.id)
            self._presence("on_tunnel_online", tunnel)
        elif change in ("offline", "deleted") and tunnel.id in self._online:
            self._online.discard(tunnel.id)
            self._presence("on_tunnel_offline", tunnel)

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
                    device=self._devices.get(tunnel.device_id, ""),
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
            tunnel = self._tunnels.get(tunnel_id)
            if tunnel is None:
                continue
            before_in, before_out, told_at = self._bytes[tunnel_id]
            if (total_in, total_out) == (before_in, before_out):
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
