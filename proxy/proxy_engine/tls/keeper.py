"""Keeps the server's certificates up to date: read again when their files change.

New connections get the new ones, those that are there go on. If anything is wrong with what is
there now, the last good ones stay, and the log says so, once for each change of the files.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from proxy_engine import failures, logs
from proxy_engine.errors import UsageError
from proxy_engine.tls import server as server_tls
from proxy_engine.tls.key_files import Watch
from proxy_engine.tls.server import Certificate, Loaded
from proxy_engine.tls.ticket_keys import TicketKeys

if TYPE_CHECKING:
    from proxy_engine.settings.config import Settings
    from proxy_engine_core.core import TlsServer

DAY = 86400.0  # seconds
WARN_DAYS = (0, 1, 7, 30)  # before a certificate ends: each is said once

_log = logs.get("tls")


class Read(NamedTuple):
    """All that the files of some settings hold."""

    listeners: Loaded
    admin: list[Certificate]

    @property
    def certificates(self) -> list[Certificate]:
        return [*self.listeners.certificates, *self.admin]


class Prepared(NamedTuple):
    settings: Settings
    watch: Watch
    read: Read


def read(settings: Settings, ticket_keys: Sequence[bytes] = ()) -> Read:
    """Raises UsageError."""
    return Read(server_tls.load(settings, ticket_keys), server_tls.load_admin(settings))


def check(settings: Settings, now: float) -> None:
    """Whether everybody would take these certificates now. Raises UsageError."""
    for certificate in read(settings).certificates:
        if refusal := certificate.refusal(now):
            raise UsageError(refusal)


class TlsKeeper:
    """
    Args:
        apply: called with what the listeners are to use from now on, if any has TLS.
        apply_admin: called when the pair of the admin listener is to be read again.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        apply: Callable[[TlsServer], None] = lambda tls: None,
        apply_admin: Callable[[Settings], None] = lambda settings: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Raises UsageError."""
        self.apply = apply
        self.apply_admin = apply_admin
        self._clock = clock
        self._settings = settings
        self._watch = Watch(server_tls.files(settings))
        self._tickets = TicketKeys(settings.tls_ticket_age, clock)
        self._read = read(settings, self._tickets.keys)
        self._warned: dict[Certificate, int] = {}  # the last of WARN_DAYS that was said
        self.reloads = 0
        self.failures = 0

    @property
    def tls(self) -> TlsServer | None:
        return self._read.listeners.tls

    @property
    def certificates(self) -> list[Certificate]:
        return self._read.certificates

    async def look(self) -> None:
        """Now and then: whether files have changed, and certificates are about to end."""
        if self._watch.changed(at_rest=True):
            try:
                # In a thread: they may be on a network.
                found = await asyncio.to_thread(self._read_good, self._settings)
            except UsageError as error:
                self.failures += 1
                failures.error(
                    _log,
                    "tls",
                    "reload",
                    "certificates not reloaded, the last good ones stay",
                    error=error,
                )
            else:
                self._use(found)
        await self._renew_tickets()
        self.warn()

    async def _renew_tickets(self) -> None:
        listeners = self._read.listeners
        if not self._tickets.rotate() or listeners.again is None:
            return
        tls = await asyncio.to_thread(listeners.again, self._tickets.keys)
        if self._read.listeners is listeners:  # else they were read again meanwhile
            self._read = self._read._replace(listeners=listeners._replace(tls=tls))
            self.apply(tls)

    def prepare(self, settings: Settings) -> Prepared:
        """What the files of these settings hold now, for use(). Raises UsageError."""
        watch = Watch(server_tls.files(settings))
        return Prepared(settings, watch, self._read_good(settings))

    def use(self, prepared: Prepared) -> None:
        self._settings, self._watch, found = prepared
        self._tickets.age = self._settings.tls_ticket_age
        self._use(found)
        self.warn()

    def _read_good(self, settings: Settings) -> Read:
        """One that nobody takes is no better than the one in use."""
        found = read(settings, self._tickets.keys)
        in_use = set(self.certificates)
        now = self._clock()
        for certificate in found.certificates:
            if certificate not in in_use and (refusal := certificate.refusal(now)):
                raise UsageError(refusal)
        return found

    def _use(self, found: Read) -> None:
        self._read = found
        self._warned = {x: self._warned[x] for x in self.certificates if x in self._warned}
        if found.listeners.tls is not None:
            self.apply(found.listeners.tls)
        if found.admin:
            self.apply_admin(self._settings)
        if found.certificates:
            self.reloads += 1
            _log.info("certificates reloaded", files=",".join(x.file for x in found.certificates))

    def warn(self) -> None:
        """Say ahead which certificates end."""
        now = self._clock()
        for certificate in self.certificates:
            left = (certificate.not_after - now) / DAY
            due = [days for days in WARN_DAYS if left <= days]
            if now < certificate.not_before:
                due = [0]
            if not due or self._warned.get(certificate, due[0] + 1) <= due[0]:
                continue
            self._warned[certificate] = due[0]
            if refusal := certificate.refusal(now):
                failures.error(
                    _log, "tls", "refused", "a certificate that nobody takes", reason=refusal
                )
            else:
                failures.warning(
                    _log,
                    "tls",
                    "expiry",
                    "a certificate ends soon",
                    file=certificate.file,
                    days=round(left, 1),
                )

    def stats(self) -> dict[str, int]:
        """Nothing without TLS: days of 0 mean that a certificate has ended."""
        if not self.certificates:
            return {}
        first = min(certificate.not_after for certificate in self.certificates)
        return {
            "tls_certificates": len(self.certificates),
            "tls_certificate_days": max(0, int((first - self._clock()) // DAY)),
            "tls_reloads": self.reloads,
            "tls_reload_failures": self.failures,
        }
