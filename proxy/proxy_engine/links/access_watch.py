"""After each write to tokens or devices: nothing that was known counts, and links are looked at.

Writes of this server are told to changed(). Others' are found by look(), twice a second, and
sooner by a hint through Redis, which is only a reason to look: the store says what has happened.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from proxy_engine.errors import StorageError
from proxy_engine.tasks import Tasks

if TYPE_CHECKING:
    from proxy_engine.cache import AccessCache
    from proxy_engine.links.links import Links
    from proxy_engine.storage import Store

HINT_DELAY = 0.02  # seconds from a hint to the look; all hints in between are one
RELEARN = 3600.0  # seconds after which all is read anew, though nobody seems to have written


class AccessWatch:
    def __init__(self, store: Store, cache: AccessCache) -> None:
        self._store = store
        self._cache = cache
        self._links: Links
        self._tasks = Tasks()
        self._is_hinted = False
        self._must_flush = False
        self._must_recheck = False  # until it is done, should the store fail on the way
        self._learnt_at = 0.0

    async def start(self, links: Links) -> None:
        """From here on; all tokens are known from the start. Raises StorageError."""
        self._links = links
        self._must_recheck = True
        await self.look()

    async def close(self) -> None:
        await self._tasks.close()

    async def changed(self) -> None:
        """Tokens or devices were written here. Raises StorageError."""
        if self._cache.shared is not None:
            self._cache.shared.announce()
        self._must_flush = True
        await self._act()

    async def look(self) -> None:
        """What others have written. Raises StorageError; then the next look finds it."""
        if await self._store.changed_elsewhere():
            self._must_recheck = True  # of what is known perhaps nothing is wrong
        await self._act()

    def hint(self) -> None:
        """Another server says that it has written."""
        if not self._is_hinted:
            self._is_hinted = True
            self._tasks.spawn(self._look_soon())

    def gap(self) -> None:
        """Hints may have been lost: flush, as soon as the store answers."""
        self._must_flush = True
        self.hint()

    async def _look_soon(self) -> None:
        await asyncio.sleep(HINT_DELAY)
        self._is_hinted = False
        try:
            await self.look()
        except StorageError:
            pass  # the regular look says so, and tries again

    async def _act(self) -> None:
        if self._must_flush:
            self._must_flush = False
            self._must_recheck = True
            self._cache.clear()
        if await self._cache.check():
            self._must_recheck = True
        if self._must_recheck or self._links.must_recheck or self._is_old():
            await self._links.recheck()
            self._must_recheck = False
            self._learnt_at = asyncio.get_running_loop().time()

    def _is_old(self) -> bool:
        return asyncio.get_running_loop().time() - self._learnt_at > RELEARN
