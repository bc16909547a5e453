"""What fails in a server: a line of the log, and an event for its hooks (`on_error`).

    failures.error(_log, "tls", "reload", "certificates not reloaded", error=error)

is `_log.error(...)`, and told to the server in whose context (contextvars) it happens: whatever
a server starts while it is heard(), tasks, threads and callbacks, belongs to it. So the parts of a
server need not know whose they are, several servers share a process, and an agent, which has no
hooks, logs and nothing else.

What visitors and devices do wrong is no failure of the server: it is counted, and in the log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeAlias

from proxy_engine.logs import Log

# All there are, by source and where. The guide site shows them.
KINDS: dict[tuple[str, str], str] = {
    ("store", "look"): "revoked and expired tokens are not seen; links stay as they are",
    ("store", "devices"): "what was seen of devices is not written; it waits, or was lost",
    ("store", "links"): "devices that ask for a link are told to come again",
    ("store", "tunnels"): "tunnels are not registered or changed; agents ask again",
    ("store", "requests"): "the request log can not be written; records wait, in the journal too",
    ("store", "retention"): "old requests can not be deleted",
    ("store", "metrics"): "the history of metrics has a gap",
    ("store", "audit"): "an audit record stays without its outcome",
    ("store", "api"): "a request of the admin API was answered 503",
    ("journal", "write"): "the journal of the request log can not be written: a full disk?",
    ("journal", "damaged"): "entries of it were lost when the machine went down",
    ("requests", "lost"): "rows of the request log were lost, `rows` of them",
    ("redis", "away"): "the shared cache is away; the server goes on without it",
    ("tls", "reload"): "certificates that changed are no good; the last good ones stay",
    ("tls", "refused"): "a certificate in use is one that nobody takes (any more)",
    ("tls", "expiry"): "a certificate ends in 30, 7 or 1 days",
    ("settings", "reload"): "settings are no good; the last good ones stay",
    ("listener", "port"): "the port of a tunnel can not be listened on",
    ("webhook", "attempt"): "a webhook was not taken; it is tried again",
    ("webhook", "given_up"): "... and is dropped after the last try",
    ("webhook", "lost"): "webhooks that waited when the hook ended",
    (
        "otlp",
        "away",
    ): "the collector of OpenTelemetry does not take what it gets; it is tried again",
    ("otlp", "partial"): "... or it leaves some out",
    ("otlp", "lost"): "spans that waited when the server ended",
    ("engine", "memory"): "the engine's buffers are short: new work is refused",
    ("engine", "files"): "file descriptors are short: new connections wait",
    ("engine", "drain"): "what was in flight did not end in time",
    ("watch", "stuck"): "a worker or the event loop does not turn (the setting `watchdog`)",
    ("watch", "slow"): "... took over 100 ms (with `debug`)",
    ("bug", "api"): "a request of the admin API was answered 500: please report it",
    ("bug", "event"): "an event of the engine was not handled: please report it",
    ("bug", "task"): "background work failed: please report it",
    ("bug", "otlp"): "metrics or spans were not exported: please report it",
    ("bug", "watch"): "the watchdog failed: please report it",
}

# source, where, message, fields
Listener: TypeAlias = Callable[[str, str, str, dict[str, Any]], None]

_listener: ContextVar[Listener | None] = ContextVar("failures", default=None)


@contextmanager
def heard(listener: Listener) -> Iterator[None]:
    """What is started in this block is the listener's. It is called from any thread."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def error(log: Log, source: str, where: str, message: str, **fields: Any) -> None:
    log.error(message, **fields)
    _tell(source, where, message, fields)


def warning(log: Log, source: str, where: str, message: str, **fields: Any) -> None:
    log.warning(message, **fields)
    _tell(source, where, message, fields)


def bug(log: Log, where: str, message: str, error: BaseException, **fields: Any) -> None:
    """An exception that nobody expected."""
    log.exception(message, error, **fields)
    _tell("bug", where, message, {**fields, "error": error})


def _tell(source: str, where: str, message: str, fields: dict[str, Any]) -> None:
    listener = _listener.get()
    if listener is not None:
        listener(source, where, message, fields)
