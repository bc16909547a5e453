from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy_engine_core import log_batch
from proxy_engine_core.core import LogRecord

U64, U32 = st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1)
LATIN = st.characters(max_codepoint=255)


def text(size_max: int) -> st.SearchStrategy[str]:
    return st.text(LATIN, max_size=size_max)


def number(size: int) -> st.SearchStrategy[str]:
    return st.just("") | st.binary(min_size=size, max_size=size).filter(any).map(bytes.hex)


RECORDS = st.builds(
    LogRecord,
    *(U64, U32, U64, text(32), text(46), text(16), text(255), text(1024)),
    *(st.integers(0, 65535), text(32), U32, U64, U64, U64, U64, U64, U32),
    *(number(16), number(8), number(8), st.integers(0, 255)),
)


def record(path: str = "/") -> LogRecord:
    return LogRecord(1, 2, 3, "id", "::1", "GET", "host", path, 200, "why", 4, 5, 6, 7, 8, 9)


@given(st.lists(RECORDS, max_size=5))
def test_what_is_packed_is_unpacked(records: list[LogRecord]) -> None:
    batch = log_batch.pack(records)
    assert log_batch.unpack(batch) == records
    assert log_batch.count(batch) == len(records)
    assert log_batch.newest(batch) == max((record.time_us for record in records), default=0)


def test_a_batch_cut_off_anywhere_but_between_records_is_refused() -> None:
    one = log_batch.pack([record()])
    batch = one + log_batch.pack([record("/longer")])
    for size in range(len(batch)):
        if size in (0, len(one)):
            assert log_batch.count(batch[:size]) == (size > 0)
            continue
        for look in (log_batch.count, log_batch.newest, log_batch.unpack):
            with pytest.raises(ValueError, match="ends inside a record"):
                look(batch[:size])
        with pytest.raises(ValueError, match="ends inside a record"):
            log_batch.rewrite_paths(batch[:size], [b"?"], str.upper)


def test_noise_is_read_within_its_bounds() -> None:
    source = random.Random(1)
    for _ in range(2000):
        noise = source.randbytes(source.randrange(400))
        try:
            assert log_batch.pack(log_batch.unpack(noise)) or not noise
        except ValueError:
            pass


def test_only_paths_with_a_mark_are_rewritten() -> None:
    paths = ["/a", "/b?x", "/c", "?", "", "/d!!"]
    batch = log_batch.pack(map(record, paths))
    seen: list[str] = []

    def rewrite(path: str) -> str:
        seen.append(path)
        return path.replace("x", "[something longer]").replace("!", "")

    found = log_batch.unpack(log_batch.rewrite_paths(batch, [b"?", b"!!"], rewrite))
    assert seen == ["/b?x", "?", "/d!!"]
    assert [each.path for each in found] == ["/a", "/b?[something longer]", "/c", "?", "", "/d"]
    assert [each._replace(path="") for each in found] == [record("")] * len(paths)


def test_a_batch_in_which_nothing_changes_is_the_same_object() -> None:
    batch = log_batch.pack([record("/?a=b")])
    assert log_batch.rewrite_paths(batch, [b"?"], str) is batch
    assert log_batch.rewrite_paths(b"", [b"?"], str) == b""


def test_what_does_not_fit_a_field_is_refused() -> None:
    with pytest.raises(OverflowError):
        log_batch.pack([record()._replace(host="h" * 256)])
    with pytest.raises(OverflowError):
        log_batch.pack([record()._replace(status=65536)])
    with pytest.raises(OverflowError):
        log_batch.pack([record()._replace(bytes_in=-1)])
    with pytest.raises(OverflowError):
        log_batch.pack([record()._replace(link_us=2**32)])
    for bad in ("0a" * 15, "0a" * 17, "0x"):
        with pytest.raises(ValueError, match=r"id of 16 bytes|hex"):
            log_batch.pack([record()._replace(trace_id=bad)])
    with pytest.raises(UnicodeEncodeError):
        log_batch.pack([record()._replace(path="/\u20ac")])


def test_what_the_proxy_took_is_what_link_and_target_did_not() -> None:
    split = record()._replace(first_byte_us=100, link_us=30, target_us=60)
    assert split.proxy_us == 10
    assert log_batch.unpack(log_batch.pack([split]))[0].proxy_us == 10
    assert split._replace(target_us=80).proxy_us == 0  # noise from a disk


def test_a_trace_that_is_cut_short_is_none() -> None:
    traced = record()._replace(trace_id="0a" * 16, trace_flags=1)
    batch = bytearray(log_batch.pack([traced]))
    batch[74] = 31
    [found] = log_batch.unpack(bytes(batch[:-1]))
    assert (found.trace_id, found.path) == ("", traced.path)


def test_totals_are_by_device() -> None:
    sizes = [(3, 1, 10), (3, 2, 20), (0, 5, 5), (4, 2**40, 1), (3, 4, 30)]
    records = [
        record()._replace(device=device, bytes_in=bytes_in, bytes_out=bytes_out)
        for device, bytes_in, bytes_out in sizes
    ]
    found = log_batch.totals(log_batch.pack(records))
    assert found == {3: (3, 7, 60), 0: (1, 5, 5), 4: (1, 2**40, 1)}
    assert log_batch.totals(b"") == {}
    with pytest.raises(ValueError, match="inside a record"):
        log_batch.totals(log_batch.pack(records)[:-1])
