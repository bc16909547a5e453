"""Where the server listens, and what that makes of its public URLs.

An address without a scheme means TLS as soon as there is a certificate, so that nobody who
gives one is served plain by an oversight: plain beside it is asked for by http://.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING

from proxy_engine.errors import ListenError, UsageError, error_text
from proxy_engine.values import Address, Listen

if TYPE_CHECKING:
    from proxy_engine.settings.config import Settings
    from proxy_engine_core.core import Engine, TlsServer

_DEFAULT_PORTS = {"http": 80, "https": 443}


def chosen(settings: Settings) -> list[Listen]:
    """Those of the settings, each with its scheme. Raises UsageError."""
    default = "https" if settings.tls_cert else "http"
    found = [each if each.scheme else each._replace(scheme=default) for each in settings.listen]
    for each in found:
        if each.scheme == "https" and not settings.tls_cert:
            raise UsageError(f"listen: {each} needs a certificate: give tls_cert and tls_key")
    if settings.tls_cert and all(each.scheme == "http" for each in found):
        raise UsageError("tls_cert is given, but every listen is http://")
    if settings.https_redirect and len({each.scheme for each in found}) == 1:
        raise UsageError("https_redirect needs a listen with http:// and one with https://")
    return found


def public(listeners: Sequence[Listen]) -> Listen:
    """The one that URLs name: the first with TLS, else the first."""
    return next((each for each in listeners if each.scheme == "https"), listeners[0])


def origin(scheme: str, host: str, port: int) -> str:
    """Scheme, host and, where it is not the usual one, port."""
    suffix = "" if _DEFAULT_PORTS[scheme] == port else f":{port}"
    return f"{scheme}://{host}{suffix}"


def listen(engine: Engine, listener: Listen, tls: TlsServer | None) -> Listen:
    """Have the engine listen there; the answer has the port. Raises ListenError."""
    address = listener.address
    host = _literal(address)
    try:
        port = engine.listen(host, address.port, tls=tls)
    except (OSError, ValueError) as error:
        raise ListenError(f"can not listen on {address}: {error_text(error)}") from None
    return Listen(Address(host, port), listener.scheme)


def bind_admin(address: Address) -> socket.socket:
    """The socket of the admin API, bound and listening. Raises ListenError."""
    host = _literal(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, address.port), family=family)
    except OSError as error:
        raise ListenError(f"can not listen on {address} (admin): {error_text(error)}") from None


def shown(listener: Listen) -> str:
    """As people give it: without the scheme that they need not write."""
    return str(listener if listener.scheme == "https" else listener.address)


def _literal(address: Address) -> str:
    try:
        found: Sequence[tuple[object, ...]] = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM
        )
    except (OSError, UnicodeError) as error:
        raise ListenError(f"can not listen on {address}: {error_text(error)}") from None
    return str(found[0][4][0])  # type: ignore[index]
