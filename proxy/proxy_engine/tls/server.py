"""TLS of the server, as its files have it: read and checked as a whole."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from proxy_engine.errors import UsageError
from proxy_engine.tls import key_files
from proxy_engine.tls.key_files import PairFiles
from proxy_engine_core.core import TlsServer, tls_certificate

if TYPE_CHECKING:
    from proxy_engine.settings.config import Settings
    from proxy_engine_core.core import TlsIdentity


class Certificate(NamedTuple):
    """What one of ours says of itself."""

    file: str
    names: tuple[str, ...]  # "dns:www.example.com", "ip:192.0.2.1", "cn:..."
    not_before: int  # seconds since the epoch
    not_after: int

    def refusal(self, now: float) -> str:
        """Why nobody takes it at this moment, or ""."""
        if now < self.not_before:
            return f"{self.file}: the certificate is not valid before {_date(self.not_before)}"
        if now >= self.not_after:
            return f"{self.file}: the certificate expired on {_date(self.not_after)}"
        return ""


def _date(moment: int) -> str:
    return datetime.datetime.fromtimestamp(moment, datetime.UTC).isoformat(" ", "minutes")[:16]


class Loaded(NamedTuple):
    tls: TlsServer | None  # None: no listener has TLS
    certificates: list[Certificate]
    # The same with other keys of session tickets, without a look at the files.
    again: Callable[[Sequence[bytes]], TlsServer] | None = None


def load(settings: Settings, ticket_keys: Sequence[bytes] = ()) -> Loaded:
    """What the listeners show and ask for. Raises UsageError that names the file."""
    identities: list[TlsIdentity] = []
    certificates = []
    for files in key_files.pairs(settings.tls_cert, settings.tls_key, "tls_"):
        identity, certificate = read_pair(files, "tls_cert", "tls_key")
        identities.append(identity)
        certificates.append(certificate)
    for name, needed in (
        ("tls_client_crl", "tls_client_ca"),
        ("tls_client_required", "tls_client_ca"),
        ("tls_client_ca", "tls_cert"),
    ):
        if getattr(settings, name) not in ("", "no") and not getattr(settings, needed):
            raise UsageError(f"{name} needs {needed}")
    if not identities:
        return Loaded(None, [])
    options: dict[str, Any] = {"minimum": settings.tls_min_version}
    for option in ("client_ca", "client_crl"):
        path = getattr(settings, f"tls_{option}")
        if path:
            options[option] = key_files.read(path, f"tls_{option}")
            _make(identities, f"tls_{option} {path}", **options)
    options["client_required"] = settings.tls_client_required == "all"

    def again(keys: Sequence[bytes]) -> TlsServer:
        return _make(identities, "tls_cert", ticket_keys=keys, **options)

    return Loaded(again(ticket_keys), certificates, again)


def load_admin(settings: Settings) -> list[Certificate]:
    """The one of the admin listener, checked, if there is one. Raises UsageError."""
    if not settings.admin_tls_cert:
        if settings.admin_tls_key:
            raise UsageError("admin_tls_key needs admin_tls_cert")
        return []
    files = admin_pair(settings)
    return [read_pair(files, "admin_tls_cert", "admin_tls_key")[1]]


def admin_pair(settings: Settings) -> PairFiles:
    return PairFiles(settings.admin_tls_cert, settings.admin_tls_key or settings.admin_tls_cert)


def read_pair(files: PairFiles, cert: str, key: str) -> tuple[TlsIdentity, Certificate]:
    """A pair that belongs together. Raises UsageError.

    Args:
        cert, key: the settings that name its files.
    """
    is_one = files.key == files.certificate
    secret = key_files.read_key(files.key, cert if is_one else key)
    chain = secret if is_one else key_files.read(files.certificate, cert)
    try:
        found = tls_certificate(chain)
    except ValueError as error:
        raise UsageError(f"{cert} {files.certificate}: {error}") from None
    identity: TlsIdentity = ((), chain, secret)
    _make([identity], f"{cert} {files.certificate}")
    certificate = Certificate(files.certificate, found.names, found.not_before, found.not_after)
    return identity, certificate


def _make(identities: Sequence[TlsIdentity], what: str, **options: Any) -> TlsServer:
    try:
        return TlsServer(identities, **options)
    except ValueError as error:
        raise UsageError(f"{what}: {error}") from None


def files(settings: Settings) -> list[str]:
    """All that is read."""
    named = [settings.tls_client_ca, settings.tls_client_crl]
    named += [settings.admin_tls_cert, settings.admin_tls_key]
    return [*settings.tls_cert, *settings.tls_key, *filter(None, named)]
