from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy_engine_core import log_batch, log_index
from proxy_engine_core.core import (
    LOG_ABORTED,
    LOG_LOCAL,
    LOG_OPEN,
    LogRecord,
)
from proxy_engine_core.log_index import LogFilter, LogSummary
from tests.unit.test_log_batch import RECORDS

KEY_SIZE = 20


def record(**fields: Any) -> LogRecord:
    plain = LogRecord(1, 2, 3, "id", "::1", "GET", "host", "/", 200, "", 0, 5, 6, 7, 8, 9)
    return plain._replace(**fields)


def found(wanted: LogFilter, records: list[LogRecord]) -> list[int]:
    """What matches, looked for in both ways."""
    batch = log_batch.pack(records)
    by_scan = wanted.find(batch)
    assert [records[number] for number, _ in by_scan] == [each for _, each in by_scan]
    by_key = []
    for number, offset, size in wanted.candidates(log_index.index(batch)):
        one = batch[offset : offset + size] if size >= 0 else batch[offset:]
        assert log_batch.unpack(one) == [records[number]]
        if wanted.find(one):
            by_key.append(number)
    assert by_key == [number for number, _ in by_scan]
    return by_key


@given(st.lists(RECORDS, max_size=4))
def test_keys_never_rule_out_what_matches(records: list[LogRecord]) -> None:
    for index, each in enumerate(records):
        wanted = LogFilter(
            devices=[each.device],
            tunnels=[7, each.route],
            status=(each.status, each.status),
            state=log_index.state(each.status, each.flags, each.reason),
            since_us=each.time_us,
            until_us=each.time_us,
            total_us=(each.total_us, each.total_us),
            request_id=each.request_id,
            visitor=each.visitor,
            method=each.method,
            host=each.host,
            path=each.path[1:],
            reason=each.reason,
        )
        assert index in found(wanted, records)
    assert found(LogFilter(), records) == list(range(len(records)))


@pytest.mark.parametrize(
    ("wanted", "other"),
    [
        ({"devices": [3]}, {"device": 4}),
        ({"devices": [3]}, {"device": 3 + 2**32}),
        ({"tunnels": [1, 2]}, {"route": 3}),
        ({"status": (200, 299)}, {"status": 300}),
        ({"status": (0, 299)}, {"status": 60000}),
        ({"state": "closed"}, {"flags": LOG_ABORTED}),
        ({"since_us": 1}, {"time_us": 0}),
        ({"until_us": 1}, {"time_us": 2}),
        ({"total_us": (7, 7)}, {"total_us": 8}),
        ({"total_us": (0, 1_000_000)}, {"total_us": 1_000_001}),
        ({"request_id": "id"}, {"request_id": "ie"}),
        ({"visitor": "::1"}, {"visitor": "::11"}),
        ({"method": "GET"}, {"method": "PUT"}),
        ({"host": "host"}, {"host": "hos"}),
        ({"path": "/"}, {"path": ""}),
        ({"reason": ""}, {"reason": "refused"}),
    ],
)
def test_each_filter_tells_records_apart(wanted: dict[str, Any], other: dict[str, Any]) -> None:
    assert found(LogFilter(**wanted), [record(), record(**other)]) == [0]


def test_path_text_is_found_anywhere_in_any_case() -> None:
    paths = ["/abc", "/xAbCy?z", "/ab", "", "/?q=ABC", "/aabc"]
    records = [record(path=path) for path in paths]
    assert found(LogFilter(path="aBc"), records) == [0, 1, 4, 5]
    assert found(LogFilter(path=""), records) == [0, 1, 2, 3, 4, 5]


def test_filters_of_text_and_time_have_no_keys() -> None:
    assert not LogFilter(path="x", method="GET", since_us=5).is_keyed
    for wanted in ({"devices": [1]}, {"status": (500, 599)}, {"request_id": "x"}):
        assert LogFilter(**wanted).is_keyed


def test_a_wrong_filter_is_refused() -> None:
    with pytest.raises(ValueError, match="not in tuple"):
        LogFilter(state="gone")
    with pytest.raises(OverflowError):
        LogFilter(devices=[-1])


@pytest.mark.parametrize(
    ("status", "flags", "reason", "state"),
    [
        (200, 0, "", "closed"),
        (404, LOG_LOCAL, "unknown_tunnel", "closed"),
        (502, 0, "", "closed"),
        (503, LOG_LOCAL, "device_offline", "unavailable"),
        (502, LOG_LOCAL, "refused", "unavailable"),
        (504, LOG_LOCAL, "response_timeout", "timeout"),
        (408, LOG_LOCAL, "slow_body", "timeout"),
        (200, LOG_ABORTED, "slow_reader", "timeout"),
        (200, LOG_ABORTED, "target_lost", "aborted"),
        (0, LOG_ABORTED, "visitor_gone", "aborted"),
        (0, LOG_OPEN, "", "open"),
    ],
)
def test_states(status: int, flags: int, reason: str, state: str) -> None:
    assert log_index.state(status, flags, reason) == state
    records = [record(status=status, flags=flags, reason=reason)]
    for each in log_index.STATES:
        assert found(LogFilter(state=each), records) == ([0] if each == state else [])


