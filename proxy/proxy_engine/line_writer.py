"""Lines on their way to a file descriptor that nobody waits for.

    put() -> queue -> a thread -> write()

Whoever has something to say only appends to a bounded queue. A pipe that nobody reads, a full
disk or a reader that is gone holds up the thread and no one else: what has no room any more, or
can not be written, is dropped and counted, and the count is written as soon as something can be
written again.
"""

from __future__ import annotations

import os
import select
import threading
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from proxy_engine.errors import error_text

QUEUE_BYTES_MAX = 4 << 20  # some 20,000 lines
BULK_SHARE = 0.75  # of the queue, that bulk may take: the rest is for what is rare and matters
WRITE_BYTES = 64 << 10  # in one call, what a pipe takes

BLOCKED = "nobody read them"


class _Entry(NamedTuple):
    text: bytes | Callable[[], bytes]  # ... or what makes it, in the thread
    size: int  # bytes that it holds while it waits
    lines: int


def _never() -> float | None:
    return None


class LineWriter:
    """
    Args:
        fd: written to, never closed.
        loss_line: of a count of lines and a reason: the line that tells of them.
        tick: called in the thread whenever it has nothing to write, and again after the
            seconds that it returns.
        size_max: bytes that may wait.
    """

    def __init__(
        self,
        fd: int,
        *,
        loss_line: Callable[[int, str], bytes] | None = None,
        tick: Callable[[], float | None] = _never,
        size_max: int = QUEUE_BYTES_MAX,
    ) -> None:
        self._fd = fd
        self._loss_line = loss_line
        self._tick = tick
        self._size_max = size_max
        self._queue: deque[_Entry] = deque()
        self._size = 0  # bytes of those, and of what is being written
        self._change = threading.Condition()
        self._is_idle = True
        self._is_failing = False  # the last write did not succeed
        self._is_torn = False  # ... and left half a line
        self._lost = 0  # lines that nobody has been told of
        self._reason = BLOCKED
        self._thread: threading.Thread | None = None
        self.written = 0  # lines
        self.dropped = 0

    def put(self, line: bytes) -> bool:
        """One line with its end; False if it was dropped. Any thread."""
        return self._put(_Entry(line, len(line), 1), self._size_max)

    def put_bulk(self, make: Callable[[], bytes], *, size: int, lines: int) -> bool:
        """Lines that the thread makes, and that make room for others; False if dropped."""
        return self._put(_Entry(make, size, lines), int(self._size_max * BULK_SHARE))

    def _put(self, entry: _Entry, size_max: int) -> bool:
        with self._change:
            if self._size + entry.size > size_max:
                self._lose(entry.lines, BLOCKED)
                return False
            self._queue.append(entry)
            self._size += entry.size
            if self._thread is None:
                # A daemon: a process ends whether or not somebody reads.
                self._thread = threading.Thread(target=self._run, name="log", daemon=True)
                self._thread.start()
            if self._is_idle:
                self._is_idle = False
                self._change.notify_all()
            return True

    def flush(self, seconds: float) -> bool:
        """Wait for what was put so far to be written, at most this long."""
        with self._change:
            return self._change.wait_for(lambda: self._is_idle, seconds)

    def _lose(self, lines: int, reason: str) -> None:
        self.dropped += lines
        self._lost += lines
        self._reason = reason

    def _run(self) -> None:
        while True:
            entries = self._next()
            if self._lost:
                self._tell()
            for entry in entries:
                self._write(self._text(entry))
            with self._change:
                self._size -= sum(entry.size for entry in entries)

    def _next(self) -> list[_Entry]:
        """What is written next; empty if there is only a loss to be told."""
        while True:
            wait = self._tick()  # without the lock: it may put()
            with self._change:
                # A loss is told at once when a reader came back, and to a full disk with the next.
                if self._queue or (self._lost and not self._is_failing):
                    self._is_idle = False
                    return self._take()
                self._is_idle = True
                self._change.notify_all()
                self._change.wait(wait)

    def _take(self) -> list[_Entry]:
        """Some short lines as one entry, or one of bulk."""
        texts: list[bytes] = []
        size = 0
        while self._queue and size < WRITE_BYTES:
            entry = self._queue[0]
            if not isinstance(entry.text, bytes):
                if not texts:
                    return [self._queue.popleft()]
                break
            texts.append(entry.text)
            size += entry.size
            self._queue.popleft()
        return [_Entry(b"".join(texts), size, len(texts))] if texts else []

    def _text(self, entry: _Entry) -> bytes:
        if isinstance(entry.text, bytes):
            return entry.text
        try:
            return entry.text()
        except Exception as error:  # the thread goes on
            with self._change:
                self._lose(entry.lines, repr(error))
            return b""

    def _tell(self) -> None:
        with self._change:
            lost, reason = self._lost, self._reason
            self._lost = 0
        if self._loss_line is None or self._write(self._loss_line(lost, reason)):
            return
        with self._change:
            self._lost += lost - 1  # the line about them is none of them
            self.dropped -= 1

    def _write(self, text: bytes) -> bool:
        """Raises nothing: what can not be written is counted."""
        start = int(self._is_torn)
        text, done = b"\n" * start + text, 0
        while done < len(text):
            try:
                done += os.write(self._fd, text[done : done + WRITE_BYTES])
            except BlockingIOError:  # somebody who shares it made it so
                poller = select.poll()
                poller.register(self._fd, select.POLLOUT)
                poller.poll()
            except OSError as error:
                with self._change:
                    self._lose(text.count(b"\n", max(done, start)), error_text(error))
                self.written += text.count(b"\n", start, max(done, start))
                self._is_failing = True
                self._is_torn = text[done - 1 : done] != b"\n" if done else self._is_torn
                return False
        self.written += text.count(b"\n", start)
        self._is_failing = self._is_torn = False
        return True
