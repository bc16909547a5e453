from __future__ import annotations

import pytest

from proxy_engine.cache.logins import SharedLogins
from proxy_engine.cache.seal import Sealer
from proxy_engine.links.login_guard import LoginGuard

PEER = "203.0.113.9:1"


class Nodes:
    """Some that hear each other, and what was said."""

    def __init__(self, count: int) -> None:
        self.now = 1000.0
        self.said: list[bytes] = []
        self.guards = [LoginGuard(4) for _ in range(count)]
        sealer = Sealer(bytes(32), b"")
        self.logins = [
            SharedLogins(
                sealer, guard, self.said.append, clock=lambda: self.now, monotonic=lambda: self.now
            )
            for guard in self.guards
        ]

    def spread(self) -> None:
        for each in self.logins:
            each.send()
        for value in self.said:
            for each in self.logins:
                each.heard(value)

    def waits(self) -> list[float]:
        return [guard.wait(PEER, self.now) for guard in self.guards]


def test_failures_at_several_nodes_are_one_count() -> None:
    nodes = Nodes(3)
    for guard in (nodes.guards[0], nodes.guards[0], nodes.guards[1], nodes.guards[2]):
        guard.fail(PEER, nodes.now)
    assert nodes.waits() == [0, 0, 0]
    nodes.spread()
    assert nodes.waits() == [pytest.approx(15.0)] * 3  # four of four: one comes back in 60 / 4 s
    assert [guard.failed for guard in nodes.guards] == [2, 1, 1]


def test_a_message_counts_once_and_not_for_ever() -> None:
    nodes = Nodes(2)
    for _ in range(4):
        nodes.guards[0].fail(PEER, nodes.now)
    nodes.spread()
    for value in nodes.said * 5:  # sent again by somebody else
        nodes.logins[1].heard(value)
    assert nodes.waits()[1] == pytest.approx(15.0)
    nodes.now += 61
    fresh = LoginGuard(4)
    late = SharedLogins(Sealer(bytes(32), b""), fresh, nodes.said.append, clock=lambda: nodes.now)
    late.heard(nodes.said[0])
    assert fresh.wait(PEER, nodes.now) == 0


def test_what_nobody_of_ours_says_is_not_heard() -> None:
    nodes = Nodes(2)
    for _ in range(4):
        nodes.guards[0].fail(PEER, nodes.now)
    nodes.logins[0].send()
    [value] = nodes.said
    foreign = Sealer(b"x" * 32, b"")
    for forged in (b"", value[:-1], foreign.seal("proxy-engine:x:logins", bytes(16), value[48:])):
        nodes.logins[1].heard(forged)
    assert nodes.waits()[1] == 0


def test_nothing_is_said_when_nobody_fails() -> None:
    nodes = Nodes(2)
    nodes.spread()
    assert nodes.said == []
