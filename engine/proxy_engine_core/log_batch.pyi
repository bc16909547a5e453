"""Batches of finished requests: bytes, as Engine.poll_log_batch() gives them."""

from collections.abc import Callable, Iterable
from typing import Final

from proxy_engine_core.core import LogRecord

FORMAT: Final[int]
"""The layout of records. Who writes batches to a disk writes this beside them."""

READABLE: Final[tuple[int, ...]]
"""Layouts that are read as that one: where they have zeros it has what they do not tell."""

def count(batch: bytes) -> int:
    """How many records there are. Raises: ValueError if the batch is cut off."""

def newest(batch: bytes) -> int:
    """The time_us of the latest; 0 if there are none. Raises: ValueError if it is cut off."""

def totals(batch: bytes) -> dict[int, tuple[int, int, int]]:
    """Requests, bytes in and bytes out by device. Raises: ValueError if the batch is cut off."""

def unpack(batch: bytes, first: int = 0, every: int = 1) -> list[LogRecord]:
    """All records, or one of `every`, from the one that `first` (from 0) others stand before.

    Raises: ValueError if the batch is cut off.
    """

def pack(records: Iterable[LogRecord]) -> bytes:
    """The inverse of unpack().

    Raises: OverflowError for a number or a text that is too large for its field,
        UnicodeEncodeError for text beyond latin-1, ValueError for an id of a trace that is none.
    """

def rewrite_paths(batch: bytes, marks: Iterable[bytes], rewrite: Callable[[str], str]) -> bytes:
    """The batch with the paths that rewrite() gives.

    It is only called for paths that hold one of `marks`; everything else is looked at where
    it stands. Raises: ValueError if the batch is cut off, and what rewrite() and pack() do.
    """
