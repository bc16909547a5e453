"""The keys that seal session tickets, in memory only: a new one now and then.

The newest seals. The one before it still opens tickets, so that nobody has to shake hands in full
because a key is new; then it is forgotten, and with it all that could read what was recorded.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable

SIZE = 80  # bytes: a name, a cipher's key and a MAC's (core.pyi TlsServer)


class TicketKeys:
    """
    Args:
        age: seconds after which another key takes the newest one's place.
    """

    def __init__(self, age: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.age = age
        self._clock = clock
        self._made = clock()
        self.keys: tuple[bytes, ...] = (secrets.token_bytes(SIZE),)

    def rotate(self) -> bool:
        """Whether it was time for another key."""
        now = self._clock()
        if now - self._made < self.age:
            return False
        # After a long sleep of the machine the one before is too old, too.
        kept = self.keys[:1] if now - self._made < 2 * self.age else ()
        self.keys = (secrets.token_bytes(SIZE), *kept)
        self._made = now
        return True
