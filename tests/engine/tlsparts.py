"""TLS for the tests of engines: who certifies whom, and Python's ssl as the other side."""

from __future__ import annotations

import socket
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from proxy_engine_core.core import TlsClient, TlsServer
from tests.certificates import Authority, Pair
from tests.engine.harness import PATIENCE, Server, Wire, serving

AUTHORITY = Authority()
STRANGER = Authority("nobody's CA")
WEB = AUTHORITY.issue("web.test", "127.0.0.1")


def server_tls(pair: Pair = WEB, **settings: Any) -> TlsServer:
    return TlsServer([((), pair.certificate, pair.key)], **settings)


def client_context(
    authority: Authority = AUTHORITY, pair: Pair | None = None, *, maximum: str = "1.3"
) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=authority.pem.decode())
    if maximum == "1.2":
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    if pair is not None:
        load(context, pair)
    return context


def server_context(pair: Pair = WEB, *, client_ca: Authority | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    load(context, pair)
    if client_ca is not None:
        context.load_verify_locations(cadata=client_ca.pem.decode())
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def load(context: ssl.SSLContext, pair: Pair) -> None:
    # Python's ssl reads them from files only.
    with tempfile.TemporaryDirectory() as folder:
        context.load_cert_chain(*pair.write(Path(folder)))


def client_tls(name: str = "web.test", **settings: Any) -> TlsClient:
    return TlsClient(name, **{"ca": AUTHORITY.pem, **settings})


@contextmanager
def serving_tls(workers: int = 1, /, pair: Pair = WEB, **options: Any) -> Iterator[Server]:
    tls = options.pop("tls", None) or server_tls(pair)
    client = options.pop("client", None) or client_context()
    with serving(workers, tls=tls, client=client, **options) as server:
        yield server


def tls_of(wire: Wire) -> ssl.SSLSocket:
    assert isinstance(wire.sock, ssl.SSLSocket)
    return wire.sock


class Record:
    """A TLS client whose ciphertext the test carries, byte by byte if it likes."""

    def __init__(self, port: int, context: ssl.SSLContext, name: str = "web.test") -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), PATIENCE)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=name)
        self.step = 0  # bytes sent at a time; 0: all

    def __enter__(self) -> Record:
        return self

    def __exit__(self, *what: object) -> None:
        self.sock.close()

    def ciphertext(self) -> bytes:
        return self._outgoing.read()

    def carry(self) -> None:
        data = self.ciphertext()
        for start in range(0, len(data), self.step or max(1, len(data))):
            self.sock.sendall(data[start : start + (self.step or len(data))])

    def receive(self) -> None:
        data = self.sock.recv(65536)
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    def shake_hands(self) -> None:
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                self.carry()
                self.receive()
            else:
                self.carry()
                return

    def send(self, data: bytes) -> None:
        self.tls.write(data)
        self.carry()

    def take(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            try:
                data += self.tls.read(size - len(data))
            except ssl.SSLWantReadError:
                self.receive()
        return data
