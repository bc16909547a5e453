"""Descriptors that misbehave, and a caller that never notices."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from proxy_engine.line_writer import LineWriter

LINE = b"x" * 99 + b"\n"


def said(count: int, reason: str) -> bytes:
    return f"lost {count}: {reason}\n".encode()


def told(text: bytes) -> int:
    """Lines that the text says are lost."""
    return sum(map(int, re.findall(rb"lost (\d+): nobody read them\n", text)))


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    for fd in (reader, writer):
        try:
            os.close(fd)
        except OSError:
            pass  # the test has closed it


def eventually(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def read_until(fd: int, end: bytes) -> bytes:
    text = b""
    while not text.endswith(end):
        text += os.read(fd, 1 << 20)
    return text


def test_lines_are_written_in_order(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    writer = LineWriter(fd)
    for number in range(1000):
        assert writer.put(f"{number}\n".encode())
        if number == 500:
            writer.put_bulk(lambda: b"a\nb\n", size=100, lines=2)
    assert writer.flush(20)
    os.close(fd)
    lines = (tmp_path / "log").read_text().split()
    assert lines == [*map(str, range(501)), "a", "b", *map(str, range(501, 1000))]
    assert (writer.written, writer.dropped) == (1002, 0)


def test_a_pipe_that_nobody_reads_holds_up_nobody(pipe: tuple[int, int]) -> None:
    reader, fd = pipe
    writer = LineWriter(fd, loss_line=said, size_max=100_000)
    started = time.monotonic()
    taken = sum(writer.put(LINE) for _ in range(10_000))
    assert time.monotonic() - started < 5
    assert not writer.flush(0.05)
    assert taken < 10_000
    assert writer.dropped == 10_000 - taken
    # Somebody reads again: everything that was taken comes, and how much did not.
    text = b""
    while told(text) < writer.dropped or text.count(LINE) < taken:  # the loss may be told first
        text += os.read(reader, 1 << 20)
    assert told(text) == writer.dropped
    assert text.count(LINE) == taken
    assert writer.flush(20)


def test_bulk_leaves_room_for_what_matters(pipe: tuple[int, int]) -> None:
    _, fd = pipe
    writer = LineWriter(fd, size_max=1000)
    writer.put(b"y" * (1 << 20) + b"\n")  # too large for the queue itself
    assert writer.dropped == 1
    writer = LineWriter(fd, size_max=1 << 20)
    writer.put(b"y" * (256 << 10))  # more than a pipe holds: the thread is stuck
    eventually(lambda: not writer._queue)
    while writer.put_bulk(lambda: LINE, size=100_000, lines=7):
        pass
    assert writer.dropped == 7
    assert writer.put(LINE)


def test_a_full_disk_is_counted_and_the_next_line_tried() -> None:
    fd = os.open("/dev/full", os.O_WRONLY)
    writer = LineWriter(fd, loss_line=said)
    for _ in range(3):
        writer.put(LINE)
        assert writer.flush(20)
    os.close(fd)
    assert (writer.written, writer.dropped) == (0, 3)


def test_a_reader_that_is_gone_is_counted_and_nobody_dies(pipe: tuple[int, int]) -> None:
    reader, fd = pipe
    writer = LineWriter(fd, loss_line=said)
    writer.put(LINE)
    assert writer.flush(20)
    os.close(reader)
    for _ in range(5):
        writer.put(LINE)
        assert writer.flush(20)
    assert (writer.written, writer.dropped) == (1, 5)


def test_what_a_full_disk_tore_gets_an_end_and_is_told_of(tmp_path: Path) -> None:
    # A file may be as long as the limit says: a disk with room for a line and a half.
    import resource
    import signal

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    fd = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    writer = LineWriter(fd, loss_line=said)
    resource.setrlimit(resource.RLIMIT_FSIZE, (150, limits[1]))
    try:
        writer.put(LINE)
        assert writer.flush(20)
        writer.put(LINE)
        writer.put(LINE)
        assert writer.flush(20)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    writer.put(b"again\n")
    assert writer.flush(20)
    os.close(fd)
    told = said(2, "File too large")
    assert (tmp_path / "log").read_bytes() == LINE + LINE[:50] + b"\n" + told + b"again\n"
    assert (writer.written, writer.dropped) == (3, 2)


def test_a_descriptor_that_does_not_block_is_waited_for(pipe: tuple[int, int]) -> None:
    reader, fd = pipe
    os.set_blocking(fd, False)  # as whoever shares our stderr may have made it
    writer = LineWriter(fd)
    for _ in range(5000):
        writer.put(LINE)
    writer.put(b"end\n")
    text = read_until(reader, b"end\n")
    assert text == LINE * 5000 + b"end\n"
    assert writer.dropped == 0


def test_lines_that_can_not_be_made_are_counted(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    writer = LineWriter(fd, loss_line=said)

    def fail() -> bytes:
        raise ValueError("no")

    writer.put_bulk(fail, size=10, lines=4)
    assert writer.flush(20)
    writer.put(b"on\n")
    assert writer.flush(20)
    os.close(fd)
    assert (tmp_path / "log").read_bytes() == b"lost 4: ValueError('no')\non\n"


def test_the_thread_is_asked_again_when_it_said(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    asked: list[float] = []

    def tick() -> float | None:
        asked.append(time.monotonic())
        return 0.05 if len(asked) < 5 else None

    writer = LineWriter(fd, tick=tick)
    writer.put(LINE)
    eventually(lambda: len(asked) >= 5)
    os.close(fd)
