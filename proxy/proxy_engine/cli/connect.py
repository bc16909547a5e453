"""proxy-engine connect: the agent."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from proxy_engine.cli.parser import add_common, add_process, add_servers, add_setting, settings

if TYPE_CHECKING:
    from proxy_engine.config import Settings
    from proxy_engine.control import PublicTunnel
    from proxy_engine.values import Address, PortTunnel


def add_parser(verbs: Any) -> None:
    parser = verbs.add_parser("connect", help="connect this device's services to a server")
    add_servers(parser)
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
        help="serve this target as tunnel NAME; repeatable",
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
    add_setting(
        parser,
        "allow_target",
        metavar="NETWORK[:PORTS]",
        action="append",
        help="where services may be, such as 127.0.0.0/8:3000-4000; repeatable [anywhere]",
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
    add_process(parser, "agent")
    add_common(parser, run)


def run(args: argparse.Namespace) -> int:
    chosen = settings(args)
    from proxy_engine.errors import UsageError

    if not chosen.server:
        raise UsageError("which server? give --server URL")
    if not chosen.http and not chosen.tcp and not chosen.udp:
        raise UsageError(
            "which services? give --http NAME=HOST:PORT, --tcp PORT=HOST:PORT or --udp ..."
        )
    token = read_token(chosen)
    chosen = _named(chosen, token)
    from proxy_engine import logs
    from proxy_engine.reach import proxy_for
    from proxy_engine.runner import run_async
    from proxy_engine.servers import parse_server

    for url in chosen.server:
        proxy_for(parse_server(url), chosen.proxy)
    logs.setup(chosen.log_format)
    try:
        return run_async(_connect(chosen, token))
    finally:
        logs.flush()


def read_token(chosen: Settings) -> str:
    """The token, wherever it is. Raises UsageError."""
    from proxy_engine.config import secret
    from proxy_engine.errors import UsageError

    token = secret(chosen, "token")
    if not token:
        raise UsageError("which token? give --token-file FILE or PROXY_ENGINE_TOKEN")
    if not token.isascii() or not token.isprintable() or " " in token:
        raise UsageError("the token holds characters that no token has")
    return token


def _named(chosen: Settings, token: str) -> Settings:
    """Every TCP and UDP tunnel with a name. One without any has the same at each start, so that
    it gets the same port, and another than other devices'."""
    import hashlib
    from collections import Counter

    import msgspec

    from proxy_engine.control import TUNNELS_MAX
    from proxy_engine.errors import UsageError

    def named(kind: str, tunnel: PortTunnel) -> PortTunnel:
        if tunnel.name:
            return tunnel
        digest = hashlib.blake2s(f"{token} {tunnel.target}".encode()).hexdigest()[:12]
        return tunnel._replace(name=f"{kind}-{digest}")

    tcp = {key: named("tcp", tunnel) for key, tunnel in chosen.tcp.items()}
    udp = {key: named("udp", tunnel) for key, tunnel in chosen.udp.items()}
    names = [*chosen.http, *(tunnel.name for tunnel in (*tcp.values(), *udp.values()))]
    for name, count in Counter(names).items():
        if count > 1:
            raise UsageError(f'tunnel "{name}" is given twice')
    if len(names) > TUNNELS_MAX:
        raise UsageError(f"{len(names)} tunnels; an agent has at most {TUNNELS_MAX}")
    for word in chosen.proxy_protocol:
        if not any(_is_meant(word, key, tunnel) for key, tunnel in tcp.items()):
            raise UsageError(f'--proxy-protocol: there is no TCP tunnel "{word}"')
    return msgspec.structs.replace(chosen, tcp=tcp, udp=udp)


def _is_meant(word: str, key: str, tunnel: PortTunnel) -> bool:
    return word in (key, tunnel.name, str(tunnel.port))


def _targets(chosen: Settings) -> dict[str, Address]:
    others = (*chosen.tcp.values(), *chosen.udp.values())
    return {**chosen.http, **{tunnel.name: tunnel.target for tunnel in others}}


def _flags(chosen: Settings) -> dict[str, int]:
    from proxy_engine_core.core import TARGET_PROXY_HEADER, TARGET_TCP, TARGET_UDP

    flags = {tunnel.name: TARGET_UDP for tunnel in chosen.udp.values()}
    for key, tunnel in chosen.tcp.items():
        wants = any(_is_meant(word, key, tunnel) for word in chosen.proxy_protocol)
        flags[tunnel.name] = TARGET_TCP | (TARGET_PROXY_HEADER if wants else 0)
    return flags


async def _connect(chosen: Settings, token: str) -> int:
    import asyncio

    from proxy_engine.agent import Agent
    from proxy_engine.cli.signals import Signals
    from proxy_engine.control import TunnelSpec
    from proxy_engine.errors import EXIT_FAILURE, EXIT_OK
    from proxy_engine.reach import Reacher
    from proxy_engine.runner import EngineRunner, make_engine
    from proxy_engine.servers import Servers, parse_server
    from proxy_engine.targets import Targets, resolve

    signals = Signals()
    engine = make_engine("agent", chosen)
    agent = Agent(
        engine,
        servers=Servers([parse_server(url) for url in chosen.server], chosen.transport),
        token=token,
        targets=Targets(
            engine, _targets(chosen), resolve, _flags(chosen), allowed=chosen.allow_target
        ),
        tunnels=[
            *(TunnelSpec(name) for name in chosen.http),
            *(TunnelSpec(tunnel.name, "tcp", tunnel.port) for tunnel in chosen.tcp.values()),
            *(TunnelSpec(tunnel.name, "udp", tunnel.port) for tunnel in chosen.udp.values()),
        ],
        reach=Reacher(resolve, proxy=chosen.proxy),
        announce=lambda public: _announce(chosen, public),
        call_later=asyncio.get_running_loop().call_later,
        device=chosen.device,
        links_max=chosen.links,
        is_configurable=chosen.allow_remote_config,
    )
    runner = EngineRunner(engine, agent.on_event)
    runner.start()
    agent.start()
    try:
        stop = asyncio.create_task(signals.first())
        ended = asyncio.create_task(agent.ended.wait())
        await asyncio.wait({stop, ended}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        ended.cancel()
        for line in agent.failure:
            _complain(line)
        # Even an agent that was replaced has requests under way that can still be answered.
        agent.drain()
        code = await signals.finish(runner.drain(chosen.grace))
        return EXIT_OK if code == EXIT_OK and not agent.failure else EXIT_FAILURE
    finally:
        await agent.close()
        await runner.stop()


def _complain(line: str) -> None:
    from proxy_engine.text import escape, scrub

    print(f"proxy-engine: error: {scrub(escape(line))}", file=sys.stderr, flush=True)


def _announce(chosen: Settings, public: list[PublicTunnel]) -> None:
    from proxy_engine.cli.output import box, is_terminal
    from proxy_engine.text import escape

    targets = {name: str(target) for name, target in _targets(chosen).items()}
    if chosen.log_format == "json":
        tunnels = [
            {"name": x.name, "kind": x.kind, "url": x.url, "target": targets.get(x.name, "")}
            for x in public
        ]
        print(json.dumps({"event": "connected", "tunnels": tunnels}), flush=True)
        return
    lines = [escape(f"{x.url} -> {targets.get(x.name, '?')}") for x in public]
    box("connected" if is_terminal() else "", lines or ["no tunnels"])
