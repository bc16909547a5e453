"""Checks for the machine of an agent: its settings, the way to the server, its targets."""

from __future__ import annotations

import asyncio
import email.utils
import json
import socket
import time
from typing import TYPE_CHECKING

from proxy_engine.agent.reach import Reacher, is_loopback
from proxy_engine.agent.servers import parse_server
from proxy_engine.agent.targets import resolve
from proxy_engine.agent.tunnels import tunnels_of
from proxy_engine.agent_admin.server import admin_token
from proxy_engine.doctor import listening, machine
from proxy_engine.doctor.finding import Finding, Findings, error, ok, skipped, warning
from proxy_engine.errors import UsageError, error_text
from proxy_engine.settings.config import secret
from proxy_engine.tls.client import LinkTls, TargetTls
from proxy_engine.values import UNIX

if TYPE_CHECKING:
    import ssl

    from proxy_engine.agent.servers import ServerUrl
    from proxy_engine.agent.tunnels import AgentTunnel
    from proxy_engine.settings.config import Settings

TIMEOUT = 5.0  # seconds for anything on the network
ANSWER_SIZE_MAX = 16_384  # bytes
SKEW = 60.0  # seconds between two clocks


def check(settings: Settings) -> Findings:
    yield from machine.program()
    yield from machine.limits(0)
    yield machine.clock()
    token = ""
    try:
        token = secret(settings, "token")
        tunnels = tunnels_of(settings, token)
        LinkTls(settings)
        TargetTls(settings)
        yield ok("config", f"the settings fit together, {len(tunnels)} tunnels")
    except UsageError as problem:
        yield error("config", str(problem), "proxy-engine config show --sources says where from")
        tunnels = []
    if not token:
        yield error(
            "token", "there is none", "proxy-engine token create on the server; --token-file"
        )
    if not settings.server:
        yield error("server", "no server is given", "--server https://proxy.example.com")
    for url in settings.server:
        try:
            server = parse_server(url)
        except UsageError as problem:
            yield error("server", str(problem), "scheme, host and port")
            continue
        yield from asyncio.run(_server(server, url, settings, token))
    yield from asyncio.run(_targets(tunnels))
    yield from listener(settings)


def listener(settings: Settings) -> Findings:
    """The agent's own, if it is to have one."""
    address = settings.agent_admin
    if address is None:
        return
    try:
        admin_token(settings, address)
    except UsageError as problem:
        yield error("config.admin", str(problem), "the agent does not start with that")
        return
    if not is_loopback(address.host):
        yield warning(
            "config.admin",
            f"the agent's listener is at {address} and speaks plain HTTP",
            "its token passes it: 127.0.0.1, or a network that nobody else listens in",
        )
    if settings.debug:
        yield warning("config.debug", "/debug/ is on", "turn it off when it is not needed any more")
    yield listening.port("ports.admin", address, listening.runs(address, is_tls=False))


async def _server(server: ServerUrl, url: str, settings: Settings, token: str) -> list[Finding]:
    try:
        reached = await Reacher(resolve, proxy=settings.proxy)(server)
    except (OSError, UsageError) as problem:
        text = error_text(problem)
        return [
            error("server", f"{url}: {text}", "its name, its port, a firewall, a proxy on the way?")
        ]
    way = " through a proxy" if reached.is_proxied else ""
    found = [ok("server", f"{url} can be reached{way}, at {reached.host}")]
    connection = socket.socket(fileno=reached.fd)
    connection.setblocking(False)
    try:
        trust = LinkTls(settings).trust(server)
        context: ssl.SSLContext | None = trust.context if trust else None
        async with asyncio.timeout(TIMEOUT):
            reader, writer = await asyncio.open_connection(
                sock=connection,
                ssl=context,
                server_hostname=trust.server_name if trust else None,
            )
            # All of a request for a link but the Upgrade: what it says of the token.
            writer.write(
                f"GET /_proxy/link HTTP/1.1\r\nHost: {server.authority}\r\n"
                f"Authorization: Bearer {token}\r\nConnection: close\r\n\r\n".encode()
            )
            head, _, body = (await reader.read(ANSWER_SIZE_MAX)).partition(b"\r\n\r\n")
            writer.close()
    except (OSError, UsageError, TimeoutError) as problem:
        text = error_text(problem) or type(problem).__name__
        return [
            *found,
            error("server.answer", f"{url}: {text}", "docs/errors.md#tls; is it the right port?"),
        ]
    return [*found, *answered(url, head.decode("latin-1"), body, time.time())]


def answered(url: str, head: str, body: bytes, now: float) -> Findings:
    """What the answer to a request for a link without an Upgrade tells."""
    lines = head.split("\r\n")
    fields = {
        name.lower(): value.strip()
        for name, _, value in (line.partition(":") for line in lines[1:])
    }
    try:
        code = str(json.loads(body)["error"])
    except (ValueError, TypeError, KeyError):
        yield error(
            "server.answer",
            f"{url}: what answers there is not proxy-engine",
            "the right URL, port?",
        )
        return
    yield ok("server.answer", f"{url}: proxy-engine answers")
    if code == "upgrade_required":
        yield ok("token", "the server takes it")
    else:
        advice = "docs/errors.md says what it means; proxy-engine token list on the server"
        yield error("token", f"the server refuses it: {code}", advice)
    try:
        there = email.utils.parsedate_to_datetime(fields["date"]).timestamp()
    except (ValueError, KeyError):  # the engine says none, something in front of it may
        return
    if abs(there - now) <= SKEW:
        yield ok("clock.server", "its clock and ours agree")
    else:
        yield warning(
            "clock.server",
            f"its clock and ours are {abs(there - now):.0f} s apart",
            "certificates and tokens are good by the time of day: run chrony on both",
        )


async def _targets(tunnels: list[AgentTunnel]) -> list[Finding]:
    return list(await asyncio.gather(*map(_target, tunnels)))


async def _target(tunnel: AgentTunnel) -> Finding:
    check = f"target.{tunnel.name}"
    where = tunnel.shown_target()
    if tunnel.kind == "udp":
        return skipped(check, f"{where}: UDP does not say whether somebody listens")
    try:
        async with asyncio.timeout(TIMEOUT):
            addresses = await resolve(tunnel.target.host, tunnel.target.port)
            await _connect(addresses, tunnel.target.port)
    except TimeoutError:
        return warning(check, f"{where} does not answer", "a firewall? visitors get 504")
    except OSError as problem:
        return warning(
            check,
            f"{where}: {error_text(problem)}",
            "is the service up? until then visitors get 502",
        )
    return ok(check, f"{where} takes connections")


async def _connect(addresses: list[str], port: int) -> None:
    last: OSError = OSError("it has no address")
    for address in addresses:
        try:
            if address.startswith(UNIX):
                _, writer = await asyncio.open_unix_connection(address.removeprefix(UNIX))
            else:
                _, writer = await asyncio.open_connection(address, port)
        except OSError as problem:
            last = problem
            continue
        writer.close()
        return
    raise last
