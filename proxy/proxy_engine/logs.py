"""Structured log lines on stderr: text for people, JSON for machines.

`get("links").info("link up", device="pi", peer=...)`: a fixed message and fields, so
that lines can be searched. Every value is escaped, and anything that looks like a token
is scrubbed here, at the last place it could be written down.
"""

from __future__ import annotations

import datetime
import json
import logging
import sys
from typing import IO, Any

from proxy_engine.text import escape, scrub

ROOT = "proxy_engine"


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
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        where = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else "?"
        self._log(logging.ERROR, message, {**fields, "error": repr(error), "where": where})

    def _log(self, level: int, message: str, fields: dict[str, Any]) -> None:
        logger = self._logger
        if logger.isEnabledFor(level):
            # What Logger.log() does, without a walk up the stack for a caller nobody prints:
            # a server logs thousands of lines a second when all its devices come back.
            logger.handle(
                logger.makeRecord(
                    logger.name, level, "", 0, message, (), None, extra={"fields": fields}
                )
            )


def get(name: str) -> Log:
    return Log(logging.getLogger(f"{ROOT}.{name}"))


def _timestamp(record: logging.LogRecord) -> str:
    moment = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _component(record: logging.LogRecord) -> str:
    return record.name.removeprefix(f"{ROOT}.")


class TextFormatter(logging.Formatter):
    """2026-01-02T03:04:05.678Z INFO  links: link up device=pi peer=127.0.0.1:5000"""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = getattr(record, "fields", {})
        parts = [
            f"{_timestamp(record)} {record.levelname:<7} {_component(record)}: "
            f"{escape(record.getMessage())}"
        ]
        parts += [f"{key}={self._value(value)}" for key, value in fields.items()]
        if record.exc_info and record.exc_info[1] is not None:
            parts.append(f"error={self._value(repr(record.exc_info[1]))}")
        return scrub(" ".join(parts))

    @staticmethod
    def _value(value: Any) -> str:
        if type(value) is int:
            return str(value)
        text = escape(str(value))
        if text == "" or " " in text or '"' in text or "=" in text:
            return '"' + text.replace('"', '\\"') + '"'
        return text


class JsonFormatter(logging.Formatter):
    """One object a line; fields beside time, level, component and message."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": _timestamp(record),
            "level": record.levelname.lower(),
            "component": _component(record),
            "message": record.getMessage(),
        }
        for key, value in getattr(record, "fields", {}).items():
            plain = value is None or type(value) in (str, int, float, bool)
            line.setdefault(key, value if plain else str(value))
        if record.exc_info and record.exc_info[1] is not None:
            line.setdefault("error", repr(record.exc_info[1]))
        # ASCII only: no raw C1 or separator reaches a terminal; DEL is the one left over.
        return scrub(json.dumps(line).replace("\x7f", "\\u007f"))


def setup(log_format: str, stream: IO[str] | None = None, level: int = logging.INFO) -> None:
    """Send every log line to stderr (or stream). Call once, before the first line."""
    handler = logging.StreamHandler(stream if stream is not None else sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    # Nobody prints these; finding them out costs a third of a line.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging.raiseExceptions = False  # a closed stderr must not take the program down
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger(ROOT).setLevel(level)


def flush() -> None:
    for handler in logging.getLogger().handlers:
        handler.flush()
