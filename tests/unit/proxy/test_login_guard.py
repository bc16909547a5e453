from __future__ import annotations

import pytest

from proxy_engine.links import login_guard
from proxy_engine.links.login_guard import LoginGuard


def fail(guard: LoginGuard, peer: str, times: int, now: float) -> None:
    for _ in range(times):
        guard.fail(peer, now)


def test_an_address_may_fail_so_often_and_then_waits() -> None:
    guard = LoginGuard(20)
    fail(guard, "1.2.3.4:5", 19, 100.0)
    assert guard.wait("1.2.3.4:6", 100.0) == 0.0
    guard.fail("1.2.3.4:7", 100.0)
    assert guard.wait("1.2.3.4:8", 100.0) == pytest.approx(3.0)
    assert guard.wait("1.2.3.5:8", 100.0) == 0.0
    assert guard.wait("1.2.3.4:8", 103.0) == 0.0
    guard.fail("1.2.3.4:8", 103.0)
    assert guard.wait("1.2.3.4:8", 103.0) == pytest.approx(3.0)
    assert guard.wait("1.2.3.4:8", 200.0) == 0.0
    assert (guard.failed, guard.limited) == (21, 2)


def test_an_ipv6_network_counts_as_one() -> None:
    guard = LoginGuard(2)
    fail(guard, "[2001:db8::1]:5", 2, 0.0)
    assert guard.wait("[2001:db8::ffff:2]:9", 0.0) > 0
    assert guard.wait("2001:db8::3", 0.0) > 0
    assert guard.wait("[2001:db8:0:1::1]:9", 0.0) == 0.0
    fail(guard, "[::ffff:9.9.9.9]:1", 2, 0.0)
    assert guard.wait("9.9.9.9:7", 0.0) > 0


def test_zero_is_no_limit_and_failures_are_counted_all_the_same() -> None:
    guard = LoginGuard(0)
    fail(guard, "1.2.3.4:5", 1000, 0.0)
    assert guard.wait("1.2.3.4:5", 0.0) == 0.0
    assert guard.failed == 1000


def test_only_so_many_addresses_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(login_guard, "ADDRESSES_MAX", 3)
    guard = LoginGuard(1)
    for number in range(4):
        guard.fail(f"1.1.1.{number}", 0.0)
    assert [guard.wait(f"1.1.1.{n}", 0.0) > 0 for n in range(4)] == [False, True, True, True]
