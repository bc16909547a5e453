"""Batches of the request log on disk, for as long as the store can not take them.

A folder of append-only segment files, named by numbers that count up. A segment begins with
SEGMENT_HEADER; each entry is ENTRY_HEADER and a batch. An entry that the store has taken is
marked in place, and a segment all of whose entries are marked is deleted, so what is there
is what is still to be stored, in order.

A process that is killed may leave half an entry at the end of its segment. It is cut off and
counted (`torn`), and so is what fails its checksum. A new run begins a segment of its own.

Everything here blocks: call it from one thread that may.
"""

from __future__ import annotations

import contextlib
import os
import struct
import zlib
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

from proxy_engine import failures, logs
from proxy_engine.errors import error_text
from proxy_engine_core.log_batch import FORMAT, READABLE

if TYPE_CHECKING:
    from proxy_engine.settings.config import Settings

NAME = "request-journal"  # in the data dir
SEGMENT_BYTES = 16 << 20  # a new one is begun when this is reached
SUFFIX = ".journal"
MAGIC = b"PEJ1"
SEGMENT_HEADER = struct.Struct("<4sI")  # magic, layout of the records (log_batch.FORMAT)
ENTRY_HEADER = struct.Struct("<IIB3x")  # bytes of the batch, its CRC-32, 1: stored
_STORED_AT = 8  # the offset of that mark

_log = logs.get("journal")


