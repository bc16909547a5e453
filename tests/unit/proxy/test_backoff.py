from __future__ import annotations

from proxy_engine.agent.backoff import Backoff


def highest(low: float, high: float) -> float:
    return high


def test_the_ceiling_doubles_up_to_a_minute() -> None:
    backoff = Backoff(highest)
    assert [backoff.next() for _ in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]


def test_delays_are_drawn_from_zero_to_the_ceiling() -> None:
    drawn: list[tuple[float, float]] = []

    def draw(low: float, high: float) -> float:
        drawn.append((low, high))
        return low

    backoff = Backoff(draw)
    assert [backoff.next() for _ in range(3)] == [0, 0, 0]
    assert drawn == [(0, 1), (0, 2), (0, 4)]


def test_a_stable_link_makes_the_next_delay_short_again() -> None:
    backoff = Backoff(highest)
    for _ in range(5):
        backoff.next()
    backoff.link_ended(29.9)
    assert backoff.next() == 32
    backoff.link_ended(30.0)
    assert backoff.next() == 1


def test_what_the_server_asked_for_is_waited_at_least() -> None:
    backoff = Backoff(highest)
    assert backoff.next(retry_after=7.0) == 8.0
    assert backoff.next(retry_after=1e9) == 3602.0
