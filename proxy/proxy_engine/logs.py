"""Structured log lines on stderr: text for people, JSON for machines.

`get("links").info("link up", device="pi", peer=...)`: a fixed message and fields, so
that lines can be searched. Every value is escaped, and anything that looks like a token
is scrubbed here, at the last place it could be written down.

get() is for every module. setup() is for programs of ours only, which own their stderr: lines
are written by a thread (line_writer.py), and one that comes again and again is counted
(log_repeats.py). Without it, lines go wherever the program that we are part of sends its own.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

from proxy_engine.line_writer import LineWriter
from proxy_engine.log_formats import ROOT, JsonFormatter, Record, TextFormatter, where
from proxy_engine.log_repeats import Repeats

LEVELS = ("debug", "info", "warning", "error")
FLUSH_SECONDS = 1.0  # that a program waits for the reader of its log when it ends

_NO_FIELDS: dict[str, Any] = {}
_context: ContextVar[dict[str, Any]] = ContextVar("log_fields", default=_NO_FIELDS)


class Log:
    """A logger that takes fields as keyword arguments."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def debug(self, message: str, **fields: Any) -> None:
        self._log(logging.DEBUG, message, fields)

    def info(self, message: str, **fields: Any) -> None:
        self._log(logging.INFO, message, fields)

    def warning(self, message: str, **fields: Any) -> None:
        self._log(logging.WARNING, message, fields)

    def error(self, message: str, **fields: Any) -> None:
        self._log(logging.ERROR, message, fields)

    def exception(self, message: str, error: BaseException, **fields: Any) -> None:
        """A bug of ours: where it happened goes into one field, not over many lines."""
        self._log(logging.ERROR, message, {**fields, "error": repr(error), "where": where(error)})

    def _log(self, level: int, message: str, fields: dict[str, Any]) -> None:
        logger = self._logger
        if logger.isEnabledFor(level):
            # What Logger.log() does, without a walk up the stack for a caller nobody prints:
            # a server logs thousands of lines a second when all its devices come back.
            logger.handle(Record(logger.name, level, message, {**fields, **_context.get()}))


def get(name: str) -> Log:
    return Log(logging.getLogger(f"{ROOT}.{name}"))


@contextlib.contextmanager
def fields(**more: Any) -> Iterator[None]:
    """Lines of this task have these fields as well, until the end of the block."""
    token = _context.set({**_context.get(), **more})
    try:
        yield
    finally:
        _context.reset(token)


def field(name: str) -> str:
    """What fields() says of this task; "" if nothing."""
    return str(_context.get().get(name, ""))


class QueueHandler(logging.Handler):
    """Formats where a line is logged, and leaves the writing to a thread."""

    def __init__(self, fd: int, log_format: str) -> None:
        super().__init__()
        self.log_format = log_format
        self._repeats = Repeats()
        self.writer = LineWriter(fd, loss_line=self._loss_line, tick=self._say_repeats)

    @property
    def log_format(self) -> str:
        return self._log_format

    @log_format.setter
    def log_format(self, log_format: str) -> None:
        self._log_format = log_format
        self.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())

    def emit(self, record: logging.LogRecord) -> None:
        if not self._repeats.is_one(record, time.monotonic()):
            self.writer.put(self._line(record))

    def _line(self, record: logging.LogRecord) -> bytes:
        return self.format(record).encode(errors="backslashreplace") + b"\n"

    def _loss_line(self, count: int, reason: str) -> bytes:
        what = {"count": count, "reason": reason}
        return self._line(Record(f"{ROOT}.logs", logging.WARNING, "log lines were lost", what))

    def _say_repeats(self) -> float | None:
        """In the writer's thread."""
        assert self.lock is not None
        now = time.monotonic()
        with self.lock:
            for record in self._repeats.due(now):
                self.writer.put(self._line(record))
            return self._repeats.wait(now)

    def flush_within(self, seconds: float) -> None:
        assert self.lock is not None
        with self.lock:
            for record in self._repeats.due(float("inf")):
                self.writer.put(self._line(record))
        self.writer.flush(seconds)

    def stats(self) -> dict[str, int]:
        return {
            "log_lines_written": self.writer.written,
            "log_lines_dropped": self.writer.dropped,
            "log_lines_repeated": self._repeats.held,
        }


def setup(log_format: str, level: str = "info", fd: int | None = None) -> None:
    """Send every log line of this process to stderr (or fd). Once, before the first line."""
    fd = stderr_fd() if fd is None else fd
    # Nobody prints these; finding them out costs a third of a line.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    root = logging.getLogger()
    root.handlers[:] = [logging.NullHandler() if fd is None else QueueHandler(fd, log_format)]
    root.setLevel(logging.WARNING)
    logging.getLogger(ROOT).setLevel(level.upper())


def adjust(log_format: str, level: str) -> None:
    """Another format and level, if setup() is what lines go by."""
    handler = queue_handler()
    if handler is not None:
        handler.log_format = log_format
        logging.getLogger(ROOT).setLevel(level.upper())


def flush(seconds: float = FLUSH_SECONDS) -> None:
    """Let what was logged be written, for as long as that."""
    handler = queue_handler()
    if handler is not None:
        handler.flush_within(seconds)


def stats() -> dict[str, int]:
    """Counters of lines; zeros without setup()."""
    handler = queue_handler()
    if handler is None:
        return dict.fromkeys(("log_lines_written", "log_lines_dropped", "log_lines_repeated"), 0)
    return handler.stats()


def queue_handler() -> QueueHandler | None:
    """What setup() made."""
    found = (each for each in logging.getLogger().handlers if isinstance(each, QueueHandler))
    return next(found, None)


def stderr_fd() -> int | None:
    """None if it is closed: then its number may be that of a socket by now."""
    try:
        return sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):
        return None
