"""A limit per second that is looked at whenever something comes."""

from __future__ import annotations

from proxy_engine_core._testing.core_parts import PingFlood


def test_so_many_a_second_and_no_more() -> None:
    flood = PingFlood(100)
    assert flood.look(100, 10) == ""
    assert flood.look(101, 999) == "ping_flood"


def test_every_second_brings_as_many() -> None:
    flood = PingFlood(100)
    for second in range(1, 50):
        assert flood.look(100 * second, 1000 * second) == ""
    assert flood.look(4901 + 100, 49_999) == "ping_flood"


def test_a_long_silence_is_no_flood_at_its_end() -> None:
    flood = PingFlood(100)
    assert flood.look(90, 500) == ""
    assert flood.look(180, 30_000) == ""  # 90 each, half a minute apart
    assert flood.look(280, 30_001) == ""
    assert flood.look(281, 30_002) == "ping_flood"
