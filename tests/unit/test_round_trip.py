"""What round trip a link believes in, from pings on lines that are quiet, busy and change."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from proxy_engine_core._testing.round_trip import RoundTrip

MIB = 1 << 20
MS = 1000  # microseconds


def quiet(trip: RoundTrip, us: int, times: int) -> None:
    for _ in range(times):
        trip.add(us, 100)


def test_nothing_is_known_before_the_third_ping():
    trip = RoundTrip()
    seen = []
    for us in (9 * MS, 5 * MS, 7 * MS):
        seen.append(trip.us)
        trip.add(us, 0)
    assert (seen, trip.us) == ([0, 0, 0], 5 * MS)


def test_a_shorter_one_counts_at_once_also_on_a_busy_line():
    trip = RoundTrip()
    quiet(trip, 100 * MS, 3)
    trip.add(MS, 10 * MIB)
    assert trip.us == MS


def test_a_longer_one_on_a_quiet_line_counts_by_a_quarter():
    trip = RoundTrip()
    quiet(trip, 20 * MS, 3)
    quiet(trip, 100 * MS, 1)
    assert trip.us == 40 * MS


def test_a_row_of_longer_ones_on_a_busy_line_counts_and_asks_for_more():
    trip = RoundTrip()
    quiet(trip, 200, 3)
    assert [trip.add(us * MS, MIB) for us in (130, 101, 110)] == [True] * 3
    assert trip.us == 200
    assert not trip.add(120 * MS, MIB)
    assert trip.us == 101 * MS


def test_a_row_that_is_broken_counts_for_nothing():
    trip = RoundTrip()
    quiet(trip, 200, 3)
    for _ in range(5):
        for _ in range(3):
            trip.add(100 * MS, MIB)
        trip.add(300, MIB)
    assert trip.us == 200


def test_what_a_busy_machine_adds_is_no_distance():
    trip = RoundTrip()
    quiet(trip, 200, 3)
    for _ in range(50):
        assert not trip.add(9 * MS, 10 * MIB)
    assert trip.us == 200


@dataclass
class Bulk:
    """One stream on a line: its window is all on its way, in the line or in the queue before it."""

    rate: int  # bytes/ms, what the line passes
    round_trip: int  # ms
    window: int = MIB

    def __post_init__(self) -> None:
        self.trip = RoundTrip()
        quiet(self.trip, self.round_trip * MS, 3)

    def ping(self) -> None:
        """Behind the queue; then the window grows by its rule (yamux/window.pxd)."""
        queued = max(0, self.window - self.rate * self.round_trip)
        took = self.round_trip + queued / self.rate
        self.trip.add(int(took * MS), self.window)
        if self.window / took * self.trip.us / MS > 0.6 * self.window:
            self.window = min(2 * self.window, 16 * MIB)


@pytest.mark.parametrize("rate", [1_000, 5_000, 20_000])
@pytest.mark.parametrize("round_trip", [5, 20, 50])
def test_a_window_does_not_feed_on_the_queue_it_makes(rate: int, round_trip: int):
    """... but once: the first time nobody can tell it from a line that became longer."""
    bulk = Bulk(rate, round_trip)
    fits = max(MIB, rate * round_trip * 10 // 3)
    for _ in range(200):
        bulk.ping()
    assert bulk.window <= 2 * fits


@pytest.mark.parametrize("before", [1, 20, 60])
def test_a_line_that_becomes_longer_is_filled_again(before: int):
    bulk = Bulk(100_000, before)
    for _ in range(10):
        bulk.ping()
    for bulk.round_trip in (100, 160):
        for _ in range(20):
            bulk.ping()
        # What is less than a quarter slower can not be told from a queue, and is as well.
        assert bulk.window >= min(16 * MIB, 75_000 * bulk.round_trip)


def test_a_line_that_comes_and_goes_is_filled_each_time():
    for _ in range(3):
        bulk = Bulk(100_000, 1)
        for bulk.round_trip in (100, 1, 100):
            bulk.window = MIB  # another stream
            for _ in range(20):
                bulk.ping()
        assert bulk.window >= 100_000 * 100
