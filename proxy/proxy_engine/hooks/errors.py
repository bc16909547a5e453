"""What hooks raise, and what is said of hooks that fail."""

from __future__ import annotations

from proxy_engine.errors import ProxyEngineError
from proxy_engine.text import escape, scrub

REASON_MAX = 300  # characters of a reason that reach the agent; it shows no more


class HookError(ProxyEngineError):
    """A hook failed, was too slow, or can not be loaded. The hook's own error is `__cause__`.

    Args:
        hook: its name.
    """

    def __init__(self, text: str, *, hook: str = "") -> None:
        self.hook = hook
        super().__init__(text)


class HookTimeout(HookError):
    """A hook did not return in its `timeout`."""


class Refuse(HookError):
    """Raised by `on_device_connect` and `on_tunnel_open`: no, and why.

    Args:
        reason: one line for whoever runs the agent; it is shown there, so it holds no secrets.
        retry_after: seconds after which the agent may ask again; None: it ends, or goes on
            without the tunnel.
    """

    def __init__(self, reason: str, *, retry_after: float | None = None) -> None:
        line = escape(scrub(" ".join(reason.split())))
        self.reason = line[:REASON_MAX] or "refused"
        self.retry_after = retry_after
        super().__init__(self.reason)
