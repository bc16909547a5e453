"""TLS 1.3 of the admin listener, by Python's own ssl."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy_engine.errors import UsageError
from proxy_engine.tls.server import admin_pair

if TYPE_CHECKING:
    import ssl

    from proxy_engine.settings.config import Settings


def admin_context(settings: Settings) -> ssl.SSLContext | None:
    """None: the admin listener is plain. Raises UsageError."""
    if not settings.admin_tls_cert:
        return None
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["http/1.1"])
    refresh(context, settings)
    return context


def refresh(context: ssl.SSLContext, settings: Settings) -> None:
    """New connections get what the files hold now. Raises UsageError."""
    files = admin_pair(settings)
    try:
        context.load_cert_chain(files.certificate, files.key, password=_no_passphrase)
    except (OSError, ValueError) as error:
        raise UsageError(f"admin_tls_cert {files.certificate}: {error}") from None


def _no_passphrase() -> str:
    raise ValueError("the key has a passphrase")
