"""A TCP connection to the server: by any of its addresses, or through an HTTP proxy.

A name's addresses are raced, IPv4 and IPv6 in turn, each a quarter of a second behind the one
before (RFC 8305). A resolver that is away is no reason to stay away: the addresses that it
found last are good until it finds others. Through a proxy the name is left to the proxy, which
is asked to CONNECT (RFC 9110 section 9.3.6).
"""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies_environment, proxy_bypass

from aiohappyeyeballs import AddrInfoType, start_connection

from proxy_engine.agent.servers import ServerUrl
from proxy_engine.agent.targets import Resolve
from proxy_engine.errors import UsageError

RACE_DELAY = 0.25  # seconds; RFC 8305 section 5
TIMEOUT = 10.0  # seconds for all of it
ANSWER_SIZE_MAX = 16 * 1024  # bytes of a proxy's answer to CONNECT


class Reached(NamedTuple):
    """What Engine.dial() is given."""

    host: str  # the peer's address: the server's or a proxy's
    port: int
    fd: int  # connected; -1: none yet
    is_proxied: bool = False  # the peer is a proxy


Reach = Callable[[ServerUrl], Awaitable[Reached]]


class ProxyUrl(NamedTuple):
    host: str
    port: int
    authorization: str  # of Proxy-Authorization; "" for none


def parse_proxy(url: str) -> ProxyUrl:
    """Raises UsageError, which holds no password."""
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        port = parts.port
    except ValueError as error:
        raise UsageError(f"proxy: {error}") from None
    if parts.scheme != "http":
        raise UsageError(f"proxy: only http:// proxies are supported, not {parts.scheme}://")
    if not parts.hostname or port == 0 or parts.path not in ("", "/") or parts.query:
        raise UsageError("proxy: expected a URL such as http://proxy.example.com:3128")
    authorization = ""
    if parts.username is not None:
        user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        authorization = "Basic " + base64.b64encode(user.encode()).decode("ascii")
    return ProxyUrl(parts.hostname, port or 80, authorization)


def proxy_for(server: ServerUrl, chosen: str) -> ProxyUrl | None:
    """The proxy on the way to a server. Raises UsageError.

    Args:
        chosen: the setting `proxy`: a URL, "none", or "" for HTTP_PROXY, HTTPS_PROXY and NO_PROXY
            of the environment. Those never concern this very machine.
    """
    if chosen:
        return None if chosen == "none" else parse_proxy(chosen)
    found: Mapping[str, str] = getproxies_environment()
    order = ("https", "http") if server.is_tls else ("http", "https")
    url = found.get(order[0]) or found.get(order[1])
    if not url or is_loopback(server.host):
        return None
    if proxy_bypass(f"{server.host}:{server.port}"):  # NO_PROXY names it, with its port or without
        return None
    return parse_proxy(url)


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


class Reacher:
    """Makes connections; remembers the addresses of each name."""

    def __init__(self, resolve: Resolve, *, proxy: str = "") -> None:
        self._resolve = resolve
        self._proxy = proxy
        self._known: dict[str, list[str]] = {}

    async def __call__(self, server: ServerUrl) -> Reached:
        """Raises OSError saying what is wrong."""
        proxy = proxy_for(server, self._proxy)
        try:
            async with asyncio.timeout(TIMEOUT):
                if proxy is None:
                    sock = await self._connect(server.host, server.port)
                else:
                    sock = await self._connect(proxy.host, proxy.port)
                    try:
                        await _tunnel(sock, server, proxy)
                    except BaseException:
                        sock.close()
                        raise
        except TimeoutError:
            raise OSError("no connection in time") from None
        host, port = sock.getpeername()[:2]
        return Reached(host.partition("%")[0], port, sock.detach(), proxy is not None)

    async def _connect(self, host: str, port: int) -> socket.socket:
        try:
            self._known[host] = await self._resolve(host, port)
        except OSError as error:
            if host not in self._known:
                raise OSError(f"can not find {host}: {error.strerror or error}") from None
        infos = [_info(address, port) for address in self._known[host]]
        if not infos:
            raise OSError(f"can not find {host}: it has no address")
        return await start_connection(infos, happy_eyeballs_delay=RACE_DELAY, interleave=1)


def _info(address: str, port: int) -> AddrInfoType:
    if ":" in address:
        where6 = (address, port, 0, 0)
        return socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", where6
    return socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port)


async def _tunnel(sock: socket.socket, server: ServerUrl, proxy: ProxyUrl) -> None:
    loop = asyncio.get_running_loop()
    host = f"[{server.host}]" if ":" in server.host else server.host
    lines = [f"CONNECT {host}:{server.port} HTTP/1.1", f"Host: {host}:{server.port}"]
    if proxy.authorization:
        lines.append(f"Proxy-Authorization: {proxy.authorization}")
    await loop.sock_sendall(sock, ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
    answer = b""
    while b"\r\n\r\n" not in answer:
        part = await loop.sock_recv(sock, 4096)
        answer += part
        if not part or len(answer) > ANSWER_SIZE_MAX:
            raise OSError(f"the proxy {proxy.host} gave no usable answer to CONNECT")
    head, _, rest = answer.partition(b"\r\n\r\n")
    status = head.split(b"\r\n")[0].decode("latin-1").partition(" ")[2]
    if not head.startswith(b"HTTP/1.") or not status[:3].isdigit():
        raise OSError(f"the proxy {proxy.host} gave no usable answer to CONNECT")
    if not status.startswith("2"):
        raise OSError(f"the proxy {proxy.host} answered {status.strip()[:100]} to CONNECT")
    if rest:  # the server speaks second
        raise OSError(f"the proxy {proxy.host} sent more than its answer to CONNECT")