class Journal:
    def __init__(self, folder: Path, *, size_max: int) -> None:
        self._folder = folder
        self._size_max = size_max
        self._segments: deque[int] = deque()  # with something in them that is not stored
        self._reading: _Segment | None = None  # the first of them
        self._writing: _Segment | None = None  # the last of them, if it is ours
        self._next = 1
        self._head: bytes | None = None
        self.size = 0  # bytes of its files
        self.torn = 0  # entries that were cut off or damaged
        self.is_failing = False

    def open(self) -> None:
        """Find what an earlier run left. Raises OSError."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in sorted(self._folder.glob("*" + SUFFIX)):
            if not path.stem.isdigit():
                continue
            self._segments.append(int(path.stem))
            self.size += path.stat().st_size
            self._next = int(path.stem) + 1
        self.head()  # what is of another version, or empty, shows now

    def close(self) -> None:
        """Idempotent."""
        for segment in (self._reading, self._writing):
            if segment is not None:
                segment.close()
        self._reading = self._writing = None

    def __bool__(self) -> bool:
        """Whether there is something to be stored."""
        return bool(self._segments)

    def append(self, batch: bytes) -> bool:
        """False if there is no room, by size_max or on the disk: nothing of it is kept then."""
        size = ENTRY_HEADER.size + len(batch)
        if self.size + size > self._size_max:
            return False
        try:
            segment = self._segment()
            segment.append(ENTRY_HEADER.pack(len(batch), zlib.crc32(batch), 0) + batch)
        except OSError as error:
            if not self.is_failing:
                failures.error(
                    _log,
                    "journal",
                    "write",
                    "the journal can not be written",
                    error=error_text(error),
                )
            self.is_failing = True
            return False
        if self.is_failing:
            _log.info("the journal is written again")
        self.is_failing = False
        self.size += size
        return True

    def _segment(self) -> _Segment:
        """Where the next entry goes."""
        segment = self._writing
        if segment is not None and segment.size < SEGMENT_BYTES:
            return segment
        if segment is not None:
            os.fdatasync(segment.fd)
            if segment is not self._reading:
                segment.close()
            self._writing = None
        self._writing = _Segment.create(self._path(self._next))
        self._segments.append(self._next)
        self._next += 1
        self.size += SEGMENT_HEADER.size
        return self._writing

    def head(self) -> bytes | None:
        """The first batch that is not stored; None: all are. Raises OSError."""
        while self._head is None and self._segments:
            if self._reading is None:
                self._reading = self._open_first()
            batch = self._reading.read()
            if batch is not None:
                self._head = batch
            else:
                self._drop_first()
        return self._head

    def advance(self) -> None:
        """The store has the head now. Raises OSError."""
        if self.head() is None:
            return
        self._head = None
        if self._reading is not None:
            self._reading.mark()
            if self._reading.is_at_end:  # most of the time the only entry: leave no file
                self._drop_first()

    def _open_first(self) -> _Segment:
        writing = self._writing
        if writing is not None and writing.number == self._segments[0]:
            return writing
        return _Segment.open(self._path(self._segments[0]))

    def _drop_first(self) -> None:
        segment = self._reading
        assert segment is not None
        self.torn += segment.torn
        if segment.torn:
            failures.error(
                _log,
                "journal",
                "damaged",
                "the journal was damaged",
                file=segment.path.name,
                entries=segment.torn,
                bytes=segment.torn_bytes,
            )
        segment.close()
        if segment is self._writing:
            self._writing = None
        self._reading = None
        self._segments.popleft()
        self.size -= segment.size
        segment.path.unlink(missing_ok=True)

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:012d}{SUFFIX}"


class _Segment:
    """One file; read from its start while it may still grow."""

    def __init__(self, path: Path, fd: int, size: int) -> None:
        self.path = path
        self.number = int(path.stem)
        self.fd = fd
        self.size = size
        self.torn = 0
        self.torn_bytes = 0
        self._entry = SEGMENT_HEADER.size  # where the next entry to be read begins
        self._entry_end = self._entry

    @classmethod
    def create(cls, path: Path) -> _Segment:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        segment = cls(path, os.open(path, flags, 0o600), 0)
        try:
            segment.append(SEGMENT_HEADER.pack(MAGIC, FORMAT))
        except OSError:
            segment.close()
            path.unlink(missing_ok=True)
            raise
        return segment

    @classmethod
    def open(cls, path: Path) -> _Segment:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        segment = cls(path, fd, os.fstat(fd).st_size)
        header = os.pread(fd, SEGMENT_HEADER.size, 0)
        if len(header) < SEGMENT_HEADER.size or header[:4] != MAGIC:
            segment._tear()
        elif SEGMENT_HEADER.unpack(header)[1] not in READABLE:
            segment.close()
            raise OSError(f"{path} is of another version of proxy-engine")
        return segment

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1

    def append(self, data: bytes) -> None:
        """All of it or nothing. Raises OSError."""
        written = 0
        try:
            while written < len(data):
                written += os.pwrite(self.fd, data[written:], self.size + written)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self.fd, self.size)
            raise
        self.size += len(data)

    def read(self) -> bytes | None:
        """The next entry that is not stored; None: no more."""
        while not self.is_at_end:
            header = os.pread(self.fd, ENTRY_HEADER.size, self._entry)
            if len(header) < ENTRY_HEADER.size:
                self._tear()
                break
            size, checksum, is_stored = ENTRY_HEADER.unpack(header)
            start = self._entry + ENTRY_HEADER.size
            if size == 0 or start + size > self.size:  # none is empty: zeros of a power cut
                self._tear()
                break
            self._entry_end = start + size
            if is_stored:
                self._entry = self._entry_end
                continue
            batch = os.pread(self.fd, size, start)
            if zlib.crc32(batch) == checksum:
                return batch
            # The next entry begins behind it if its size is right; if not, that shows.
            self.torn += 1
            self.torn_bytes += ENTRY_HEADER.size + size
            self._entry = self._entry_end
        return None

    def mark(self) -> None:
        """What read() gave last is stored."""
        os.pwrite(self.fd, b"\x01", self._entry + _STORED_AT)
        self._entry = self._entry_end

    @property
    def is_at_end(self) -> bool:
        return self._entry >= self.size

    def _tear(self) -> None:
        self.torn += 1
        self.torn_bytes += self.size - self._entry
        self._entry = self.size


def journal_of(settings: Settings) -> Journal | None:
    """That of a server; None if it is to have none."""
    if settings.request_journal_max == 0:
        return None
    return Journal(settings.data_dir / NAME, size_max=settings.request_journal_max)
