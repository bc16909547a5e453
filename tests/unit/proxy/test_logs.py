from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from proxy_engine import logs
from proxy_engine.text import duration_text, escape, size_text
from proxy_engine.tokens import new_secret


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level, raises = root.handlers[:], root.level, logging.raiseExceptions
    yield io.StringIO()
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.raiseExceptions = raises


def test_a_text_line_holds_message_and_fields(stream: io.StringIO) -> None:
    logs.setup("text", stream)
    logs.get("links").info("link up", device="pi", note="two words", empty="")
    line = stream.getvalue()
    assert line.endswith('INFO    links: link up device=pi note="two words" empty=""\n')


def test_a_json_line_is_one_object(stream: io.StringIO) -> None:
    logs.setup("json", stream)
    logs.get("links").warning("link down", link=7, reason="bye")
    line = json.loads(stream.getvalue())
    assert line["level"] == "warning"
    assert line["component"] == "links"
    assert line["message"] == "link down"
    assert (line["link"], line["reason"]) == (7, "bye")


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_record_is_one_line_whatever_it_holds(stream: io.StringIO, log_format: str) -> None:
    logs.setup(log_format, stream)
    logs.get("x").info("m\n", evil="a\r\nb\x1b[31m\x9b\x7f\u2028\u202e\ud800")
    line = stream.getvalue()
    assert line.endswith("\n")
    assert not set(line[:-1]) & set("\r\n\x1b\x9b\x7f\u2028\u202e\ud800")


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_token_is_never_written(stream: io.StringIO, log_format: str) -> None:
    logs.setup(log_format, stream)
    secret = new_secret()
    logs.get("x").error(f"failed with {secret}", header=f"Bearer {secret}")
    assert secret[3:] not in stream.getvalue()
    assert "pe_[redacted]" in stream.getvalue()


def test_a_bug_is_one_line_that_says_where(stream: io.StringIO) -> None:
    logs.setup("text", stream)
    try:
        raise KeyError("gone")
    except KeyError as error:
        logs.get("x").exception("handler failed", error)
    assert stream.getvalue().count("\n") == 1
    assert "test_logs.py:" in stream.getvalue()


def test_escape_leaves_ordinary_text_alone() -> None:
    assert escape("häuser/日本?x=1 ✓") == "häuser/日本?x=1 ✓"
    assert escape("a\nb") == "a\\x0ab"


def test_durations_and_sizes_are_short() -> None:
    texts = [duration_text(seconds) for seconds in (0.00095, 0.0123, 3.21, 125, 11520)]
    assert texts == ["950µs", "12.3ms", "3.21s", "2m05s", "3h12m"]
    assert [size_text(count) for count in (12, 3500, 2**20, 2**40)] == [
        "12B",
        "3.4KiB",
        "1.0MiB",
        "1024.0GiB",
    ]
