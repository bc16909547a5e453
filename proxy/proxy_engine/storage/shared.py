"""What the servers of one store agree on, so that a cache that they share can be trusted."""

from __future__ import annotations

from typing import Protocol

KEY_SIZE = 32  # bytes


class SharedStore(Protocol):
    async def access_generation(self) -> bytes:
        """16 random bytes that every write to tokens and devices replaces, by whichever process,
        if it changes what a token opens or whether a device may come. What was read from the
        store after this call is at least as new as the generation it returned."""

    async def shared_key(self) -> bytes:
        """A secret of the servers of this store: KEY_SIZE random bytes, made the first time."""
