"""Where the server listens, and what that makes of its public URLs.

An address without a scheme means TLS as soon as there is a certificate, so that nobody who
gives one is served plain by an oversight: plain beside it is asked for by http://.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from proxy_engine.errors import UsageError
from proxy_engine.values import Listen

if TYPE_CHECKING:
    from proxy_engine.settings.config import Settings

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
