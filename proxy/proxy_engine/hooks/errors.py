"""What hooks raise, and what is said of hooks that fail."""

from __future__ import annotations

from proxy_engine.errors import ProxyEngineError
from proxy_engine.text import escape, scrub

MESSAGE_MAX = 300  # characters that reach the agent; it shows no more


class HookError(ProxyEngineError):
    """A hook failed, was too slow, or can not be loaded. The hook's own error is `__cause__`.

    Args:
        hook: its name.
    """

    def __init__(
        self, message: str = "", *, hook: str = "", reason: str = "", retryable: bool | None = None
    ) -> None:
        self.hook = hook
        super().__init__(message, reason=reason, retryable=retryable)


class HookTimeout(HookError):
    """A hook did not return in its `timeout`."""


class Refuse(HookError):
    """Raised by `on_device_connect` and `on_tunnel_open`: no, and why.

    Args:
        message: one line for whoever runs the agent; it is shown there, so it holds no secrets.
        retry_after: seconds after which the agent may ask again; None: it ends, or goes on
            without the tunnel.
    """

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        line = escape(scrub(" ".join(message.split())))
        self.retry_after = retry_after
        super().__init__(
            line[:MESSAGE_MAX] or "refused",
            reason="hook_refused" if retry_after is None else "hook_later",
            retryable=retry_after is not None,
        )
