"""What this process knows of tokens and devices. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Container, Iterable

from proxy_engine.storage import Device, Token

KNOWN_MAX = 65536  # tokens, and devices; about 1 KiB each
UNKNOWN_MAX = 16384  # digests that nobody has


class LocalCache:
    def __init__(self) -> None:
        self._known: OrderedDict[bytes, Token] = OrderedDict()  # the last used at the end
        self._before: Container[bytes] = ()  # digests known until clear()
        self._unknown: OrderedDict[bytes, None] = OrderedDict()
        self._devices: OrderedDict[str, Device] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known) + len(self._unknown) + len(self._devices)

    def clear(self) -> None:
        if self._known:
            self._before, self._known = self._known, OrderedDict()
        self._unknown.clear()
        self._devices.clear()

    def token(self, digest: bytes) -> Token | None:
        """The token if it is in here."""
        token = self._known.get(digest)
        if token is not None:
            self._known.move_to_end(digest)
        return token

    def is_familiar(self, digest: bytes) -> bool:
        """Whether there is, or was before clear(), a token of it: nobody guesses one."""
        return digest in self._known or digest in self._before

    def is_unknown(self, digest: bytes) -> bool:
        """Whether it is in here that there is no such token."""
        return digest in self._unknown

    def device(self, name: str) -> Device | None:
        device = self._devices.get(name)
        if device is not None:
            self._devices.move_to_end(name)
        return device

    def keep_tokens(self, found: Iterable[tuple[bytes, Token | None]]) -> None:
        """By the digest of the secret. None: there is no such token."""
        for digest, token in found:
            if token is None:
                self._unknown[digest] = None
            else:
                self._known[digest] = token
        self._forget()

    def keep_devices(self, found: Iterable[Device]) -> None:
        for device in found:
            self._devices[device.name] = device
        self._forget()

    def replace(self, tokens: Iterable[Token], devices: Iterable[Device]) -> None:
        """All that there are, by both of a token's secrets."""
        self._known.clear()
        self._devices.clear()
        self._before = ()
        for token in tokens:
            self._known[token.digest] = token
            if token.old_digest is not None:
                self._known[token.old_digest] = token
        self.keep_devices(devices)

    def _forget(self) -> None:
        """... whoever was not asked for longest, beyond what there is room for."""
        while len(self._known) > KNOWN_MAX:
            self._known.popitem(last=False)
        while len(self._devices) > KNOWN_MAX:
            self._devices.popitem(last=False)
        while len(self._unknown) > UNKNOWN_MAX:
            self._unknown.popitem(last=False)
