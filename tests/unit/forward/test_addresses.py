"""Token buckets, and what a worker remembers of visitors' addresses."""

from __future__ import annotations

import random

import pytest

from proxy_engine_core._testing.core_parts import Addresses, Bucket, key_of_address

SECOND = 1_000_000


def test_a_bucket_starts_full_and_is_then_as_fast_as_its_rate() -> None:
    bucket = Bucket(10, 2000)
    now = 1000 * SECOND
    assert sum(bucket.take(now) for _ in range(100)) == 20
    assert not bucket.take(now + 99_999)
    assert bucket.take(now + 100_000)
    taken = sum(bucket.take(now + 100_000 + step * 1000) for step in range(1, 10_001))
    assert taken == 100


def test_a_bucket_holds_no_more_after_a_long_time() -> None:
    bucket = Bucket(5, 1000)
    for now in (SECOND, 10**15):
        assert sum(bucket.take(now) for _ in range(100)) == 5


@pytest.mark.parametrize("burst_ms", [0, 1, 999])
def test_a_bucket_holds_at_least_one(burst_ms: int) -> None:
    bucket = Bucket(1, burst_ms)
    assert [bucket.take(at * SECOND // 2) for at in range(1, 9)] == [True, False] * 4


def test_the_fastest_rate_is_kept_within_a_few_percent() -> None:
    bucket = Bucket(300_000, 0)
    taken = sum(bucket.take(SECOND + us) for us in range(100_000))
    assert 24_000 < taken <= 31_000  # asked once a microsecond, of 3.33


def test_a_table_remembers_whoever_came_lately() -> None:
    table = Addresses(1024, seed=7)
    assert len(table) == 1024
    for key in range(1, 200):
        assert table.see(key, key, connections=key % 2) == key % 2
    for key in range(1, 200):
        assert table.see(key, 1000) == key % 2


def test_a_full_set_forgets_the_oldest_without_connections() -> None:
    table = Addresses(8)  # one set
    for key in range(1, 9):
        table.see(key, key, connections=1 if key in (1, 2) else 0)
    assert table.see(100, 100, connections=3) == 3  # in the place of 3
    assert table.see(1, 101) == 1
    assert table.see(4, 102) == 0
    assert table.see(100, 103) == 3
    for key in range(4, 9):
        table.see(key, 110, connections=1)
    assert table.see(200, 120) is None
    assert table.see(1, 121, connections=-1) == 0
    assert table.see(200, 122) == 0  # where 1 was
    assert table.see(1, 123) is None or table.see(1, 123) == 0


def test_a_table_never_grows_and_never_mixes_two_up() -> None:
    chance = random.Random(5)
    table = Addresses(256, seed=chance.getrandbits(64))
    open_now: dict[int, int] = {}
    for step in range(1, 20_000):
        key = chance.randrange(1, 600)
        if open_now.get(key) and chance.random() < 0.6:
            assert table.see(key, step, connections=-1) == open_now[key] - 1
            open_now[key] -= 1
        elif (found := table.see(key, step, connections=1)) is not None:
            open_now[key] = open_now.get(key, 0) + 1
            assert found == open_now[key]
    assert sum(1 for value in open_now.values() if value) <= len(table) == 256


def test_an_address_is_an_ipv4_host_or_an_ipv6_subscriber() -> None:
    assert key_of_address("192.0.2.1") == key_of_address("::ffff:192.0.2.1")
    assert key_of_address("192.0.2.1") != key_of_address("192.0.2.2")
    assert key_of_address("2001:db8:1:2::1") == key_of_address("2001:db8:1:2:ffff::9")
    assert key_of_address("2001:db8:1:2::1") != key_of_address("2001:db8:1:3::1")
    keys = [key_of_address(ip) for ip in ("0.0.0.0", "255.255.255.255", "::", "::1", "fe80::1")]
    assert 0 not in keys
