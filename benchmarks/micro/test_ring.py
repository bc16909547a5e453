"""The ring from a worker to Python: nanoseconds a record, written and read by one thread.

collections.deque stands beside it as what a worker would use if it held the GIL.
"""

from __future__ import annotations

from collections import deque

import pytest

from proxy_engine_core._testing.core_parts import ring_bench

RECORDS = 100_000
CAPACITY = 4 << 20  # bytes: a worker's log ring
RECORD_SIZES = [80, 240]  # bytes: a control event, a request's record


@pytest.mark.parametrize("size", RECORD_SIZES)
def test_records_through_the_ring(benchmark, size):
    benchmark.group = f"ring {size} B"
    moved = benchmark.pedantic(
        ring_bench, args=(CAPACITY, size, RECORDS), rounds=20, warmup_rounds=2
    )
    assert moved >= RECORDS
    benchmark.extra_info["ns_per_record"] = round(benchmark.stats.stats.min / RECORDS * 1e9, 2)


@pytest.mark.parametrize("size", RECORD_SIZES)
def test_records_through_a_deque(benchmark, size):
    benchmark.group = f"ring {size} B"
    record = bytes(size)

    def run() -> None:
        queue: deque[bytearray] = deque()
        for _ in range(RECORDS):
            queue.append(bytearray(record))
        while queue:
            queue.popleft()

    benchmark.pedantic(run, rounds=5, warmup_rounds=1)
    benchmark.extra_info["ns_per_record"] = round(benchmark.stats.stats.min / RECORDS * 1e9, 2)
