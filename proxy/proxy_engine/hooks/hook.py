"""The class that hooks derive from.

A method is called because it is overridden; what is not costs nothing. How it is called follows
from how it is declared:

    async def on_x(self, event)     on the server's event loop; it awaits what takes time
    def on_x(self, event)           in a thread of the hook's own; it may block
    @inline
    def on_x(self, event)           at once, on the event loop; it only counts or puts into a queue

Whatever a hook does, no byte waits for it: bytes move in native threads that never ask Python.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import ClassVar, TypeAlias, TypeVar

from proxy_engine.hooks.events import (
    DeviceConnect,
    DeviceDisconnect,
    DevicePresence,
    Failure,
    Request,
    ServerEvent,
    TunnelClose,
    TunnelData,
    TunnelOpen,
    TunnelPresence,
)

# So that a method may be overridden by an async one and by a plain one.
Answer: TypeAlias = Awaitable[None] | None
F = TypeVar("F", bound=Callable[..., None])
_INLINE = "_proxy_engine_inline"


def inline(method: F) -> F:
    """Call this plain method at once on the event loop: it returns in microseconds, always.

    Raises: TypeError for an async method.
    """
    if inspect.iscoroutinefunction(method):
        raise TypeError(f"{method.__name__} is async; inline is for plain methods")
    setattr(method, _INLINE, True)
    return method


def is_inline(method: Callable[..., object]) -> bool:
    return getattr(method, _INLINE, False)


class Hook:
    """Does nothing. What a hook is told it is told one after the other, in order; what it is asked
    it may be asked meanwhile, and about several devices at once.

    Class attributes are defaults; the options of a hook in the settings replace them, and what
    is no attribute of these goes to `__init__`.
    """

    name: str = ""
    order: int = 0
    timeout: float = 0.0
    queue: int = 10_000
    workers: int = 1
    sample: int = 1
    fail_open: bool = False

    # The above, and what they are for.
    OPTIONS: ClassVar[Mapping[str, str]] = {
        "name": 'in logs and statistics; "": the name of the class',
        "order": "lower is earlier; equals in the order in which they are listed",
        "timeout": "seconds for one call; 0: the setting `hook_timeout`",
        "queue": "events that wait for it at most, requests one by one; beyond: dropped, counted",
        "workers": "calls at once, of what it is told; more than 1: no order any more",
        "sample": "`on_request`: one request of this many, exactly",
        "fail_open": "an error or time-out when it is asked lets the device in",
    }

    # When the server begins and ends

    def on_server_start(self, event: ServerEvent) -> Answer:
        """Awaited, in order, before anybody is let in. An error ends the server's start."""
        return None

    def on_server_stop(self, event: ServerEvent) -> Answer:
        """Awaited, in reverse order, after everything else was told."""
        return None

    # Asked: in order, and the first Refuse counts

    def on_device_connect(self, event: DeviceConnect) -> Answer:
        """Asked for each link. Raises Refuse: the agent is told the reason."""
        return None

    def on_tunnel_open(self, event: TunnelOpen) -> Answer:
        """Asked each time a link registers it. Raises Refuse: the agent is told the reason."""
        return None

    # Told

    def on_device_disconnect(self, event: DeviceDisconnect) -> Answer:
        """A link of a device has ended: why, bytes, seconds."""
        return None

    def on_device_online(self, event: DevicePresence) -> Answer:
        """A device has its first link."""
        return None

    def on_device_offline(self, event: DevicePresence) -> Answer:
        """A device has lost its last link, or the server ends."""
        return None

    def on_tunnel_close(self, event: TunnelClose) -> Answer:
        """A link serves a tunnel no more."""
        return None

    def on_tunnel_online(self, event: TunnelPresence) -> Answer:
        """Somebody serves a tunnel from now on."""
        return None

    def on_tunnel_offline(self, event: TunnelPresence) -> Answer:
        """Nobody serves a tunnel any more."""
        return None

    def on_request(self, requests: Sequence[Request]) -> Answer:
        """Requests that ended, some at a time, at most 50 ms after the first of them. They are
        unpacked when they are first looked at; len() is free."""
        return None

    def on_data(self, data: Sequence[TunnelData]) -> Answer:
        """Every `hook_interval` seconds: the tunnels that moved bytes since the last time."""
        return None

    def on_error(self, failure: Failure) -> Answer:
        """Hooks that failed, all those of one event together; or something of the server: what its
        log says of it, at most one a second of each source and where."""
        return None

    def stats(self) -> Mapping[str, int]:
        """Numbers of its own for /api/v1/stats, where they are called hook_NAME_KEY."""
        return {}
