"""Who may connect, as it is known here: in this process, else in Redis, else in the store.

Every answer of the store is kept, also that there is no such token, until something was
written: clear() is called after each write to tokens or devices, and check() finds what another
process wrote, twice a second. So a token that was revoked elsewhere can open a link for at most
that long, and the recheck that follows closes it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from proxy_engine.cache.local import LocalCache
from proxy_engine.storage import Device, Token

if TYPE_CHECKING:
    from proxy_engine.cache.shared import SharedCache


class TokenSource(Protocol):
    """A store, or a cache in front of it."""

    async def tokens_by_digest(self, digests: Sequence[bytes]) -> dict[bytes, Token]: ...


class AccessSource(TokenSource, Protocol):
    """The part of a store that is cached."""

    async def devices_claim(
        self, claims: Sequence[tuple[str, int]], now: float
    ) -> dict[str, Device]: ...
    async def access_generation(self) -> bytes: ...


class AccessCache:
    """
    Args:
        shared: None: there is no Redis, and nothing is missing but it.
    """

    def __init__(self, store: AccessSource, shared: SharedCache | None = None) -> None:
        self._store = store
        self._local = LocalCache()
        self.shared = shared
        self._version = 0
        self._generation: bytes | None = None  # of the store; None: not known now
        self._checking = asyncio.Lock()
        self.hits = 0  # tokens that were known here
        self.misses = 0
        self.device_hits = 0
        self.device_misses = 0
        self.flushes = 0

    def clear(self) -> None:
        """Something was written: ask the store again."""
        self.flushes += 1
        self._forget(None)

    def _forget(self, generation: bytes | None) -> None:
        self._version += 1
        self._local.clear()
        self._generation = generation
        if self.shared is not None:
            self.shared.generation = generation

    @property
    def version(self) -> int:
        """Another one after each clear()."""
        return self._version

    async def check(self) -> bool:
        """Whether the store's generation has moved, by whomsoever; if so all is forgotten.
        Raises StorageError."""
        async with self._checking:  # one after the other: an answer never overtakes a newer one
            generation = await self._store.access_generation()
            if generation == self._generation:
                return False
            was_known = self._generation is not None
            self.flushes += was_known
            self._forget(generation)  # also what was read since clear(), before another's write
            return was_known

    def learn(self, tokens: Iterable[Token], devices: Iterable[Device], version: int) -> None:
        """All that the store had, read since this version: who was let in before will be again,
        should the store fail next."""
        if version == self._version:
            self._local.replace(tokens, devices)

    def is_familiar(self, digest: bytes) -> bool:
        """Whether this process knows a token of it, or did before the last write: whoever has it
        is not guessing."""
        return self._local.is_familiar(digest)

    def can_tell(self, digest: bytes, device: str) -> bool:
        """Whether nobody need be asked about this token, nor about the device of this name if
        the token is for several."""
        token = self._local.token(digest)
        if token is None:
            return self._local.is_unknown(digest)
        return token.device_id is not None or self._local.device(device) is not None

    async def tokens_by_digest(self, digests: Sequence[bytes]) -> dict[bytes, Token]:
        """The tokens that there are. Raises StorageError if the store had to be asked."""
        found: dict[bytes, Token] = {}
        asked: list[bytes] = []
        for digest in dict.fromkeys(digests):
            token = self._local.token(digest)
            if token is not None:
                found[digest] = token
            elif not self._local.is_unknown(digest):
                asked.append(digest)
        self.hits += len(digests) - len(asked)
        self.misses += len(asked)
        if asked and self.shared is not None:
            version = self._version
            told = await self.shared.tokens(asked)
            if version == self._version:  # else somebody wrote meanwhile: it may be old already
                self._local.keep_tokens(told.items())
                found |= {digest: token for digest, token in told.items() if token is not None}
                asked = [digest for digest in asked if digest not in told]
        if asked:
            found |= await self._tokens_of_store(asked)
        return found

    async def _tokens_of_store(self, asked: Sequence[bytes]) -> dict[bytes, Token]:
        version = self._version
        generation = self._generation
        fresh = await self._store.tokens_by_digest(asked)
        answers = {digest: fresh.get(digest) for digest in asked}
        if version == self._version:
            self._local.keep_tokens(answers.items())
        if self.shared is not None:
            # Of the generation from before it was read, and so never taken for newer than it is.
            self.shared.keep_tokens(answers, generation)
        return fresh

    async def devices(self, claims: Mapping[str, int], now: float) -> dict[str, Device]:
        """The devices of these names; who is new is registered with its token's id."""
        found = {name: device for name in claims if (device := self._local.device(name))}
        new = {name: token_id for name, token_id in claims.items() if name not in found}
        self.device_hits += len(found)
        self.device_misses += len(new)
        if new and self.shared is not None:
            version = self._version
            told = await self.shared.devices(list(new))
            if version == self._version:
                self._local.keep_devices(told.values())
                found |= told
                new = {name: token_id for name, token_id in new.items() if name not in told}
        if new:
            version = self._version
            generation = self._generation
            fresh = await self._store.devices_claim(list(new.items()), now)
            found |= fresh
            if version == self._version:
                self._local.keep_devices(fresh.values())
            if self.shared is not None:
                self.shared.keep_devices(fresh.values(), generation)
        return found

    def stats(self) -> dict[str, int]:
        """Counters of lookups by layer, and gauges."""
        own = {
            "token_cache_hits": self.hits,
            "token_cache_misses": self.misses,
            "device_cache_hits": self.device_hits,
            "device_cache_misses": self.device_misses,
            "access_cache_flushes": self.flushes,
            "access_cache_entries": len(self._local),
        }
        return own if self.shared is None else {**own, **self.shared.stats()}

    @property
    def hit_rate(self) -> float | None:
        """The share of lookups that the store was not asked for, since the start; None: there
        was none."""
        local = self.hits + self.device_hits
        missed = self.misses + self.device_misses
        shared = 0 if self.shared is None else self.shared.hits
        return (local + shared) / (local + missed) if local + missed else None
