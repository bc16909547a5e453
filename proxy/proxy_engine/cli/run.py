"""proxy-engine run: the server."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from proxy_engine.cli.parser import add_common, add_process, add_setting, add_store, loaded

if TYPE_CHECKING:
    from proxy_engine.app import Server
    from proxy_engine.cli.signals import Hangups
    from proxy_engine.settings.config import Loaded
    from proxy_engine.tokens import FirstRun


def add_parser(verbs: Any) -> None:
    parser = verbs.add_parser("run", help="run the server")
    add_setting(
        parser,
        "listen",
        metavar="HOST:PORT",
        action="append",
        help="for visitors and devices, also https://HOST:PORT; repeatable [0.0.0.0:8080]",
    )
    add_setting(parser, "admin", metavar="HOST:PORT", help="health and API [127.0.0.1:8081]")
    add_setting(
        parser, "admin_hosts", metavar="NAMES", help="more Host names that the API answers to"
    )
    add_setting(parser, "domain", metavar="NAME", help="tunnels are at TUNNEL.NAME [localhost]")
    add_store(parser)
    add_setting(
        parser,
        "trusted_proxy",
        metavar="CIDRS",
        help="load balancers whose X-Forwarded-For is true",
    )
    add_setting(parser, "default_tunnel", metavar="NAME", help="for requests that match no tunnel")
    add_setting(
        parser,
        "default_profile",
        metavar="PROFILE",
        help="of tunnels without one: balanced, throughput (bulk), latency (dialogues) [balanced]",
    )
    add_setting(
        parser,
        "default_server_timing",
        action=argparse.BooleanOptionalAction,
        help="tell browsers where the time went, unless a tunnel says otherwise",
    )
    add_setting(
        parser,
        "traces",
        metavar="HOW",
        help="traceparent: pass it on, start one where there is none, join with a span [pass]",
    )
    add_setting(
        parser, "trace_sample", metavar="SHARE", help="of the traces begun here, recorded [1]"
    )
    add_setting(
        parser, "keep_requests", metavar="N", help="requests kept in the log, 0: all [1000000]"
    )
    add_setting(
        parser, "keep_requests_age", metavar="TIME", help="... no older than, such as 30d [any age]"
    )
    add_setting(
        parser, "keep_requests_size", metavar="SIZE", help="... no larger than, such as 10GiB [any]"
    )
    add_setting(
        parser,
        "request_sample",
        metavar="SHARE",
        help="of the requests that went well, the share that is logged [1]",
    )
    add_setting(
        parser, "request_redact", metavar="KEYS", help="more keys of queries with secret values"
    )
    add_setting(
        parser,
        "access_log",
        action=argparse.BooleanOptionalAction,
        help="a line of the log for each request",
    )
    add_setting(
        parser,
        "request_journal_max",
        metavar="SIZE",
        help="log on disk while the store fails, 0: none [1GiB]",
    )
    add_setting(
        parser, "redis_url", metavar="URL", help="a Redis to share what is known of tokens [none]"
    )
    add_setting(parser, "redis_url_file", metavar="FILE", help="read its URL from a file")
    add_setting(parser, "redis_password_file", metavar="FILE", help="of the password for it")
    add_setting(
        parser,
        "metrics_public",
        action=argparse.BooleanOptionalAction,
        help="/metrics of the admin listener asks for no token",
    )
    add_setting(
        parser,
        "metrics_tunnels",
        metavar="N",
        help="tunnels with series of their own; the others are counted together",
    )
    _add_otlp(parser)
    add_setting(parser, "webhook_url", metavar="URL", help="is told of devices that come and go")
    add_setting(
        parser, "webhook_secret_file", metavar="FILE", help="of the secret that signs webhooks"
    )
    add_setting(
        parser,
        "hooks",
        metavar="NAMES",
        help="code that is asked and told: logger, module:Class, ... (docs/hooks.md)",
    )
    add_setting(parser, "hook_options", metavar="JSON", help="... its options, by name")
    add_setting(parser, "hook_timeout", metavar="TIME", help="for one call of a hook [5s]")
    add_setting(
        parser, "hook_interval", metavar="TIME", help="between two counts of bytes, 1s to 10s [5s]"
    )
    add_setting(
        parser, "login_failures", metavar="N", help="failed logins a minute of an address [20]"
    )
    add_setting(
        parser, "links_per_agent", metavar="N", help="links one agent may have [one a worker]"
    )
    add_setting(
        parser,
        "tcp_ports",
        metavar="RANGES",
        help="public ports that TCP tunnels may have [10000-20000]",
    )
    add_setting(
        parser,
        "link_busy_share",
        metavar="PERCENT",
        help="of a core: a worker this busy lets its agents make another link, 0: at once [60]",
    )
    add_setting(
        parser, "pool", metavar="N", help="direct connections an agent's link may keep ready [64]"
    )
    add_setting(
        parser,
        "debug",
        action=argparse.BooleanOptionalAction,
        help="serve /debug/ on the admin listener: profiles, dumps, what was slow",
    )
    add_setting(
        parser,
        "watchdog",
        metavar="TIME",
        help="report a worker that does not turn for so long, 0: never [10s]",
    )
    _add_tls(parser)
    add_process(parser, "server")
    add_common(parser, run)


def _add_tls(parser: argparse.ArgumentParser) -> None:
    add_setting(
        parser,
        "tls_cert",
        metavar="FILE",
        action="append",
        help="certificate (PEM, with what leads to its root); repeatable: chosen by SNI",
    )
    add_setting(
        parser,
        "tls_key",
        metavar="FILE",
        action="append",
        help="... its key, in the same order [in the file of the certificate]",
    )
    add_setting(parser, "tls_min_version", metavar="1.2|1.3", help="of TLS [1.3]")
    add_setting(
        parser,
        "tls_ticket_age",
        metavar="TIME",
        help="until another key seals session tickets [12h]",
    )
    add_setting(
        parser, "tls_client_ca", metavar="FILE", help="authorities (PEM) of devices' certificates"
    )
    add_setting(parser, "tls_client_crl", metavar="FILE", help="what those have revoked (PEM)")
    add_setting(
        parser,
        "tls_client_required",
        metavar="no|devices|all",
        help="who has to show a certificate [no]",
    )
    add_setting(
        parser,
        "https_redirect",
        action=argparse.BooleanOptionalAction,
        help="send what comes to an http:// listener to https",
    )
    add_setting(parser, "admin_tls_cert", metavar="FILE", help="TLS for the admin listener")
    add_setting(parser, "admin_tls_key", metavar="FILE", help="... its key")


def _add_otlp(parser: argparse.ArgumentParser) -> None:
    add_setting(
        parser,
        "otlp_endpoint",
        metavar="URL",
        help="a collector that gets metrics and traces, such as http://127.0.0.1:4318",
    )
    add_setting(parser, "otlp_metrics_endpoint", metavar="URL", help="... where metrics go instead")
    add_setting(parser, "otlp_traces_endpoint", metavar="URL", help="... where traces go instead")
    add_setting(parser, "otlp_signals", metavar="NAMES", help="what it gets [metrics,traces]")
    add_setting(
        parser, "otlp_headers_file", metavar="FILE", help="of NAME=VALUE,... that it is shown"
    )
    add_setting(
        parser, "otlp_interval", metavar="TIME", help="between two exports of metrics [60s]"
    )
    add_setting(
        parser,
        "otlp_sampler",
        metavar="NAME",
        help="which traces, by OpenTelemetry's names [parentbased_traceidratio]",
    )
    add_setting(parser, "otlp_sample", metavar="SHARE", help="... the share of them [1]")
    add_setting(parser, "otlp_service_name", metavar="NAME", help="of this server [proxy-engine]")
    add_setting(parser, "otlp_attributes", metavar="NAME=VALUE,...", help="more of its attributes")
    add_setting(parser, "otlp_timeout", metavar="TIME", help="for one POST to the collector [10s]")
    add_setting(parser, "otlp_compression", metavar="none|gzip", help="of what it gets [none]")
    add_setting(
        parser, "otlp_queue", metavar="SIZE", help="records that may wait to become spans [16MiB]"
    )
    add_setting(parser, "otlp_ca", metavar="FILE", help="authorities (PEM) of its certificate")
    add_setting(parser, "otlp_cert", metavar="FILE", help="certificate (PEM) that it is shown")
    add_setting(parser, "otlp_key", metavar="FILE", help="... its key")


def run(args: argparse.Namespace) -> int:
    from proxy_engine.cli.signals import Hangups

    hangups = Hangups()
    chosen = loaded(args, standard=True)
    from proxy_engine.cli.output import process
    from proxy_engine.runner import run_async

    with process(chosen.settings.log_format, chosen.settings.log_level):
        return run_async(_serve(chosen, lambda: loaded(args, standard=True), hangups))


async def _serve(chosen: Loaded, load: Callable[[], Loaded], hangups: Hangups) -> int:
    from proxy_engine import logs
    from proxy_engine.app import Server
    from proxy_engine.cli.signals import Signals

    signals = Signals()
    async with Server(chosen.settings, sources=chosen.sources, load=load) as server:
        if server.first_run is not None:
            _show_first_run(server, server.first_run)
        hangups.answer(server.reload_or_log)
        await signals.first()
        code = await signals.finish(server.drain(server.settings.grace))
    logs.get("server").info("stopped")
    return code


def _show_first_run(server: Server, made: FirstRun) -> None:
    from proxy_engine.cli.output import box, say

    flags = {"--server": server.url, "--token": made.device_token, "--http": "web=127.0.0.1:3000"}
    connect = "proxy-engine connect " + " ".join(
        f"{flag} {shlex.quote(value)}" for flag, value in flags.items()
    )
    if server.settings.log_format == "json":
        line = {
            "event": "first_run",
            "admin_token": made.admin_token,
            "device_token": made.device_token,
            "server": server.url,
            "connect": connect,
        }
        say(json.dumps(line))
        return
    box(
        "proxy-engine is ready",
        ["Admin token, shown only now:", made.admin_token],
        ["On the device, with a service on port 3000:", connect],
    )
