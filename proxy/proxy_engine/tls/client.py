"""TLS towards servers and targets: what is trusted and shown, from files.

Files are read again when they have changed, before the next connection. If something is wrong with
them then, the last good ones stay, and the log says so. There is no way to trust any server; a
target may be taken with any certificate, if it is named.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from proxy_engine import logs
from proxy_engine.errors import UsageError, error_text
from proxy_engine.tls import key_files
from proxy_engine.tls.key_files import PairFiles, Watch
from proxy_engine.tls.server import read_pair
from proxy_engine_core.core import TlsClient

if TYPE_CHECKING:
    import ssl

    from proxy_engine.agent.servers import ServerUrl
    from proxy_engine.agent.tls_pipe import Trust
    from proxy_engine.settings.config import Settings

_log = logs.get("tls")


class LinkTls:
    """Towards servers. Each keeps its sessions, so that the next handshake is shorter."""

    def __init__(self, settings: Settings) -> None:
        """Raises UsageError."""
        if settings.key and not settings.cert:
            raise UsageError("key needs cert")
        if settings.crl and not settings.ca:
            raise UsageError("crl needs ca")
        self._settings = settings
        files = (settings.ca, settings.crl, settings.cert, settings.key)
        self._watch = Watch(filter(None, files))
        self._options = self._read()
        self._clients: dict[str, TlsClient] = {}  # by server name
        self._context: ssl.SSLContext | None = None

    def __call__(self, server: ServerUrl) -> TlsClient | None:
        """How to speak to it; None: plain. Raises UsageError where there is no TLS."""
        if not server.is_tls:
            return None
        if self._watch.changed():
            self._read_again()
        name = self._settings.server_name or server.host
        if name not in self._clients:
            self._clients[name] = _client(name, f"server {server.authority}", **self._options)
        return self._clients[name]

    def trust(self, server: ServerUrl) -> Trust | None:
        """The same for Python's own TLS. Raises UsageError for files that are no good now."""
        if not server.is_tls:
            return None
        from proxy_engine.agent.tls_pipe import Trust

        if self._context is None:
            self._context = self._python_context()
        elif self._watch.changed():
            try:
                self._context = self._python_context()
            except UsageError as error:
                _log.error("certificates not reloaded, the last good ones stay", error=error)
        return Trust(
            self._context, self._settings.server_name or server.host, self._options["pins"]
        )

    def _python_context(self) -> ssl.SSLContext:
        import ssl

        settings = self._settings
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        is_old = settings.tls_min_version == "1.2"
        context.minimum_version = ssl.TLSVersion.TLSv1_2 if is_old else ssl.TLSVersion.TLSv1_3
        context.set_alpn_protocols(["http/1.1"])
        try:
            if settings.cert:
                context.load_cert_chain(settings.cert, settings.key or None)
            if settings.ca:
                context.load_verify_locations(settings.ca)
            elif settings.pin:
                context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            else:
                context.load_default_certs()
            if settings.crl:
                context.load_verify_locations(settings.crl)
                context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
        except OSError as error:
            raise UsageError(error_text(error)) from None
        return context

    def _read(self) -> dict[str, Any]:
        settings = self._settings
        found: dict[str, Any] = {
            "minimum": settings.tls_min_version,
            "pins": [base64.b64decode(pin.partition("/")[2]) for pin in settings.pin],
        }
        for name in ("ca", "crl"):
            path = getattr(settings, name)
            if path:
                found[name] = key_files.read(path, name)
                _client("localhost", f"{name} {path}", **found)
        if settings.cert:
            files = PairFiles(settings.cert, settings.key or settings.cert)
            identity, _ = read_pair(files, "cert", "key")
            found["chain"], found["key"] = identity[1:]
        return found

    def _read_again(self) -> None:
        try:
            self._options = self._read()
        except UsageError as error:
            _log.error("certificates not reloaded, the last good ones stay", error=error)
        else:
            self._clients = {}
            _log.info("certificates reloaded", server_name=self._settings.server_name or None)


class TargetTls:
    """Towards the targets of https:// tunnels."""

    def __init__(self, settings: Settings) -> None:
        """Raises UsageError."""
        found = {**settings.http, **{each.name: each.where() for each in settings.tunnels}}
        targets = {name: target for name, target in found.items() if target.is_tls}
        for setting in ("target_ca", "target_server_name", "target_insecure"):
            for name in getattr(settings, setting):
                if name not in targets:
                    raise UsageError(f'{setting}: no tunnel "{name}" leads to an https:// target')
        for name in settings.target_insecure:
            if name in settings.target_ca:
                raise UsageError(f'target_ca and target_insecure are both given for "{name}"')
            _log.warning("the certificate of a target is not checked", tunnel=name)
        self._targets = targets
        self._settings = settings
        self._watch = Watch(settings.target_ca.values())
        self._clients = {name: self._make(name) for name in targets}

    def __call__(self) -> Mapping[str, TlsClient]:
        """How to speak to the targets of these tunnels."""
        if self._watch.changed():
            for name in self._settings.target_ca:
                try:
                    self._clients[name] = self._make(name)
                except UsageError as error:
                    _log.error("target_ca not reloaded, the last good stays", error=error)
        return dict(self._clients)

    def _make(self, name: str) -> TlsClient:
        settings = self._settings
        ca = settings.target_ca.get(name, "")
        return _client(
            settings.target_server_name.get(name) or self._targets[name].address.host,
            f"target_ca {ca}" if ca else f"tunnel {name}",
            ca=key_files.read(ca, "target_ca") if ca else b"",
            insecure=name in settings.target_insecure,
            minimum=settings.tls_min_version,
        )


def _client(name: str, what: str, **options: Any) -> TlsClient:
    try:
        return TlsClient(name, **options)
    except ValueError as error:
        raise UsageError(f"{what}: {error}") from None
