from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy_engine import logs
from proxy_engine.log_formats import Record
from proxy_engine.log_repeats import LINES_MAX, Repeats
from proxy_engine.text import duration_text, escape, size_text
from proxy_engine.tokens import new_secret


class Written:
    """A file that log lines are written to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def text(self) -> str:
        logs.flush()
        return self.path.read_text()

    def lines(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.text().splitlines()]


@pytest.fixture
def written(tmp_path: Path) -> Iterator[Written]:
    root, ours = logging.getLogger(), logging.getLogger("proxy_engine")
    handlers, levels = root.handlers[:], (root.level, ours.level)
    file = Written(tmp_path / "log")
    yield file
    logs.flush()
    root.handlers[:] = handlers
    for logger, level in zip((root, ours), levels, strict=True):
        logger.setLevel(level)
    os.close(file.fd)


def test_a_text_line_holds_message_and_fields(written: Written) -> None:
    logs.setup("text", fd=written.fd)
    logs.get("links").info("link up", device="pi", note="two words", empty="")
    line = written.text()
    assert line.endswith('INFO    links: link up device=pi note="two words" empty=""\n')


def test_a_json_line_is_one_object(written: Written) -> None:
    logs.setup("json", fd=written.fd)
    logs.get("links").warning("link down", link=7, reason="bye")
    [line] = written.lines()
    assert line["level"] == "warning"
    assert line["component"] == "links"
    assert line["message"] == "link down"
    assert (line["link"], line["reason"]) == (7, "bye")


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_record_is_one_line_whatever_it_holds(written: Written, log_format: str) -> None:
    logs.setup(log_format, fd=written.fd)
    logs.get("x").info("m\n", evil="a\r\nb\x1b[31m\x9b\x7f\u2028\u202e\ud800")
    line = written.text()
    assert line.endswith("\n")
    assert not set(line[:-1]) & set("\r\n\x1b\x9b\x7f\u2028\u202e\ud800")


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_token_is_never_written(written: Written, log_format: str) -> None:
    logs.setup(log_format, fd=written.fd)
    secret = new_secret()
    logs.get("x").error(f"failed with {secret}", header=f"Bearer {secret}")
    assert secret[3:] not in written.text()
    assert "pe_[redacted]" in written.text()


def test_a_bug_is_one_line_that_says_where(written: Written) -> None:
    logs.setup("text", fd=written.fd)
    try:
        raise KeyError("gone")
    except KeyError as error:
        logs.get("x").exception("handler failed", error)
        logging.getLogger("other.library").exception("it failed")
    ours, theirs = written.text().splitlines()
    assert "test_logs.py:" in ours
    assert "test_logs.py:" in theirs
    assert "KeyError" in theirs


def test_lines_of_a_task_have_its_fields(written: Written) -> None:
    logs.setup("json", fd=written.fd)
    log = logs.get("x")
    with logs.fields(request_id="r1"):
        log.info("a", size=1)
        assert logs.field("request_id") == "r1"
    log.info("b")
    first, second = written.lines()
    assert (first["request_id"], first["size"]) == ("r1", 1)
    assert "request_id" not in second
    assert logs.field("request_id") == ""


def test_format_and_level_change_while_it_runs(written: Written) -> None:
    logs.setup("text", "warning", fd=written.fd)
    logs.get("x").info("not said")
    logs.adjust("json", "debug")
    logs.get("x").debug("said")
    [line] = written.lines()
    assert line["message"] == "said"


def test_an_application_that_embeds_us_keeps_its_own_logging(
    caplog: pytest.LogCaptureFixture,
) -> None:
    before = logging.getLogger().handlers[:], logging.getLogger("proxy_engine").level
    logs.adjust("json", "error")
    logs.get("links").warning("link\ndown", device="pi", why="a b")
    assert caplog.messages == ['link\\x0adown device=pi why="a b"']
    assert (logging.getLogger().handlers, logging.getLogger("proxy_engine").level) == before
    assert set(logs.stats().values()) == {0}


def test_the_same_line_again_and_again_becomes_one_with_a_count(written: Written) -> None:
    logs.setup("json", fd=written.fd)
    for number in range(1000):
        logs.get("x").warning("full", tunnel="web")
        if number % 500 == 0:
            logs.get("x").warning("full", tunnel="other", number=number)
    found = [(line["tunnel"], line.get("repeated")) for line in written.lines()]
    assert found[:3] == [("web", None), ("other", None), ("other", None)]
    assert sum(int(str(count)) for tunnel, count in found[3:] if tunnel == "web") == 999
    assert logs.stats()["log_lines_repeated"] == 999
    assert len(found) < 10  # flushed at the end, or once a second on a slow machine


def record(message: str) -> logging.LogRecord:
    return Record("x", logging.INFO, message, {})


def test_what_repeats_is_said_once_a_second() -> None:
    repeats = Repeats()
    assert not repeats.is_one(record("a"), 10.0)
    assert repeats.wait(10.0) == 1.0
    assert repeats.is_one(record("a"), 10.5)
    assert not repeats.is_one(record("b"), 10.6)
    assert repeats.due(10.9) == []
    [said] = repeats.due(11.1)
    assert (said.msg, vars(said)["fields"]) == ("a", {"repeated": 1})
    assert repeats.is_one(record("a"), 11.2)  # and the next second is counted as well
    assert [x.msg for x in repeats.due(12.2)] == ["a"]
    assert repeats.due(13.3) == []
    assert repeats.wait(13.3) is None
    assert not repeats.is_one(record("a"), 13.4)


def test_repeats_remembers_so_many_lines_and_says_the_others() -> None:
    repeats = Repeats()
    for number in range(LINES_MAX + 1):
        assert not repeats.is_one(record(str(number)), 1.0)
    assert not repeats.is_one(record(str(LINES_MAX)), 1.0)
    assert repeats.is_one(record("0"), 1.0)


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
