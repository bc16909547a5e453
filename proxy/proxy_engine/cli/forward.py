"""proxy-engine forward: a local port that leads to a device's TCP tunnel."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from proxy_engine.cli.parser import (
    add_common,
    add_log,
    add_servers,
    add_setting,
    add_trust,
    settings,
)

if TYPE_CHECKING:
    from proxy_engine.agent.forwarding import Tunnel
    from proxy_engine.agent.servers import Servers
    from proxy_engine.settings.config import Settings
    from proxy_engine.tls.client import LinkTls
    from proxy_engine.values import Address


def add_parser(verbs: Any) -> None:
    parser = verbs.add_parser("forward", help="reach a device's TCP tunnel from a local port")
    parser.add_argument("local", metavar="[HOST:]PORT", help="to listen on; 0: any port")
    parser.add_argument("tunnel", metavar="DEVICE/TUNNEL", help="a TCP tunnel, private or public")
    add_servers(parser)
    add_trust(parser)
    add_setting(parser, "token", metavar="TOKEN", help="one that may (better: a file)")
    add_setting(parser, "token_file", metavar="FILE", help="read the token from a file, - stdin")
    add_log(parser)
    add_common(parser, run)


def run(args: argparse.Namespace) -> int:
    chosen = settings(args)
    from proxy_engine.agent.forwarding import Tunnel
    from proxy_engine.cli.output import process
    from proxy_engine.errors import UsageError
    from proxy_engine.tokens import is_name
    from proxy_engine.values import LABEL, parse_address

    device, _, name = args.tunnel.partition("/")
    if not is_name(device) or not LABEL.fullmatch(name):
        raise UsageError(f'"{args.tunnel}" is not DEVICE/TUNNEL')
    local = args.local if ":" in args.local else f"127.0.0.1:{args.local}"
    try:
        address = parse_address(local)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if not chosen.server:
        raise UsageError("which server? give --server URL")
    from proxy_engine.agent.composed import find_servers
    from proxy_engine.agent.device_token import read_token
    from proxy_engine.agent.servers import Servers
    from proxy_engine.runner import run_async
    from proxy_engine.tls.client import LinkTls

    token = read_token(chosen)
    tls = LinkTls(chosen)
    with process(chosen.log_format, chosen.log_level):
        servers = Servers(find_servers(chosen, tls), "tcp")
        return run_async(_forward(chosen, token, address, Tunnel(device, name), servers, tls))


async def _forward(
    chosen: Settings,
    token: str,
    local: Address,
    tunnel: Tunnel,
    servers: Servers,
    tls: LinkTls,
) -> int:
    import asyncio

    from proxy_engine.agent.forwarding import Forwarder
    from proxy_engine.agent.reach import Reacher
    from proxy_engine.agent.targets import resolve
    from proxy_engine.cli.output import complain, say
    from proxy_engine.cli.signals import Signals
    from proxy_engine.errors import EXIT_FAILURE, EXIT_OK, ProxyEngineError, error_text

    signals = Signals()
    failure: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def refused(reason: str) -> None:
        if not failure.done():
            failure.set_result(reason)

    reach = Reacher(resolve, proxy=chosen.proxy)
    forwarder = Forwarder(servers, reach, token, tunnel, refused, tls.trust)
    try:
        port = await forwarder.listen(local.host, local.port)
    except OSError as error:
        raise ProxyEngineError(f"can not listen on {local}: {error_text(error)}") from None
    say(f"{local._replace(port=port)} -> {tunnel.device}/{tunnel.name}")
    stop = asyncio.create_task(signals.first())
    stop.add_done_callback(lambda _: failure.cancel())
    await asyncio.wait([failure])
    stop.cancel()
    await forwarder.close()
    if failure.cancelled():
        return EXIT_OK
    complain(failure.result())
    return EXIT_FAILURE
