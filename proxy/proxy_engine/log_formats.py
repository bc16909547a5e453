"""How a log line looks: text for people, JSON for machines. One record is one line, always."""

from __future__ import annotations

import datetime
import functools
import json
import logging
import re
from typing import Any, Literal

from proxy_engine.text import escape, scrub

ROOT = "proxy_engine"
LogFormat = Literal["text", "json"]


_PLAIN = re.compile(r"[!#-<>-~]+")  # needs neither quotes nor escaping


@functools.lru_cache(maxsize=16)
def _second(seconds: int) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S")


def timestamp(seconds: float) -> str:
    milliseconds = int(seconds * 1000)
    return f"{_second(milliseconds // 1000)}.{milliseconds % 1000:03d}Z"


def text_value(value: Any) -> str:
    """A field's value on a line of text: escaped, and in quotes where it needs them."""
    text = str(value)
    if _PLAIN.fullmatch(text):
        return text  # nearly always, and much faster
    text = escape(text)
    if text == "" or " " in text or '"' in text or "=" in text:
        return '"' + text.replace('"', '\\"') + '"'
    return text


def text_fields(fields: dict[str, Any]) -> str:
    """Each as " key=value"."""
    return "".join([f" {key}={text_value(value)}" for key, value in fields.items()])


class Record(logging.LogRecord):
    """A line of ours. A program that we are part of sees the fields in the message."""

    def __init__(self, name: str, level: int, message: str, fields: dict[str, Any]) -> None:
        super().__init__(name, level, "", 0, message, (), None)
        self.fields = fields

    def getMessage(self) -> str:
        return scrub(f"{escape(str(self.msg))}{text_fields(self.fields)}")


def parts(record: logging.LogRecord) -> tuple[str, dict[str, Any]]:
    """Message and fields; of other libraries' lines the error and where it happened."""
    if isinstance(record, Record):
        return str(record.msg), record.fields
    error = record.exc_info[1] if record.exc_info else None
    fields = {} if error is None else {"error": repr(error), "where": where(error)}
    return record.getMessage(), fields


def where(error: BaseException) -> str:
    """FILE:LINE that raised it."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else "?"


def _component(record: logging.LogRecord) -> str:
    return record.name.removeprefix(f"{ROOT}.")


class TextFormatter(logging.Formatter):
    """2026-01-02T03:04:05.678Z INFO    links: link up device=pi peer=127.0.0.1:5000"""

    def format(self, record: logging.LogRecord) -> str:
        message, fields = parts(record)
        return scrub(
            f"{timestamp(record.created)} {record.levelname:<7} {_component(record)}: "
            f"{escape(message)}{text_fields(fields)}"
        )


class JsonFormatter(logging.Formatter):
    """One object a line; fields beside time, level, component and message."""

    def format(self, record: logging.LogRecord) -> str:
        message, fields = parts(record)
        line: dict[str, Any] = {
            "time": timestamp(record.created),
            "level": record.levelname.lower(),
            "component": _component(record),
            "message": message,
        }
        for key, value in fields.items():
            plain = value is None or type(value) in (str, int, float, bool)
            line.setdefault(key, value if plain else str(value))
        # ASCII only: no raw C1 or separator reaches a terminal; DEL is the one left over.
        return scrub(json.dumps(line).replace("\x7f", "\\u007f"))
