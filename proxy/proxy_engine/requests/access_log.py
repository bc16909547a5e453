"""One line of the log for each finished request, on demand (the setting `access_log`).

Lines are made of batches of log records that have been collected anyway, in the thread that writes
them: neither the data path nor the event loop waits for a disk. A batch that has no room in
the queue of the log is dropped, and its lines are counted with the others that were.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from operator import attrgetter
from typing import Any

import msgspec

from proxy_engine import logs
from proxy_engine.log_formats import ROOT, text_fields, timestamp
from proxy_engine.requests.redaction import MARKS
from proxy_engine.text import scrub
from proxy_engine_core import log_batch
from proxy_engine_core.core import LogRecord

COMPONENT = "access"
MESSAGE = "request"
RECORDS_MAX = 500  # of one batch, where each is a record of another program's logging
# Of a log record; its numbers of tunnel and device become names.
FIELDS = (
    *("request_id", "visitor", "method", "host", "path", "status", "reason", "bytes_in"),
    *("bytes_out", "total_us", "first_byte_us", "proxy_us", "link_us", "target_us"),
)
TRACE_FIELDS = ("trace_id", "parent_id", "span_id", "trace_flags")  # ... if it is of one

_VALUES = attrgetter(*FIELDS)
_TRACE_VALUES = attrgetter(*TRACE_FIELDS)

_log = logs.get(COMPONENT)


class AccessLog:
    """
    Args:
        redact: a path and query as they may be written down; called in another thread.
        tunnel_name, device_name: of the ids in log records; called there too.
    """

    def __init__(
        self,
        *,
        redact: Callable[[str], str],
        tunnel_name: Callable[[int], str | None],
        device_name: Callable[[int], str | None],
    ) -> None:
        self._redact = redact
        self._tunnel_name = tunnel_name
        self._device_name = device_name
        self.dropped = 0  # lines that another program's logging was spared

    def put(self, batch: bytes) -> None:
        """Packed records of requests that ended (proxy_engine_core.log_batch)."""
        handler = logs.queue_handler()
        if handler is None:  # embedded: the application's logging decides
            if logging.getLogger(f"{ROOT}.{COMPONENT}").isEnabledFor(logging.INFO):
                records = self._records(batch)
                for record in records[:RECORDS_MAX]:
                    _log.info(MESSAGE, **self._fields(record))
                left = len(records) - RECORDS_MAX
                if left > 0:
                    self.dropped += left
                    _log.warning("requests not logged", count=left)
            return
        lines = _json_lines if handler.log_format == "json" else _text_lines
        handler.writer.put_bulk(
            partial(self._lines, lines, batch),
            size=len(batch),
            lines=log_batch.count(batch),
        )

    def _lines(
        self, lines: Callable[[list[tuple[float, dict[str, Any]]]], str], batch: bytes
    ) -> bytes:
        records = self._records(batch)
        found = [(record.time_us / 1e6, self._fields(record)) for record in records]
        return scrub(lines(found)).encode(errors="backslashreplace")

    def _records(self, batch: bytes) -> list[LogRecord]:
        return log_batch.unpack(log_batch.rewrite_paths(batch, MARKS, self._redact))

    def _fields(self, record: LogRecord) -> dict[str, Any]:
        fields = dict(zip(FIELDS, _VALUES(record), strict=True))
        if record.trace_id:
            fields.update(zip(TRACE_FIELDS, _TRACE_VALUES(record), strict=True))
        fields["tunnel"] = self._tunnel_name(record.route)
        fields["device"] = self._device_name(record.device)
        return fields


def _text_lines(found: list[tuple[float, dict[str, Any]]]) -> str:
    start = f"{'INFO':<7} {COMPONENT}: {MESSAGE}"
    return "".join(
        [f"{timestamp(moment)} {start}{text_fields(fields)}\n" for moment, fields in found]
    )


def _json_lines(found: list[tuple[float, dict[str, Any]]]) -> str:
    common = {"level": "info", "component": COMPONENT, "message": MESSAGE}
    lines = [
        msgspec.json.encode({"time": timestamp(moment), **common, **fields}).decode()
        for moment, fields in found
    ]
    return "".join([_ascii(line) + "\n" for line in lines])


def _ascii(line: str) -> str:
    """JSON that no terminal takes for anything else: C1, DEL and the like as \\uXXXX."""
    if line.isascii() and line.isprintable():
        return line
    return "".join([x if " " <= x <= "~" else _escaped(x) for x in line])


def _escaped(character: str) -> str:
    units = character.encode("utf-16-be")
    return "".join([f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2)])
