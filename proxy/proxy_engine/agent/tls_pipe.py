"""A forwarded connection's side that speaks TLS, each direction of which ends by itself.

asyncio's own TLS can not end only what it sends, and takes a connection that was cut for one that
ended. Here close_notify is the end of a direction, and a connection that ends without it is reset.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from typing import TYPE_CHECKING, NamedTuple

from proxy_engine.agent.pipe import Pipe
from proxy_engine_core.core import tls_certificate

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

READ_SIZE = 64 * 1024  # bytes; a TLS record holds up to 16 KiB


class Trust(NamedTuple):
    """What a server has to show."""

    context: ssl.SSLContext
    server_name: str
    pins: Sequence[bytes]  # SHA-256 of public keys; (): any


def has_name(names: Iterable[str], wanted: str) -> bool:
    """Whether a certificate with these names is for a host name or address (RFC 9525)."""
    host = wanted.lower().rstrip(".")
    label, _, rest = host.partition(".")
    return any(
        name.lower() in (f"dns:{host}", f"ip:{host}") or (label and name.lower() == f"dns:*.{rest}")
        for name in names
    )


class TlsPipe(Pipe):
    def __init__(self, trust: Trust) -> None:
        super().__init__()
        self._trust = trust
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = trust.context.wrap_bio(self._in, self._out, server_hostname=trust.server_name)
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._shake_hands()

    def data_received(self, data: bytes) -> None:
        self._in.write(data)
        if not self.ready.done():
            self._shake_hands()
        if self.ready.done() and not self.ready.exception():
            self._read()

    def _shake_hands(self) -> None:
        try:
            self._tls.do_handshake()
            self._check_pin()
        except ssl.SSLWantReadError:
            pass
        except (ssl.SSLError, ConnectionError) as error:
            self._flush()  # an alert says why
            self._fail(error)
            return
        else:
            self.ready.set_result(None)
        self._flush()

    def _check_pin(self) -> None:
        if not self._trust.pins:
            return
        der = self._tls.getpeercert(binary_form=True) or b""
        found = tls_certificate(ssl.DER_cert_to_PEM_cert(der).encode())
        if found.pin not in self._trust.pins:
            raise ConnectionError("its public key is none of those pinned")
        # Without an authority nobody else has looked at its dates and its name.
        if not found.not_before <= time.time() < found.not_after:
            raise ConnectionError("its certificate has expired, or is not valid yet")
        if not has_name(found.names, self._trust.server_name):
            raise ConnectionError(f"its certificate is not for {self._trust.server_name}")

    def _fail(self, error: Exception) -> None:
        if not self.ready.done():
            self.ready.set_exception(error)
        self.reset()

    def _read(self) -> None:
        try:
            while data := self._tls.read(READ_SIZE):
                super().data_received(data)
            super().eof_received()
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            super().eof_received()
        except ssl.SSLError:
            self.reset()
        self._flush()

    def write(self, data: bytes) -> None:
        try:
            self._tls.write(data)
        except ssl.SSLError:
            self.reset()
        self._flush()

    def finish(self) -> None:
        try:
            self._tls.unwrap()
        except ssl.SSLError:  # usually that the other side still has to end its direction
            pass
        self._flush()
        self._end_if_both()

    def _flush(self) -> None:
        data = self._out.read()
        if data and not self.transport.is_closing():
            self.transport.write(data)

    def eof_received(self) -> bool:
        if not self.is_ended:  # cut, and not ended by close_notify
            self._fail(ConnectionError("it closed the connection"))
        return True

    def connection_lost(self, error: Exception | None) -> None:
        if not self.ready.done():
            self.ready.set_exception(error or ConnectionError("it closed the connection"))
        super().connection_lost(error)
