"""How long an idle stream may be reused, as its target teaches it."""

from __future__ import annotations

import pytest

from proxy_engine_core._testing.core_parts import Idle

SECOND = 1_000_000


def test_it_starts_at_the_option_and_keeps_a_little_longer_to_learn() -> None:
    idle = Idle(4000, 60_000)
    assert (idle.limit_us, idle.keep_us) == (4 * SECOND, 5 * SECOND)


def test_a_target_that_closes_earlier_is_believed_step_by_step() -> None:
    idle = Idle(4000, 60_000)
    now = 0
    seen = []
    for _ in range(4):
        now += 2 * SECOND
        idle.closed(SECOND, now)  # it closes what idles for a second
        seen.append(idle.limit_us)
    assert seen == [2 * SECOND, SECOND, 800_000, 800_000]


def test_all_streams_of_a_restarted_target_are_one_step() -> None:
    idle = Idle(4000, 60_000)
    for _ in range(100):
        idle.closed(200_000, 10 * SECOND)
    assert idle.limit_us == 2 * SECOND


@pytest.mark.parametrize("idled_us", [0, 99_999, 5 * SECOND])
def test_a_close_that_says_nothing_about_idling_changes_nothing(idled_us: int) -> None:
    idle = Idle(4000, 60_000)
    idle.closed(idled_us, 10 * SECOND)
    assert idle.limit_us == 4 * SECOND


def test_a_stream_that_survives_lets_it_grow_below_what_was_seen() -> None:
    idle = Idle(4000, 60_000)
    idle.survived(idle.keep_us, 10 * SECOND)
    assert idle.limit_us == 4_500_000
    idle.survived(idle.keep_us, 10 * SECOND + 1)  # the same burst
    assert idle.limit_us == 4_500_000
    now = 20 * SECOND
    for _ in range(100):
        before = idle.keep_us
        idle.survived(before, now)
        assert idle.limit_us <= before
        now += 10 * SECOND
    assert idle.limit_us == idle.keep_us == 60 * SECOND


def test_it_does_not_grow_without_a_higher_cap() -> None:
    idle = Idle(4000, 1000)
    assert idle.keep_us == 4 * SECOND
    idle.survived(5 * SECOND, 10 * SECOND)
    assert idle.limit_us == 4 * SECOND


def test_what_the_target_says_is_taken_with_a_margin() -> None:
    idle = Idle(4000, 60_000)
    idle.told(5)
    assert idle.limit_us == idle.keep_us == 4 * SECOND
    idle.told(30)
    assert idle.limit_us == 24 * SECOND
    idle.told(1_000_000_000)
    assert idle.limit_us == 60 * SECOND


def test_what_was_seen_is_not_undone_by_saying_the_same_again() -> None:
    idle = Idle(4000, 60_000)
    idle.told(10)
    idle.closed(2 * SECOND, 10 * SECOND)
    assert idle.limit_us == 4 * SECOND
    idle.told(10)
    assert idle.limit_us == 4 * SECOND


def test_zero_is_never() -> None:
    idle = Idle(0, 60_000)
    idle.told(75)
    idle.survived(SECOND, 10 * SECOND)
    assert idle.limit_us == idle.keep_us == 0
    idle = Idle(4000, 60_000)
    idle.told(0)
    assert idle.limit_us == 0
