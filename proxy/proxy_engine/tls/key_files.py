"""Files of certificates and keys: read whole, keys only if nobody else can, and watched."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from typing import NamedTuple

from proxy_engine.errors import UsageError, error_text

SIZE_MAX = 4 << 20  # bytes; a bundle of all public authorities is 0.2 MiB


class PairFiles(NamedTuple):
    certificate: str  # then what leads to its root
    key: str  # may be the same file

    def __str__(self) -> str:
        return self.certificate


def pairs(certificates: tuple[str, ...], keys: tuple[str, ...], name: str) -> list[PairFiles]:
    """Certificates with their keys, in the order they were given. Raises UsageError.

    Args:
        name: of the settings, without what tells one from the other: "tls_" or "".
    """
    if keys and len(keys) != len(certificates):
        raise UsageError(
            f"{name}cert names {_count(certificates)} and {name}key {_count(keys)}: as many, "
            "in the same order, or no key where it is in the file of its certificate"
        )
    found = zip(certificates, keys or certificates, strict=True)
    return [PairFiles(certificate, key) for certificate, key in found]


def _count(files: tuple[str, ...]) -> str:
    return f"{len(files)} file" + ("s" if len(files) != 1 else "")


def read(path: str, what: str) -> bytes:
    """A file that others may read too. Raises UsageError; `what` it is begins the message."""
    data, _ = _read(path, what)
    return data


def read_key(path: str, what: str) -> bytes:
    """A private key. One that others can read is refused. Raises UsageError."""
    data, status = _read(path, what)
    # As PostgreSQL has it: a key of root's may be readable by a group that this program is in.
    allowed = 0o740 if status.st_uid == 0 and os.geteuid() != 0 else 0o700
    loose = stat.S_IMODE(status.st_mode) & 0o777 & ~allowed
    if loose:
        mode = stat.S_IMODE(status.st_mode)
        raise UsageError(
            f"{what} {path}: others can read or change it (mode {mode:04o}): chmod 600 {path}"
        )
    if status.st_uid not in (0, os.geteuid()):
        raise UsageError(f"{what} {path}: it belongs to another user (id {status.st_uid})")
    return data


def _read(path: str, what: str) -> tuple[bytes, os.stat_result]:
    try:
        with open(path, "rb") as stream:
            data = stream.read(SIZE_MAX + 1)
            status = os.fstat(stream.fileno())
    except OSError as error:
        raise UsageError(f"{what} {path}: {error_text(error)}") from None
    if len(data) > SIZE_MAX:
        raise UsageError(f"{what} {path}: more than {SIZE_MAX >> 20} MiB is no certificate")
    if not data.strip():
        raise UsageError(f"{what} {path}: it is empty")
    return data, status


_Stamp = tuple[int, int, int, int] | None


class Watch:
    """Tells when one of some files has changed, is another one, came or went.

    To be made before they are read first. Links are followed: certbot and Kubernetes change what
    they point to.
    """

    def __init__(self, paths: Iterable[str]) -> None:
        self._paths = tuple(paths)
        self._told = self._last = self._stamps()

    def changed(self, *, at_rest: bool = False) -> bool:
        """Whether they are others than when this was last told.

        Args:
            at_rest: tell it only when two looks in a row find the same, so that a certificate and
                its key, written one after the other, are read together.
        """
        now = self._stamps()
        is_at_rest, self._last = now == self._last, now
        if now == self._told or (at_rest and not is_at_rest):
            return False
        self._told = now
        return True

    def _stamps(self) -> list[_Stamp]:
        return [_stamp(path) for path in self._paths]


def _stamp(path: str) -> _Stamp:
    try:
        found = os.stat(path)
    except OSError:
        return None
    # The time of the last change of its entry tells of a chmod too.
    return found.st_dev, found.st_ino, found.st_ctime_ns, found.st_size
