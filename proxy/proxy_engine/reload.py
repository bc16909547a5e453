"""Settings that change while the server runs.

They are read and checked as a whole first. If anything is wrong, nothing changes and the
server goes on with the last good ones. What can change, changes at once; of the rest the
log says that it waits for a restart.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from proxy_engine import listeners, logs
from proxy_engine.otlp import service as otlp
from proxy_engine.requests.log import retention
from proxy_engine.runner import make_engine
from proxy_engine.settings import config

if TYPE_CHECKING:
    from proxy_engine.app import Server
    from proxy_engine.settings.config import Settings


def _keep_requests(server: Server) -> None:
    server.request_log.keep = retention(server.settings)


def _default_tunnel(server: Server) -> None:
    server.engine.routes_apply(server.table.set_default(server.settings.default_tunnel))


def _default_profile(server: Server) -> None:
    server.engine.routes_apply(server.table.set_default_profile(server.settings.default_profile))


def _default_server_timing(server: Server) -> None:
    timing = server.settings.default_server_timing
    server.engine.routes_apply(server.table.set_default_timing(timing))


def _log(server: Server) -> None:
    logs.adjust(server.settings.log_format, server.settings.log_level)


def _request_sample(server: Server) -> None:
    server.request_log.sample = server.settings.request_sample


def _request_redact(server: Server) -> None:
    for redactor in server.redactors:
        redactor.extend(server.settings.request_redact)


def _login_failures(server: Server) -> None:
    server.guard.most = server.settings.login_failures


def _tcp_ports(server: Server) -> None:
    server.ports.allow(server.settings.tcp_ports)


def _link_busy_share(server: Server) -> None:
    server.links.aim(server.settings.link_busy_share)


def _nothing(server: Server) -> None:
    """It is looked up each time it is needed."""


# Settings that can change, and what there is to do then.
LIVE: dict[str, Callable[[Server], None]] = {
    "access_log": _nothing,
    "admin_hosts": _nothing,
    "default_profile": _default_profile,
    "default_server_timing": _default_server_timing,
    "default_tunnel": _default_tunnel,
    "grace": _nothing,
    **dict.fromkeys(("hooks", "hook_options", "hook_timeout", "hook_interval"), _nothing),
    "keep_requests": _keep_requests,
    "keep_requests_age": _keep_requests,
    "keep_requests_size": _keep_requests,
    "link_busy_share": _link_busy_share,
    "log_format": _log,
    "log_level": _log,
    "login_failures": _login_failures,
    "metrics_public": _nothing,
    "metrics_tunnels": _nothing,
    "request_redact": _request_redact,
    "request_sample": _request_sample,
    "tcp_ports": _tcp_ports,
    "webhook_secret": _nothing,  # with its file: server_hooks.py
    "webhook_secret_file": _nothing,
    "webhook_url": _nothing,
    **dict.fromkeys(
        (
            *("tls_cert", "tls_key", "tls_min_version", "tls_ticket_age"),
            *("tls_client_ca", "tls_client_crl", "tls_client_required"),
            *("admin_tls_cert", "admin_tls_key"),
        ),
        _nothing,
    ),
}
# Whether a listener has TLS at all does not change: what begins so waits if this one comes or goes.
SWITCHES = {"tls_": "tls_cert", "admin_tls_": "admin_tls_cert"}


def _is_live(key: str, old: Settings, new: Settings) -> bool:
    switches = [switch for start, switch in SWITCHES.items() if key.startswith(start)]
    return key in LIVE and all(
        bool(getattr(old, switch)) == bool(getattr(new, switch)) for switch in switches
    )


class Reloaded(NamedTuple):
    changed: list[str]  # in use from now on
    needs_restart: list[str]  # differ from what the server runs with


def check(settings: Settings) -> None:
    """What config.load() can not see: the engine's options, listeners, files. Raises UsageError."""
    make_engine("server", settings).stop()
    if settings.webhook_secret_file != "-":
        config.secret(settings, "webhook_secret")
    listeners.chosen(settings)
    otlp.check(settings)


def apply(server: Server, settings: Settings) -> Reloaded:
    """Take over what can change. The settings have been checked.

    Raises: UsageError for certificates that are no good; then nothing has changed.
    """
    different = [
        key
        for key in config.KEYS
        if key not in config.CLIENT_KEYS and getattr(settings, key) != getattr(server.settings, key)
    ]
    changed = [key for key in different if _is_live(key, server.settings, settings)]
    news = {key: getattr(settings, key) for key in changed}
    new = msgspec.structs.replace(server.settings, **news)
    certificates = server.tls.prepare(new)
    hooks = server.hooks.prepare(new)
    server.settings = new
    server.tls.use(certificates)
    server.hooks.use(new, hooks)
    for key in changed:
        LIVE[key](server)
    return Reloaded(changed, [key for key in different if key not in changed])
