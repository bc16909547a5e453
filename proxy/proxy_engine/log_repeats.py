"""The same line many times a second is said once, and then once a second how often more."""

from __future__ import annotations

import logging

from proxy_engine.log_formats import Record, parts

WINDOW = 1.0  # seconds
LINES_MAX = 1024  # different ones that are remembered; others are said each time


class _Line:
    __slots__ = ("count", "deadline", "record")

    def __init__(self, record: logging.LogRecord, deadline: float) -> None:
        self.record = record
        self.deadline = deadline
        self.count = 0  # since it was said


class Repeats:
    """Not for several threads at once."""

    def __init__(self) -> None:
        self._lines: dict[tuple[str, int, str], _Line] = {}  # by deadline, the first first
        self.held = 0  # lines that were not said, ever

    def is_one(self, record: logging.LogRecord, now: float) -> bool:
        """Whether it was said within the last second: then it is only counted."""
        message, fields = parts(record)
        key = (record.name, record.levelno, f"{message}{fields!r}")
        line = self._lines.get(key)
        if line is not None and line.deadline > now:
            line.count += 1
            self.held += 1
            return True
        if line is None and len(self._lines) < LINES_MAX:
            self._lines[key] = _Line(record, now + WINDOW)
        return False

    def due(self, now: float) -> list[logging.LogRecord]:
        """What to say now of those that were held; the field `repeated` counts them."""
        said = []
        while self._lines:
            key = next(iter(self._lines))
            line = self._lines[key]
            if line.deadline > now:
                break
            del self._lines[key]
            if line.count:
                said.append(_counted(line))
                line.count, line.deadline = 0, now + WINDOW
                self._lines[key] = line
        return said

    def wait(self, now: float) -> float | None:
        """Seconds until due() may have something; None: no line is remembered."""
        if not self._lines:
            return None
        return max(0.0, next(iter(self._lines.values())).deadline - now)


def _counted(line: _Line) -> logging.LogRecord:
    message, fields = parts(line.record)
    return Record(
        line.record.name, line.record.levelno, message, {**fields, "repeated": line.count}
    )
