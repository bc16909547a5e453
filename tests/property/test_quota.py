"""What the links of a token share, by its arithmetic: exact, whatever the clock does."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from hypothesis import given
from hypothesis import strategies as st

from proxy_engine_core._testing.core_parts import Shared

SECOND = 1_000_000
START = 1000 * SECOND
RATES = st.integers(1, 1_000_000)
BYTE_RATES = st.integers(1, 100_000_000_000)
BURSTS = st.integers(0, 3_600_000)
# Workers read the clock once a turn, so one may be behind the others; a machine may sleep.
STEPS = st.integers(-20_000, 10 * SECOND) | st.integers(0, 10**15)


@given(RATES, BURSTS, st.lists(STEPS, max_size=200))
def test_no_more_requests_than_the_rate_and_a_burst(
    rate: int, burst_ms: int, steps: list[int]
) -> None:
    shared = Shared(0, rate, 0)
    now = latest = START
    taken = 0
    for step in steps:
        now = min(max(START, now + step), 10**16)  # us: 300 years
        latest = max(latest, now)
        taken += sum(shared.request(now, burst_ms) for _ in range(3))
    most = rate * (latest - START) / SECOND + max(1, rate * burst_ms / 1000)
    assert taken <= most * 1.001 + 1


@given(BYTE_RATES, BURSTS, st.lists(st.tuples(STEPS, st.integers(0, 2**32 - 1)), max_size=100))
def test_a_debt_is_what_was_spent_beyond_the_rate_and_a_burst(
    rate: int, burst_ms: int, steps: list[tuple[int, int]]
) -> None:
    shared = Shared(0, 0, rate)
    now = START
    full_ns = 0.0  # when it is full again
    for step, size in steps:
        now = min(max(START, now + step), 10**16)  # us: 300 years
        wait = shared.spend(now, size, burst_ms)
        full_ns = max(full_ns, now * 1000) + size * 1e9 / rate
        if full_ns >= 2**64 * 0.99:
            return  # the end of time: see below
        expected = max(0.0, full_ns / 1000 - now - burst_ms * 1000)
        assert abs(wait - expected) <= 2 + len(steps) / 1000 + expected * 1e-9
        assert shared.wait_us(now, burst_ms) == wait
        assert shared.wait_us(now + wait, burst_ms) == 0


@given(st.lists(st.integers(2**31, 2**32 - 1), min_size=1, max_size=50))
def test_a_debt_beyond_the_end_of_time_stays_one(sizes: list[int]) -> None:
    shared = Shared(0, 0, 1)  # 136 years for each
    waits = [shared.spend(START, size, 0) for size in sizes]
    assert waits == sorted(waits)
    assert shared.wait_us(START, 0) == waits[-1] <= 2**64 // 1000


@given(st.lists(st.booleans(), max_size=300), st.integers(1, 20))
def test_no_more_enter_than_there_may_be(moves: list[bool], most: int) -> None:
    shared = Shared(most, 0, 0)
    inside = 0
    for is_entry in moves:
        if is_entry:
            assert shared.enter() == (inside < most)
            inside = min(inside + 1, most)
        elif inside:
            shared.leave()
            inside -= 1
        assert shared.connections() == inside
    for _ in range(inside):
        shared.leave()


def test_another_limit_counts_at_once_and_another_rate_forgets_debts() -> None:
    shared = Shared(1, 1, 1000)
    assert shared.enter() and not shared.enter()
    assert shared.spend(START, 1_000_000, 0) == 1000 * SECOND
    assert not shared.set(1, 1, 1000)
    assert shared.set(2, 1, 1000)
    assert shared.enter() and not shared.enter()
    assert shared.wait_us(START, 0) == 1000 * SECOND
    assert shared.set(1, 1, 2000)
    assert shared.wait_us(START, 0) == 0
    assert not shared.enter()  # two are there, one may be
    shared.leave()
    assert not shared.enter()
    shared.leave()
    assert shared.enter()
    shared.leave()


def test_threads_do_not_get_in_one_too_many() -> None:
    shared = Shared(3, 0, 0)
    with ThreadPoolExecutor(8) as threads:
        outcomes = list(threads.map(shared.race, [20_000] * 8))
    assert all(entered for entered, _ in outcomes)
    assert sum(too_many for _, too_many in outcomes) == 0
    assert shared.connections() == 0


def test_threads_take_each_token_once() -> None:
    shared = Shared(0, 1000, 0)
    with ThreadPoolExecutor(8) as threads:
        taken = sum(threads.map(lambda _: shared.race_requests(5_000, START, 10_000), range(8)))
    assert taken == 10_000
    shared = Shared(0, 0, 1_000_000)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: shared.race_bytes(5_000, START, 100), range(8)))
    assert shared.wait_us(START, 0) == 4 * SECOND
