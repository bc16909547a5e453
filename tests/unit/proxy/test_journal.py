from __future__ import annotations

import multiprocessing
import os
import random
import resource
import signal
import stat
from pathlib import Path

import pytest

from proxy_engine.requests import journal as journals
from proxy_engine.requests.journal import ENTRY_HEADER, SEGMENT_HEADER, Journal


def opened(path: Path, size_max: int = 1 << 20) -> Journal:
    journal = Journal(path / "journal", size_max=size_max)
    journal.open()
    return journal


def files(path: Path) -> list[Path]:
    return sorted((path / "journal").iterdir())


def drained(journal: Journal) -> list[bytes]:
    found = []
    while (batch := journal.head()) is not None:
        found.append(batch)
        journal.advance()
    return found


def batch(number: int) -> bytes:
    return b"%06d" % number * (1 + number % 7)


def filled(path: Path, count: int) -> None:
    journal = opened(path)
    assert all(journal.append(batch(number)) for number in range(count))
    journal.close()


def test_batches_come_back_in_order_also_in_the_next_run(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    assert not journal and journal.head() is None
    for number in range(10):
        assert journal.append(batch(number))
    assert journal
    for number in range(4):
        assert journal.head() == batch(number)
        assert journal.head() == batch(number)
        journal.advance()
    journal.close()
    journal = opened(tmp_path)
    assert journal
    assert journal.append(batch(10))
    assert drained(journal) == [batch(number) for number in range(4, 11)]
    assert (journal.size, journal.torn, files(tmp_path)) == (0, 0, [])


def test_its_files_are_for_its_owner_only(tmp_path: Path) -> None:
    filled(tmp_path, 1)
    [file] = files(tmp_path)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_segments_are_deleted_as_they_are_worked_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journals, "SEGMENT_BYTES", 200)
    journal = opened(tmp_path)
    for number in range(40):
        journal.append(batch(number))
    count = len(files(tmp_path))
    assert count > 4
    assert journal.size == sum(file.stat().st_size for file in files(tmp_path))
    for number in range(20):
        assert journal.head() == batch(number)
        journal.advance()
        journal.append(batch(40 + number))
    assert journal.size == sum(file.stat().st_size for file in files(tmp_path))
    assert drained(journal) == [batch(number) for number in range(20, 60)]
    assert (journal.size, files(tmp_path)) == (0, [])


def test_beyond_its_size_nothing_is_taken_until_there_is_room(tmp_path: Path) -> None:
    journal = opened(tmp_path, 100)
    assert journal.append(b"x" * 60)
    assert not journal.append(b"y" * 60)
    assert journal.append(b"z")
    assert drained(journal) == [b"x" * 60, b"z"]
    assert journal.append(b"y" * 60)


def test_a_torn_tail_is_cut_at_every_byte_and_counted(tmp_path: Path) -> None:
    filled(tmp_path, 3)
    [file] = files(tmp_path)
    whole = file.read_bytes()
    ends = [SEGMENT_HEADER.size]
    for number in range(3):
        ends.append(ends[-1] + ENTRY_HEADER.size + len(batch(number)))
    for size in range(len(whole)):
        file.write_bytes(whole[:size])
        journal = opened(tmp_path)
        complete = sum(end <= size for end in ends[1:])
        assert drained(journal) == [batch(number) for number in range(complete)], size
        assert journal.torn == (size not in ends), size
        assert (journal.size, files(tmp_path)) == (0, [])


def test_a_damaged_entry_is_left_out_and_counted(tmp_path: Path) -> None:
    filled(tmp_path, 3)
    [file] = files(tmp_path)
    data = bytearray(file.read_bytes())
    second = SEGMENT_HEADER.size + ENTRY_HEADER.size + len(batch(0)) + ENTRY_HEADER.size
    data[second] ^= 1
    file.write_bytes(data)
    journal = opened(tmp_path)
    assert drained(journal) == [batch(0), batch(2)]
    assert journal.torn == 1


def test_zeros_that_a_power_cut_left_are_no_entries(tmp_path: Path) -> None:
    filled(tmp_path, 2)
    [file] = files(tmp_path)
    file.write_bytes(file.read_bytes() + bytes(4096))
    journal = opened(tmp_path)
    assert drained(journal) == [batch(0), batch(1)]
    assert journal.torn == 1


def test_noise_gives_no_batch_and_no_exception(tmp_path: Path) -> None:
    source = random.Random(1)
    filled(tmp_path, 5)
    [file] = files(tmp_path)
    whole = file.read_bytes()
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(source.randrange(1, 5)):
            data[source.randrange(len(data))] = source.randrange(256)
        file.write_bytes(data)
        try:
            journal = opened(tmp_path)
        except OSError as error:
            assert "another version" in str(error)
            continue
        assert set(drained(journal)) <= {batch(number) for number in range(5)}


def test_a_journal_of_the_layout_before_is_read(tmp_path: Path) -> None:
    filled(tmp_path, 3)
    [file] = files(tmp_path)
    data = bytearray(file.read_bytes())
    assert data[4] == 2
    data[4] = 1
    file.write_bytes(data)
    assert drained(opened(tmp_path)) == [batch(number) for number in range(3)]


def test_a_newer_layout_is_left_alone(tmp_path: Path) -> None:
    filled(tmp_path, 1)
    [file] = files(tmp_path)
    data = bytearray(file.read_bytes())
    data[4] = 200
    file.write_bytes(data)
    with pytest.raises(OSError, match="another version"):
        opened(tmp_path)
    assert file.read_bytes() == data


def test_a_full_disk_takes_nothing_half(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    assert journal.append(b"a" * 1000)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
    try:
        assert not journal.append(b"b" * 8000)
        assert journal.is_failing
        assert journal.append(b"c" * 1000)
        assert not journal.is_failing
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert drained(journal) == [b"a" * 1000, b"c" * 1000]
    assert journal.torn == 0


def _write_until_killed(path: Path, pipe: int) -> None:
    journal = opened(path, 1 << 30)
    number = 0
    while True:
        journal.append(batch(number))
        number += 1
        os.write(pipe, b".")


def test_killed_while_writing_it_has_all_that_it_took(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    for round_ in range(5):
        folder = tmp_path / str(round_)
        folder.mkdir()
        reading, writing = os.pipe()
        process = context.Process(target=_write_until_killed, args=(folder, writing))
        process.start()
        os.close(writing)
        taken = 0
        while taken < 500 * (round_ + 1):
            taken += len(os.read(reading, 4096))
        process.kill()
        process.join()
        while rest := os.read(reading, 1 << 16):
            taken += len(rest)
        os.close(reading)
        journal = opened(folder, 1 << 30)
        found = drained(journal)
        assert found == [batch(number) for number in range(len(found))]
        assert taken <= len(found) <= taken + 1
