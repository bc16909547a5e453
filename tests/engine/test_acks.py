"""Targets that write an answer in parts, the next when the one before was acknowledged.

When our kernel delays that is its own decision, so here the target makes the pauses itself.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest

from tests.engine.harness import DATA, PATIENCE, Agent, Wire, dialling
from tests.engine.test_agent import connected
from tests.engine.test_direct_agent import Direct
from tests.engine.test_sockets import tcp_option

HEAD, BODY = b"the head", b"the body"
TRUST = 16  # answers in one part until a stall is forgotten
STALL = 0.05  # seconds: as the kernel's 40 ms are seen


class Target:
    """One connection to a target, from both ends."""

    wire: Wire

    def __init__(self, agent: Agent) -> None:
        self.agent = agent

    def send(self, request: bytes) -> None:
        raise NotImplementedError

    def answer(self, size: int) -> bytes:
        raise NotImplementedError

    def acks(self) -> int:
        return self.agent.stat("prompt_acks")

    def ask(self, *parts: bytes, pause: float = 0) -> None:
        """Answer a request in these parts, each read by itself."""
        self.send(b"a request")
        self.wire.take(9)
        for part in parts:
            if part != parts[0]:
                time.sleep(pause)
            self.wire.sock.sendall(part)
            assert self.answer(len(part)) == part

    def stall(self) -> None:
        """Answer with a pause until the agent helps: on a busy machine one may be too long."""
        until = time.monotonic() + PATIENCE
        while not self.acks():
            assert time.monotonic() < until, "never helped"
            self.ask(HEAD, BODY, pause=STALL)


class OverTheLink(Target):
    def __init__(self, agent: Agent) -> None:
        super().__init__(agent)
        listener = agent.target()
        self.link = agent.link()
        self.wire = connected(agent, self.link, listener)

    def send(self, request: bytes) -> None:
        self.link.data(2, request)

    def answer(self, size: int) -> bytes:
        found = b""
        while len(found) < size:
            found += self.link.next(2, DATA).payload
        return found


class OverADirectConnection(Target):
    def __init__(self, agent: Agent) -> None:
        super().__init__(agent)
        listener = agent.target("db")
        self.data, self.wire = Direct(agent).opened(listener)

    def send(self, request: bytes) -> None:
        self.data.sock.sendall(request)

    def answer(self, size: int) -> bytes:
        return self.data.take(size)


@pytest.fixture(params=[OverTheLink, OverADirectConnection])
def target(request: pytest.FixtureRequest) -> Iterator[Target]:
    with dialling() as agent:
        yield request.param(agent)


def test_the_first_part_is_acknowledged_at_once_when_the_next_has_waited_for_it(
    target: Target,
) -> None:
    target.stall()
    for expected in range(2 * TRUST):
        assert target.acks() == 1 + expected
        target.ask(HEAD, BODY)
    # What tells the kernel that this is no dialogue, whose acknowledgements may wait.
    assert tcp_option(target.wire.sock, socket.TCP_QUICKACK) == 1


def test_answers_without_a_stall_cost_nothing(target: Target) -> None:
    for _ in range(TRUST):
        target.ask(HEAD)
    assert target.acks() == 0


def test_a_stall_is_forgotten_after_enough_answers_in_one_part(target: Target) -> None:
    target.stall()
    for _ in range(2 * TRUST):
        target.ask(HEAD)
    assert target.acks() == 1 + TRUST


def test_a_pause_longer_than_any_delay_is_the_targets_own(target: Target) -> None:
    for _ in range(2):
        target.ask(HEAD, BODY, pause=0.3)
    target.ask(HEAD)
    target.ask(HEAD, BODY, pause=STALL)
    assert target.acks() == 0
