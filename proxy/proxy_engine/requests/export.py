"""Requests of the log as JSON lines and CSV, page after page."""

from __future__ import annotations

import csv
import io

import msgspec

from proxy_engine.storage import Request

COLUMNS = Request.__struct_fields__
CSV_HEAD = ",".join(COLUMNS).encode() + b"\r\n"


def json_lines(requests: list[Request]) -> bytes:
    return msgspec.json.Encoder().encode_lines(requests)


def csv_lines(requests: list[Request]) -> bytes:
    """Without CSV_HEAD."""
    text = io.StringIO()
    rows = csv.writer(text)
    for request in requests:
        rows.writerow([_cell(getattr(request, column)) for column in COLUMNS])
    return text.getvalue().encode()


def _cell(value: object) -> object:
    """A visitor's text must not become a formula where the file is opened."""
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return "'" + value
    return value