def test_a_sample_keeps_every_failure_and_is_the_same_each_time() -> None:
    good = [record(request_id=f"{number:032x}") for number in range(10_000)]
    bad = [record(status=404), record(flags=LOG_ABORTED), record(status=500), record(reason="why")]
    batch = log_batch.pack([good[0], *bad, *good[1:]])
    for share in (0.0, 0.1, 0.5, 1.0):
        kept = log_batch.unpack(log_index.thin(batch, share))
        assert [each for each in kept if each in bad] == bad
        assert abs((len(kept) - 4) / 10_000 - share) < 0.02
        assert log_index.thin(log_index.thin(batch, share), share) == log_index.thin(batch, share)
    assert log_index.thin(batch, 1.0) is batch
    assert log_index.thin(b"", 0.5) == b""


def test_a_summary_counts_what_the_filter_finds() -> None:
    summary = LogSummary()
    records = [
        record(path="/a?x=1", total_us=100),
        record(path="/a", total_us=200),
        record(path="/b", status=502, flags=LOG_LOCAL, reason="refused", total_us=5_000_000),
        record(path="/c", device=4),
    ]
    summary.add(log_batch.pack(records), LogFilter(devices=[3]))
    assert (summary.count, summary.bytes_in, summary.bytes_out) == (3, 15, 18)
    assert summary.status_counts() == {200: 2, 502: 1}
    assert {name: times for name, times in summary.states().items() if times} == {
        "closed": 2,
        "unavailable": 1,
    }
    assert summary.top_paths(1) == [("/a", 2)]
    assert summary.top_paths(9) == [("/a", 2), ("/b", 1)]
    assert summary.max_us == summary.percentile(100) == 5_000_000
    assert LogSummary().percentile(50) == 0


def test_percentiles_are_within_a_bucket_of_the_truth() -> None:
    source = random.Random(3)
    times = sorted(int(source.lognormvariate(9, 2)) for _ in range(20_000))
    summary = LogSummary()
    summary.add(log_batch.pack(record(total_us=each) for each in times))
    for percent in (1, 25, 50, 90, 99, 99.9):
        truth = times[round(percent / 100 * len(times)) - 1]
        assert abs(summary.percentile(percent) - truth) <= max(1, truth * 0.07), percent


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=20))
def test_any_duration_has_a_bucket(times: list[int]) -> None:
    summary = LogSummary()
    summary.add(log_batch.pack(record(total_us=each) for each in times))
    assert min(times) * 0.9 - 1 <= summary.percentile(0) <= summary.percentile(100) <= max(times)


def test_what_is_cut_off_is_refused() -> None:
    batch = log_batch.pack([record()])
    for size in range(1, len(batch)):
        cut = batch[:size]
        with pytest.raises(ValueError, match="ends inside a record"):
            log_index.index(cut)
        with pytest.raises(ValueError, match="ends inside a record"):
            log_index.thin(cut, 0.5)
        with pytest.raises(ValueError, match="ends inside a record"):
            LogFilter().find(cut)
        with pytest.raises(ValueError, match="ends inside a record"):
            LogSummary().add(cut)


def test_the_layout_on_disks_is_that_of_format_2() -> None:
    """Stores and journals hold these bytes: who changes them gives FORMAT the next number. What 1
    had differs in nothing but that the last eight bytes of its header were zeros."""
    assert log_batch.FORMAT == 2
    assert log_batch.READABLE == (1, 2)
    plain = record(path="/p", status=502, reason="refused")
    batch = log_batch.pack([plain])
    assert batch.hex() == (
        "0100000000000000" "0300000000000000" "0500000000000000" "0600000000000000"
        "0700000000000000" "0800000000000000" "0900000000000000" "02000000" "00000000"
        "f601" "0200" "0200" "03" "03" "04" "07" "00" "00" "00000000"
    ) + b"id::1GEThost/prefused".hex()  # fmt: skip
    assert len(log_index.index(batch)) == KEY_SIZE
    assert log_index.index(batch).hex() == "00000000030000000200000077e3ee26f6110700"
    traced = plain._replace(
        link_us=0x0A0B, trace_id="01" * 16, parent_id="02" * 8, span_id="03" * 8, trace_flags=1
    )
    assert log_batch.pack([traced]).hex() == (
        batch.hex()[: 74 * 2] + "20" "01" "0b0a0000" + batch.hex()[80 * 2 :]
        + "01" * 16 + "02" * 8 + "03" * 8
    )  # fmt: skip


def test_requests_are_found_by_their_trace() -> None:
    ids = ["", "0a" * 16, "0b" * 16, "0a" * 16]
    records = [record(request_id=f"r{number}", trace_id=each) for number, each in enumerate(ids)]
    assert found(LogFilter(trace_id="0A" * 16), records) == [1, 3]
    assert found(LogFilter(trace_id="0c" * 16), records) == []
    for bad in ("0a" * 15, "0a" * 17, "", "no"):
        with pytest.raises(ValueError, match="hex"):
            LogFilter(trace_id=bad)
