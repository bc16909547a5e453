from __future__ import annotations

import csv
import io
import json
from typing import Any

from proxy_engine.requests.export import CSV_HEAD, csv_lines, json_lines
from proxy_engine.storage import Request


def request(number: int, **texts: str) -> Request:
    names: dict[str, Any] = {"request_id": "r", "method": "GET", "host": "h", "path": "/", **texts}
    return Request(
        id=number, time_us=1, visitor="::1", status=200, reason="", flags=0, bytes_in=1,
        bytes_out=2, total_us=3, first_byte_us=4, target_us=5, tunnel=None, device="pi",
        state="closed", **names,
    )  # fmt: skip


def test_a_request_is_one_line_of_json() -> None:
    lines = json_lines([request(1, path="/\n"), request(2)]).splitlines()
    assert [json.loads(line)["id"] for line in lines] == [1, 2]
    assert json_lines([]) == b""


def test_csv_has_a_head_and_no_formulas() -> None:
    odd = request(7, path='/a,"b"?x', request_id="=1+1", host="-x", method="@y")
    text = (CSV_HEAD + csv_lines([odd])).decode()
    [row] = csv.DictReader(io.StringIO(text, newline=""))
    assert (row["id"], row["path"], row["state"], row["tunnel"]) == ("7", '/a,"b"?x', "closed", "")
    assert (row["request_id"], row["host"], row["method"]) == ("'=1+1", "'-x", "'@y")
