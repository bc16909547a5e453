"""The TLS side of a forwarded connection, against Python's blocking TLS in a thread."""

from __future__ import annotations

import asyncio
import base64
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from proxy_engine.agent.pipe import Pipe
from proxy_engine.agent.tls_pipe import TlsPipe, Trust, has_name
from proxy_engine.errors import error_text
from tests.certificates import Authority, Pair

NAME = "proxy.test"
Serve = Callable[[ssl.SSLSocket], None]


class Far:
    """The far end: one connection, handed to `serve` in a thread once the handshake is done."""

    def __init__(self, folder: Path, pair: Pair, serve: Serve) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(*pair.write(folder))
        self._serve = serve
        self.near, far = socket.socketpair()
        self.near.setblocking(False)
        self._thread = threading.Thread(target=self._run, args=(far,), daemon=True)
        self._thread.start()

    def _run(self, sock: socket.socket) -> None:
        sock.settimeout(10)
        try:
            with self._context.wrap_socket(
                sock, server_side=True, suppress_ragged_eofs=False
            ) as tls:
                self._serve(tls)
        except OSError:
            pass

    def join(self) -> None:
        self._thread.join(10)


def _trust(authority: Authority, *pins: bytes) -> Trust:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=authority.pem.decode())
    return Trust(context, NAME, pins)


class Collector(Pipe):
    """The near side of a forwarded connection: what came, and how it ended."""

    def __init__(self) -> None:
        super().__init__()
        self.got = b""

    def write(self, data: bytes) -> None:
        self.got += data


async def _joined(far: Far, trust: Trust) -> tuple[TlsPipe, Collector, socket.socket]:
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    _, local = await loop.create_connection(Collector, sock=ours)
    _, pipe = await loop.create_connection(lambda: TlsPipe(trust), sock=far.near)
    await pipe.ready
    local.join(pipe)
    return pipe, local, theirs


def test_names_of_certificates() -> None:
    names = ("cn:a.test", "dns:Web.Example.test", "dns:*.other.test", "ip:192.0.2.1", "ip:::1")
    for name in ("web.example.test", "WEB.example.test.", "x.other.test", "192.0.2.1", "::1"):
        assert has_name(names, name), name
    for name in ("a.test", "other.test", "x.y.other.test", "192.0.2.2", "", ".other.test"):
        assert not has_name(names, name), name


async def test_each_direction_ends_by_itself(tmp_path: Path) -> None:
    authority = Authority()
    seen = []

    def serve(tls: ssl.SSLSocket) -> None:
        while data := tls.recv(65536):
            seen.append(data)
        tls.sendall(b"y" * 300_000)  # after the end of the other direction
        tls.unwrap()

    far = Far(tmp_path, authority.issue(NAME), serve)
    pipe, local, user = await _joined(far, _trust(authority))
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(user, b"x" * 500_000)
    user.shutdown(socket.SHUT_WR)
    await asyncio.wait_for(asyncio.wait([local.ended, pipe.ended]), 10)
    assert (sum(map(len, seen)), local.got) == (500_000, b"y" * 300_000)
    far.join()
    user.close()


async def test_a_connection_that_is_cut_is_reset_and_does_not_look_complete(tmp_path: Path) -> None:
    authority = Authority()

    def serve(tls: ssl.SSLSocket) -> None:
        tls.sendall(b"some")
        tls.recv(1)
        tls.shutdown(socket.SHUT_RDWR)  # of TCP: no close_notify

    far = Far(tmp_path, authority.issue(NAME), serve)
    pipe, local, user = await _joined(far, _trust(authority))
    reset = asyncio.Event()
    local.reset = reset.set  # type: ignore[method-assign]
    pipe.write(b"x")
    await asyncio.wait_for(reset.wait(), 10)
    assert local.got == b"some"
    far.join()
    local.transport.abort()
    user.close()


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("good", ""),
        ("expired", "its certificate has expired, or is not valid yet"),
        ("wrong name", "its certificate is not for proxy.test"),
    ],
)
async def test_a_pin_alone_leaves_dates_and_names_to_check(
    tmp_path: Path, kind: str, says: str
) -> None:
    authority = Authority("stranger")
    pair = {
        "good": lambda: authority.issue(NAME),
        "expired": lambda: authority.issue_expired(NAME),
        "wrong name": lambda: authority.issue("other.test"),
    }[kind]()
    far = Far(tmp_path, pair, lambda tls: None)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    trust = Trust(context, NAME, [base64.b64decode(pair.pin.partition("/")[2])])
    loop = asyncio.get_running_loop()
    _, pipe = await loop.create_connection(lambda: TlsPipe(trust), sock=far.near)
    found = ""
    try:
        await asyncio.wait_for(pipe.ready, 10)
    except ConnectionError as error:
        found = str(error)
    assert found == says
    pipe.transport.abort()
    far.join()


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("expired", "its certificate is refused: certificate has expired"),
        ("wrong name", "its certificate is refused: Hostname mismatch"),
        ("stranger", "its certificate is refused: unable to get local issuer certificate"),
        ("pin", "its public key is none of those pinned"),
    ],
)
async def test_what_the_server_shows_is_checked(tmp_path: Path, kind: str, says: str) -> None:
    authority = Authority()
    pair = {
        "expired": lambda: authority.issue_expired(NAME),
        "wrong name": lambda: authority.issue("other.test"),
        "stranger": lambda: Authority("stranger").issue(NAME),
        "pin": lambda: authority.issue(NAME),
    }[kind]()
    far = Far(tmp_path, pair, lambda tls: None)
    trust = _trust(authority, *([b"x" * 32] if kind == "pin" else []))
    loop = asyncio.get_running_loop()
    _, pipe = await loop.create_connection(lambda: TlsPipe(trust), sock=far.near)
    with pytest.raises((ssl.SSLError, ConnectionError)) as caught:
        await asyncio.wait_for(pipe.ready, 10)
    assert error_text(caught.value).startswith(says)
    far.join()
