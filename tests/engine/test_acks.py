"""Targets that write an answer in parts, the next when the one before was acknowledged."""

from __future__ import annotations

import socket
import time

from tests.engine.harness import DATA, PATIENCE, Agent, Device, Wire, dialling
from tests.engine.test_agent import connected
from tests.engine.test_sockets import tcp_option

HEAD, BODY = b"the head", b"the body"
TRUST = 16  # answers in one part until a stall is forgotten
NAGLE = 0  # TCP_NODELAY


class Target:
    """One connection to a target, from both ends."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        listener = agent.target()
        self.link: Device = agent.link()
        self.wire: Wire = connected(agent, self.link, listener)
        self.wire.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, NAGLE)

    def ask(self, *parts: bytes) -> int:
        """Answer a request by writing these; how often the first was acknowledged at once."""
        before = self.agent.stat("prompt_acks")
        self.link.data(2, b"a request")
        self.wire.take(9)
        for part in parts:
            self.wire.sock.sendall(part)
        found = b""
        while len(found) < len(b"".join(parts)):
            found += self.link.next(2, DATA).payload
        assert found == b"".join(parts)
        return self.agent.stat("prompt_acks") - before

    def stall(self) -> None:
        """Answer in parts until the agent helps: how soon the kernel delays is the kernel's."""
        until = time.monotonic() + PATIENCE
        while not self.ask(HEAD, BODY):
            assert time.monotonic() < until, "never helped"


def test_the_first_part_is_acknowledged_at_once_when_the_next_has_waited_for_it() -> None:
    with dialling() as agent:
        target = Target(agent)
        target.stall()
        helped = [target.ask(HEAD, BODY) for _ in range(2 * TRUST)]
        assert helped == [1] * len(helped)
        # What tells the kernel that this is no dialogue, whose acknowledgements may wait.
        assert tcp_option(target.wire.sock, socket.TCP_QUICKACK) == 1


def test_answers_in_one_part_cost_nothing() -> None:
    with dialling() as agent:
        target = Target(agent)
        assert [target.ask(HEAD) for _ in range(2 * TRUST)] == [0] * (2 * TRUST)


def test_a_stall_is_forgotten_after_enough_answers_in_one_part() -> None:
    with dialling() as agent:
        target = Target(agent)
        target.stall()
        target.ask(HEAD, BODY)
        assert [target.ask(HEAD) for _ in range(2 * TRUST)] == [1] * TRUST + [0] * TRUST


def test_a_pause_longer_than_any_delay_is_the_targets_own() -> None:
    with dialling() as agent:
        target = Target(agent)
        target.ask(HEAD)
        for _ in range(2):
            time.sleep(0.3)
            target.wire.sock.sendall(BODY)
            assert target.link.next(2, DATA).payload == BODY
        assert [target.ask(HEAD) for _ in range(3)] == [0] * 3
