"""What hooks are told, as lines of the log."""

from __future__ import annotations

from collections.abc import Sequence

from proxy_engine import logs
from proxy_engine.hooks.events import (
    DeviceDisconnect,
    DevicePresence,
    Failure,
    Request,
    TunnelData,
    TunnelPresence,
)
from proxy_engine.hooks.hook import Hook

_log = logs.get("events")


class Logger(Hook):
    """Devices and tunnels that come and go, requests (one in `sample`) and bytes, as log lines.

    Its methods are plain: a stderr that does not take a line holds up one thread of its own.

    Args:
        requests: one line for each request, of the level info; of warning for 5xx and reasons.
        data: one line for each tunnel that moved bytes, every hook_interval.
    """

    order = 1000

    def __init__(self, *, requests: bool = True, data: bool = False) -> None:
        self._has_requests = requests
        self._has_data = data

    def on_device_online(self, event: DevicePresence) -> None:
        _log.info("device online", device=event.device, address=event.address)

    def on_device_offline(self, event: DevicePresence) -> None:
        _log.info("device offline", device=event.device, reason=event.reason)

    def on_device_disconnect(self, event: DeviceDisconnect) -> None:
        _log.info(
            "link ended",
            device=event.device,
            number=event.number,
            reason=event.reason,
            bytes_in=event.bytes_in,
            bytes_out=event.bytes_out,
            seconds=round(event.seconds, 3),
            left=event.links,
        )

    def on_tunnel_online(self, event: TunnelPresence) -> None:
        _log.info("tunnel online", tunnel=event.tunnel, kind=event.kind, port=event.port or "")

    def on_tunnel_offline(self, event: TunnelPresence) -> None:
        _log.info("tunnel offline", tunnel=event.tunnel)

    def on_request(self, requests: Sequence[Request]) -> None:
        if not self._has_requests:
            return
        for request in requests:
            is_bad = request.status >= 500 or request.reason != ""
            (_log.warning if is_bad else _log.info)(
                "request",
                id=request.request_id,
                tunnel=request.tunnel or "",
                device=request.device or "",
                visitor=request.visitor,
                method=request.method,
                host=request.host,
                path=request.path,
                status=request.status,
                reason=request.reason,
                bytes_in=request.bytes_in,
                bytes_out=request.bytes_out,
                seconds=round(request.seconds, 6),
            )

    def on_data(self, data: Sequence[TunnelData]) -> None:
        if not self._has_data:
            return
        for each in data:
            _log.info(
                "tunnel data",
                tunnel=each.tunnel,
                bytes_in=each.bytes_in,
                bytes_out=each.bytes_out,
                seconds=round(each.seconds, 3),
            )

    def on_error(self, failure: Failure) -> None:
        if failure.source != "hook":  # those are logged where they fail
            _log.error("failure", source=failure.source, where=failure.where, error=failure.error)
