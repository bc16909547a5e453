"""proxy-engine connect: the agent."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from proxy_engine.cli.parser import (
    add_common,
    add_process,
    add_servers,
    add_setting,
    add_trust,
    settings,
)

if TYPE_CHECKING:
    from proxy_engine.agent.tunnels import AgentTunnel
    from proxy_engine.cli.signals import Hangups
    from proxy_engine.control import PublicTunnel
    from proxy_engine.settings.config import Settings


def add_parser(verbs: Any) -> None:
    parser = verbs.add_parser("connect", help="connect this device's services to a server")
    add_servers(parser)
    add_trust(parser)
    add_setting(parser, "token", metavar="TOKEN", help="the device's token (better: a file)")
    add_setting(parser, "token_file", metavar="FILE", help="read the token from a file, - stdin")
    add_setting(
        parser, "device", metavar="NAME", help="of this device, if the token is for several"
    )
    add_setting(
        parser,
        "http",
        metavar="NAME=HOST:PORT",
        action="append",
        help="serve this target, also https://HOST:PORT or unix:/PATH, as tunnel NAME; repeatable",
    )
    add_setting(
        parser,
        "tcp",
        metavar="PORT=HOST:PORT",
        action="append",
        help="... at a public port, 0: any; NAME:PORT= names it, NAME= is private; repeatable",
    )
    add_setting(
        parser,
        "udp",
        metavar="PORT=HOST:PORT",
        action="append",
        help="... a UDP service at a public port, 0: any; NAME:PORT= names it; repeatable",
    )
    add_setting(
        parser,
        "proxy_protocol",
        metavar="NAMES",
        help="TCP tunnels (or their ports) whose targets get a PROXY protocol v2 header",
    )
    _add_options(parser)
    add_setting(
        parser,
        "allow_target",
        metavar="NETWORK[:PORTS]|unix:PATH",
        action="append",
        help="where services may be, such as 127.0.0.0/8:3000-4000; repeatable [anywhere]",
    )
    add_setting(
        parser,
        "target_ca",
        metavar="NAME=FILE",
        action="append",
        help="authorities (PEM) of an https:// target's certificate [the system's]",
    )
    add_setting(
        parser,
        "target_server_name",
        metavar="NAME=HOST",
        action="append",
        help="... what it has to be for [the target's host]",
    )
    add_setting(
        parser,
        "target_insecure",
        metavar="NAMES",
        help="tunnels whose https:// targets may have any certificate",
    )
    add_setting(
        parser,
        "allow_remote_config",
        action="store_true",
        help="let the server's operator change targets, within --allow-target",
    )
    add_setting(
        parser,
        "transport",
        metavar="auto|ws|tcp",
        help="WebSocket, raw (faster), or what gets through [auto]",
    )
    add_setting(parser, "links", metavar="N", help="links to the server at most [what it offers]")
    add_setting(
        parser, "pool", metavar="N", help="direct connections for TCP kept ready, 0: none [64]"
    )
    add_setting(
        parser,
        "agent_admin",
        flag="--admin",
        metavar="HOST:PORT",
        help="serve /livez, /readyz, /health and /metrics of this agent here [nowhere]",
    )
    add_setting(
        parser,
        "agent_admin_token_file",
        flag="--admin-token-file",
        metavar="FILE",
        help="... to who has this token; needed where others can reach it",
    )
    add_setting(
        parser,
        "debug",
        action=argparse.BooleanOptionalAction,
        help="serve /debug/ there: profiles, stacks, what was slow",
    )
    add_process(parser, "agent")
    add_common(parser, run)


def _add_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "options of the tunnels",
        "Each for all HTTP tunnels, or with NAME= in front for one. All repeatable but the file; "
        "[[tunnels]] of the --config file has the same for one tunnel.",
    )
    for name, metavar, text in (
        ("domains", "DOMAIN", "a custom domain, if the token allows it"),
        ("allow", "NETWORK", "only visitors from here, such as 192.0.2.0/24"),
        ("deny", "NETWORK", "no visitors from here"),
        ("basic_auth", "USER:PASSWORD", "only with a password (better: a file)"),
        ("request_header", "HEADER", "set 'X-A: b' in requests; '+X-A: b' adds, 'X-A:' removes"),
        ("response_header", "HEADER", "the same in responses"),
        ("strip_prefix", "PATH", "take it off paths, such as /api"),
        ("profile", "PROFILE", "throughput, latency or balanced; without NAME= of TCP, too"),
        ("server_timing", "yes|no", "tell browsers where the time went, in Server-Timing"),
        ("host_header", "HOST", "the Host that the target sees; rewrite: its own address"),
    ):
        flag = "--domain" if name == "domains" else ""
        add_setting(group, name, flag=flag, metavar=f"[NAME=]{metavar}", action="append", help=text)
    add_setting(group, "basic_auth_file", metavar="FILE", help="read lines of [NAME=]USER:PASSWORD")


def run(args: argparse.Namespace) -> int:
    from proxy_engine.cli.signals import Hangups

    hangups = Hangups()
    chosen = settings(args)
    from proxy_engine.agent.reload import check_services
    from proxy_engine.errors import UsageError

    if not chosen.server:
        raise UsageError("which server? give --server URL")
    check_services(chosen)
    from proxy_engine.cli.output import process
    from proxy_engine.runner import run_async

    with process(chosen.log_format, chosen.log_level):
        return run_async(_connect(chosen, lambda: settings(args), hangups))


async def _connect(chosen: Settings, load: Callable[[], Settings], hangups: Hangups) -> int:
    import asyncio
    from contextlib import AsyncExitStack

    from proxy_engine.agent.composed import ComposedAgent
    from proxy_engine.agent.reload import Reloader
    from proxy_engine.cli.output import complain
    from proxy_engine.cli.signals import Signals
    from proxy_engine.errors import EXIT_FAILURE, EXIT_OK

    signals = Signals()
    composed = ComposedAgent(
        chosen, announce=lambda public: _announce(composed.settings, composed.tunnels, public)
    )
    reloader = Reloader(composed, load)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(composed.close)
        stack.push_async_callback(reloader.close)
        if chosen.agent_admin is not None:
            from proxy_engine.agent_admin.server import AgentAdmin

            await stack.enter_async_context(AgentAdmin(composed).running())
        else:
            _warn_of_what_needs_admin(chosen)
        composed.start()
        hangups.answer(reloader.reload)
        agent = composed.agent
        stop = asyncio.create_task(signals.first())
        ended = asyncio.create_task(agent.ended.wait())
        await asyncio.wait({stop, ended}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        ended.cancel()
        for error in agent.failure:
            complain(str(error))
        # Even an agent that was replaced has requests under way that can still be answered.
        code = await signals.finish(composed.drain(composed.settings.grace))
        return EXIT_OK if code == EXIT_OK and not agent.failure else EXIT_FAILURE


def _warn_of_what_needs_admin(chosen: Settings) -> None:
    """No more than a warning: a file for `run`, too, may say `debug`."""
    from proxy_engine import logs

    wanted = [
        key
        for key in ("debug", "agent_admin_token", "agent_admin_token_file")
        if getattr(chosen, key)
    ]
    if wanted:
        message = "settings do nothing without agent_admin (--admin HOST:PORT)"
        logs.get("agent").warning(message, settings=",".join(wanted))


def _announce(chosen: Settings, tunnels: list[AgentTunnel], public: list[PublicTunnel]) -> None:
    from proxy_engine.cli.output import box, is_terminal, say
    from proxy_engine.text import escape

    targets = {tunnel.name: tunnel.shown_target() for tunnel in tunnels}
    if chosen.log_format == "json":
        found = [
            {
                "name": x.name,
                "kind": x.kind,
                "url": x.url,
                "domains": x.domains,
                "target": targets.get(x.name, ""),
            }
            for x in public
        ]
        say(json.dumps({"event": "connected", "tunnels": found}))
        return
    lines = [
        escape(f"{url} -> {targets.get(x.name, '?')}")
        for x in public
        for url in (x.url, *x.domains)
    ]
    box("connected" if is_terminal() else "", lines or ["no tunnels"])
