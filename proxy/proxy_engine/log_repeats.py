"""The same line many times a second is said once, and then once a second how often more."""

from __future__ import annotations

import logging

from proxy_engine.log_formats import Record, parts

WINDOW = 1.0  # seconds
LINES_MAX = 1024  # different ones that are remembered; others are said each time


class _Line:
    __slots__ = ("count", "record")

    def __init__(self, record: logging.LogRecord) -> None:
        self.record = record
        self.count = 0  # since it was said


class Repeats:
    """Not for several threads at once.

    A line is remembered by its hash, 64 bits of a secret function: a thousand devices that come
    back say a thousand lines, of which none comes again.
    """

    def __init__(self) -> None:
        self._deadlines: dict[int, float] = {}  # the first first
        self._repeated: dict[int, _Line] = {}  # those that came again
        self.held = 0  # lines that were not said, ever

    def is_one(self, record: logging.LogRecord, now: float) -> bool:
        """Whether it was said within the last second: then it is only counted."""
        message, fields = parts(record)
        key = hash((record.name, record.levelno, f"{message}{fields!r}"))
        deadline = self._deadlines.get(key)
        if deadline is not None and deadline > now:
            line = self._repeated.get(key)
            if line is None:
                line = self._repeated[key] = _Line(record)
            line.count += 1
            self.held += 1
            return True
        if deadline is None and len(self._deadlines) < LINES_MAX:
            self._deadlines[key] = now + WINDOW
        return False

    def due(self, now: float) -> list[logging.LogRecord]:
        """What to say now of those that were held; the field `repeated` counts them."""
        said = []
        while self._deadlines:
            key, deadline = next(iter(self._deadlines.items()))
            if deadline > now:
                break
            del self._deadlines[key]
            line = self._repeated.pop(key, None)
            if line is not None:
                said.append(_counted(line))
                self._deadlines[key] = now + WINDOW
        return said

    def wait(self, now: float) -> float | None:
        """Seconds until due() may have something; None: no line is remembered."""
        if not self._deadlines:
            return None
        return max(0.0, next(iter(self._deadlines.values())) - now)


def _counted(line: _Line) -> logging.LogRecord:
    message, fields = parts(line.record)
    return Record(
        line.record.name, line.record.levelno, message, {**fields, "repeated": line.count}
    )
