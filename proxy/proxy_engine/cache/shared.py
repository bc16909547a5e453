"""Tokens and devices in Redis, for all nodes of one store, and what these tell each other.

Answers only for the generation of the store that this node knows of (cache/__init__.py), and
only with values that carry the seal of such a node. What it can not tell, for whatever reason,
it leaves out, and the next layer is asked: no call raises.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from proxy_engine.cache.logins import SharedLogins
from proxy_engine.cache.records import (
    FORMAT,
    pack_device,
    pack_token,
    unpack_device,
    unpack_token,
)
from proxy_engine.cache.redis import RedisLink
from proxy_engine.cache.seal import Sealer
from proxy_engine.storage import Device, Token
from proxy_engine.tasks import Tasks

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from proxy_engine.links.login_guard import LoginGuard

TTL = 3600  # seconds that Redis keeps a token or a device
ABSENT_TTL = 60  # ... and that there is no such token: anybody can ask for those
WRITES_MAX = 16  # under way at once; more are not made, and missed later

_K = TypeVar("_K", bound=Hashable)
_T = TypeVar("_T")
_Item = tuple[str, bytes, int]  # name, value, seconds to live


class SharedCache:
    """
    Args:
        key: Store.shared_key().
        guard: shares with other nodes who failed to log in.
        on_change: another node has written tokens or devices.
        on_gap: messages come again; some may have been lost.
    """

    def __init__(
        self,
        url: str,
        password: str,
        key: bytes,
        *,
        guard: LoginGuard | None = None,
        on_change: Callable[[], None] = lambda: None,
        on_gap: Callable[[], None] = lambda: None,
    ) -> None:
        self._sealer = Sealer(key, FORMAT)
        self._changes = self._sealer.channel("changes")
        # Only a hint, without a word of what: anybody who reaches Redis could send one.
        listeners: dict[str, Callable[[bytes], None]] = {self._changes: lambda data: on_change()}
        self._logins: SharedLogins | None = None
        if guard is not None:
            channel = self._sealer.channel("logins")
            self._logins = SharedLogins(
                self._sealer,
                guard,
                lambda data: self._spawn(lambda redis: redis.publish(channel, data)),
            )
            listeners[channel] = self._logins.heard
        self._link = RedisLink(url, password, listeners=listeners, on_gap=on_gap)
        self._writes = Tasks()
        self._writing = 0
        self._running: list[asyncio.Task[None]] = []
        self.generation: bytes | None = None  # the store's; None: not known now
        self.hits = 0
        self.misses = 0
        self.stale = 0  # misses of what was there, from before a write
        self.forged = 0  # ... or made by nobody of ours

    def start(self) -> None:
        """Connects in the background: a server starts without Redis too."""
        self._running.append(asyncio.create_task(self._link.run(), name="redis"))
        if self._logins is not None:
            self._running.append(asyncio.create_task(self._logins.run(), name="shared-logins"))

    async def close(self) -> None:
        await self._writes.close()
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await self._link.close()

    @property
    def is_up(self) -> bool:
        return self._link.is_up

    async def tokens(self, digests: Sequence[bytes]) -> dict[bytes, Token | None]:
        """What is known of these. None: there is no such token."""
        return await self._get("token", {digest: digest for digest in digests}, unpack_token)

    async def devices(self, names: Sequence[str]) -> dict[str, Device]:
        return await self._get("device", {name: name.encode() for name in names}, unpack_device)

    def keep_tokens(self, answers: Mapping[bytes, Token | None], generation: bytes | None) -> None:
        """What the store has said, under this generation or a later one."""
        self._put(
            (
                ("token", digest, pack_token(token), ABSENT_TTL if token is None else TTL)
                for digest, token in answers.items()
            ),
            generation,
        )

    def keep_devices(self, found: Iterable[Device], generation: bytes | None) -> None:
        items = (("device", each.name.encode(), pack_device(each), TTL) for each in found)
        self._put(items, generation)

    def announce(self) -> None:
        """Tell other nodes that this one has written tokens or devices."""
        self._spawn(lambda redis: redis.publish(self._changes, b""))

    def stats(self) -> dict[str, int]:
        return {
            "shared_cache_up": int(self.is_up),
            "shared_cache_hits": self.hits,
            "shared_cache_misses": self.misses,
            "shared_cache_stale": self.stale,
            "shared_cache_forged": self.forged,
            "shared_cache_errors": self._link.errors,
            "shared_cache_skipped": self._link.skipped,
        }

    async def _get(
        self, kind: str, about: Mapping[_K, bytes], unpack: Callable[[bytes], _T]
    ) -> dict[_K, _T]:
        generation = self.generation
        if generation is None:
            return {}
        names = [self._sealer.name(kind, each) for each in about.values()]
        values = await self._link.call(lambda redis: redis.mget(names))
        found: dict[_K, _T] = {}
        for key, name, value in zip(about, names, values or (), strict=False):
            if not isinstance(value, bytes):  # it is not there
                continue
            try:
                data = self._sealer.open(name, generation, value)
                if data is None:
                    self.stale += 1
                else:
                    found[key] = unpack(data)
            except ValueError:  # Forged, or of a bug of ours: nobody else can seal
                self.forged += 1
        self.hits += len(found)
        self.misses += len(about) - len(found)
        return found

    def _put(
        self, items: Iterable[tuple[str, bytes, bytes, int]], generation: bytes | None
    ) -> None:
        if generation is None or generation != self.generation:
            return
        values: list[_Item] = []
        for kind, about, data, seconds in items:
            name = self._sealer.name(kind, about)
            values.append((name, self._sealer.seal(name, generation, data), seconds))

        async def write(redis: Redis) -> None:
            pipeline = redis.pipeline(transaction=False)
            for name, value, seconds in values:
                pipeline.set(name, value, ex=seconds)
            await pipeline.execute()

        if values:
            self._spawn(write)

    def _spawn(self, work: Callable[[Redis], Awaitable[object]]) -> None:
        """Nobody waits for it, and nothing is wrong if it fails."""
        if not self.is_up or self._writing >= WRITES_MAX:
            return
        self._writing += 1

        async def run() -> None:
            try:
                await self._link.call(work)
            finally:
                self._writing -= 1

        self._writes.spawn(run())
