"""Tokens by the digest of their secret, and devices by name, in front of the store.

Every answer of the store is kept, also that there is no such token, until something was
written: clear() is called after each write to tokens or devices, and when another process
wrote (Store.changed_elsewhere(), asked twice a second). So a token that was revoked elsewhere
can open a link for at most that long, and the recheck that follows closes it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from proxy_engine.storage import Device, Token

KNOWN_MAX = 65536  # tokens, and devices; about 1 KiB each
UNKNOWN_MAX = 16384  # digests that nobody has


class TokenSource(Protocol):
    """A store, or a cache in front of it."""

    async def tokens_by_digest(self, digests: Sequence[bytes]) -> dict[bytes, Token]: ...


class AccessSource(TokenSource, Protocol):
    async def devices_claim(
        self, claims: Sequence[tuple[str, int]], now: float
    ) -> dict[str, Device]: ...


class TokenCache:
    def __init__(self, store: AccessSource) -> None:
        self._store = store
        self._known: OrderedDict[bytes, Token] = OrderedDict()  # the last used at the end
        self._unknown: OrderedDict[bytes, None] = OrderedDict()
        self._devices: OrderedDict[str, Device] = OrderedDict()
        self._version = 0
        self.hits = 0
        self.misses = 0

    def clear(self) -> None:
        """Something was written: ask the store again."""
        self._version += 1
        self._known.clear()
        self._unknown.clear()
        self._devices.clear()

    @property
    def version(self) -> int:
        """Another one after each clear()."""
        return self._version

    def learn(self, tokens: Iterable[Token], devices: Iterable[Device], version: int) -> None:
        """All that the store had, read since this version: who was let in before will be again,
        should the store fail next."""
        if version != self._version:
            return
        for token in tokens:
            self._known[token.digest] = token
            if token.old_digest is not None:
                self._known[token.old_digest] = token
        self._devices |= {device.name: device for device in devices}
        self._forget()

    def peek(self, digest: bytes) -> Token | None:
        """The token if it is in here."""
        return self._known.get(digest)

    def can_tell(self, digest: bytes, device: str) -> bool:
        """Whether the store need not be asked about this token, nor about the device of this
        name if the token is for several."""
        token = self._known.get(digest)
        if token is None:
            return digest in self._unknown
        return token.device_id is not None or device in self._devices

    async def tokens_by_digest(self, digests: Sequence[bytes]) -> dict[bytes, Token]:
        """The tokens that there are. Raises StorageError if the store had to be asked."""
        found: dict[bytes, Token] = {}
        asked: list[bytes] = []
        for digest in dict.fromkeys(digests):
            token = self._known.get(digest)
            if token is not None:
                self._known.move_to_end(digest)
                found[digest] = token
            elif digest not in self._unknown:
                asked.append(digest)
        self.hits += len(digests) - len(asked)
        self.misses += len(asked)
        if asked:
            version = self._version
            fresh = await self._store.tokens_by_digest(asked)
            found |= fresh
            if version == self._version:  # else somebody wrote meanwhile: it may be old already
                self._keep(asked, fresh)
        return found

    async def devices(self, claims: Mapping[str, int], now: float) -> dict[str, Device]:
        """The devices of these names; who is new is registered with its token's id."""
        new = [claim for claim in claims.items() if claim[0] not in self._devices]
        found = {name: self._devices[name] for name in claims if name in self._devices}
        if new:
            version = self._version
            fresh = await self._store.devices_claim(new, now)
            found |= fresh
            if version == self._version:
                self._devices |= fresh
                self._forget()
        return found

    def _keep(self, asked: Sequence[bytes], fresh: dict[bytes, Token]) -> None:
        self._known |= fresh
        self._unknown |= dict.fromkeys(digest for digest in asked if digest not in fresh)
        self._forget()

    def _forget(self) -> None:
        """... whoever was not asked for longest, beyond what there is room for."""
        while len(self._known) > KNOWN_MAX:
            self._known.popitem(last=False)
        while len(self._devices) > KNOWN_MAX:
            self._devices.popitem(last=False)
        while len(self._unknown) > UNKNOWN_MAX:
            self._unknown.popitem(last=False)
