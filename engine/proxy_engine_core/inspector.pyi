"""A look into the workers of an engine, for people who want to know what they do and why.

Threads: as Engine; every method holds the GIL but stack() and profile_stop(), which take
milliseconds: call them from a thread that nobody waits for.
"""

from typing import Any, Final

CONNECTION_KINDS: Final[tuple[str, ...]]  # of the counts in `connections` of a worker
STREAM_OWNERS: Final[tuple[str, ...]]

class Inspector:
    """Engine.inspector. After Engine.stop() its methods raise RuntimeError."""

    def busy_since_us(self) -> list[int]:
        """When the turn that each worker is in began, microseconds of CLOCK_MONOTONIC; 0: it
        sleeps."""

    def stack(self, worker: int, *, patience_ms: int = 200) -> list[int]:
        """Where a worker is now: program counters, the innermost first; the others are where
        calls return to. It goes on meanwhile; one that slept has a turn.

        Holds the GIL for as long as the worker needs to answer, some 10 us as a rule.
        Raises: ValueError for a worker there is not; OSError: ETIMEDOUT if it does not answer,
            which a thread in the kernel may not; ESRCH if it does not run (yet); EBUSY if another
            look is under way in this process, or somebody else has a handler for our signal
            (SIGRTMIN + 7).
        """

    def profile_start(self, period_us: int) -> None:
        """Sample every worker each `period_us` (1000 to 1000000) of CPU time of its thread; the
        kernel's tick (usually 4 ms) is the least that makes a difference.

        Raises: OSError: EBUSY if there is a profile in this process already, or somebody else
            has a handler for our signal.
        """

    def profile_stop(self) -> tuple[dict[tuple[int, bytes], int], int]:
        """How many periods were seen of each (worker, stack), and how many samples found no
        room. A stack is program counters as in stack(), of 8 bytes each in native order.

        Raises: RuntimeError if there is no profile.
        """

    def dump(
        self, query: int, *, device: int = 0, links: int = 1000, streams: int = 1000
    ) -> None:
        """Server: ask every worker what it has: EVENT_DUMP follows with `query`, a number of the
        caller's. At most so many `links` (of one device, if it is not 0) and `streams` of each
        worker are told; all are counted."""

def dump_rows(packed: bytes) -> list[tuple[str, dict[str, Any]]]:
    """The rows of an EVENT_DUMP: ("worker" | "link" | "stream", fields); forward/dump.pxd says
    what they are."""
