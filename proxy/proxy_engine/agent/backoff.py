"""How long to wait before trying again: exponential, with full jitter.

Each delay is uniform in 0..ceiling and the ceiling doubles, so that thousands of agents
that lost the same server at the same moment come back spread out, most of them soon.
"""

from __future__ import annotations

import random
from collections.abc import Callable

CEILING_MIN = 1.0  # seconds, of the first delay
CEILING_MAX = 60.0  # seconds
STABLE_AFTER = 30.0  # seconds a link must have lived for the next delay to be short again


class Backoff:
    def __init__(self, uniform: Callable[[float, float], float] = random.uniform) -> None:
        self._uniform = uniform
        self._ceiling = CEILING_MIN

    def next(self, retry_after: float | None = None) -> float:
        """Seconds to wait now; never less than the other side asked for."""
        delay = self._uniform(0, self._ceiling)
        self._ceiling = min(self._ceiling * 2, CEILING_MAX)
        # What was asked for is the same for everybody: the jitter comes on top.
        return delay if retry_after is None else min(retry_after, 3600.0) + delay

    def link_ended(self, lived: float) -> None:
        """A link ended after this many seconds."""
        if lived >= STABLE_AFTER:
            self._ceiling = CEILING_MIN
