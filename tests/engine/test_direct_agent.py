"""Direct connections of the agent role: dialled for tickets, then relayed to a target."""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Iterator

import pytest

from proxy_engine_core import core
from proxy_engine_core._testing.core_parts import preamble, preamble_tcp
from tests.engine.harness import (
    DATA,
    PROTOCOL,
    REFUSED,
    SYN,
    UNKNOWN_TUNNEL,
    WINDOW,
    WINDOW_SIZE,
    Agent,
    Device,
    Frame,
    Wire,
    acknowledged,
    dialling,
    wait_until,
)

REQUEST = b"GET /_proxy/data HTTP/1.1\r\nHost: x\r\nProxy-Engine-Ticket: "
DB = preamble(b"db")
NAME = b"12345678"  # what the server calls its connections


class Direct:
    """An agent whose link may have direct connections; the test plays the server."""

    def __init__(self, agent: Agent, *, is_agreed: bool = True, direct: bytes = REQUEST) -> None:
        self.agent = agent
        self.names: dict[Wire, bytes] = {}  # what the agent calls a connection
        port = agent.listener.getsockname()[1]
        self.dial = agent.engine.dial(
            "127.0.0.1", port, b"GET / HTTP/1.1\r\n\r\n", carrier="raw", direct=direct
        )
        wire = agent.accept(agent.listener)
        wire.take_head()
        self.link = Device(wire.sock, "raw", True, is_server=True)
        field = "Proxy-Engine-Direct: 64\r\n" if is_agreed else ""
        self.link.send_raw(
            f"HTTP/1.1 101 S\r\nProxy-Engine-Window: {WINDOW_SIZE}\r\n{field}\r\n".encode()
        )
        agent.event(core.EVENT_LINK_UP)
        assert self.link.next(1) == Frame(WINDOW, SYN, 1, 0)
        self.link.accept(1)

    def hand_out(self, *tickets: bytes) -> None:
        record = b"\x01" + b"".join(tickets)
        self.link.data(1, len(record).to_bytes(4, "big") + record)

    def asked(self, ticket: bytes) -> Wire:
        """The agent's connection for a ticket, not answered."""
        self.hand_out(ticket)
        wire = self.agent.accept(self.agent.listener)
        assert wire.take_head() == REQUEST + ticket.hex().encode() + b"\r\n\r\n"
        return wire

    def idle(self) -> Wire:
        wire = self.asked(os.urandom(32))
        wire.sock.sendall(b"HTTP/1.1 101 S\r\nConnection: Upgrade\r\n\r\n")
        return wire

    def accepted(self, data: Wire) -> None:
        """Read the agent's answer."""
        assert data.take(1) == b"\0"
        self.names[data] = data.take(8)

    def opened(self, listener: socket.socket) -> tuple[Wire, Wire]:
        """(the server's end, the target's)"""
        data = self.idle()
        data.sock.sendall(NAME + DB)
        target = self.agent.accept(listener)
        self.accepted(data)
        return data, target

    def end(self, data: Wire) -> None:
        """The server's side finishes, and says so."""
        data.sock.shutdown(socket.SHUT_WR)
        self.link.data(1, b"\0\0\0\x09\2" + self.names[data])


@pytest.fixture
def agent() -> Iterator[Agent]:
    with dialling() as agent:
        yield agent


def test_a_visitor_reaches_the_target_and_each_end_by_itself(agent: Agent) -> None:
    listener = agent.target("db")
    direct = Direct(agent)
    data, target = direct.opened(listener)
    data.sock.sendall(b"select 1")
    assert target.take(8) == b"select 1"
    target.sock.sendall(b"one row")
    assert data.take(7) == b"one row"
    direct.end(data)
    assert target.rest() == b""
    target.sock.sendall(b"and one more")
    target.sock.shutdown(socket.SHUT_WR)
    assert data.rest() == b"and one more"
    assert direct.link.next(1, DATA).payload == b"\0\0\0\x09\2" + NAME
    wait_until(lambda: agent.connections() == 1, "the link alone")
    assert agent.stat("direct_connections") == 1
    assert agent.stat("streams_opened") == 0


def test_answer_header_and_first_bytes_may_come_at_once_or_one_by_one(agent: Agent) -> None:
    listener = agent.target("db")
    direct = Direct(agent)
    everything = b"HTTP/1.1 101 S\r\n\r\n" + NAME + DB + b"first"
    for step in (len(everything), 1):
        data = direct.asked(os.urandom(32))
        for start in range(0, len(everything), step):
            data.sock.sendall(everything[start : start + step])
        target = agent.accept(listener)
        assert target.take(5) == b"first"
        direct.accepted(data)


def test_without_the_servers_word_there_are_none(agent: Agent) -> None:
    for how in ({"is_agreed": False}, {"direct": b""}):
        direct = Direct(agent, **how)
        direct.hand_out(os.urandom(32))
        direct.link.send_raw(b"\0\2\0\1" + bytes(4) + bytes(4))  # a ping: it has been read
        assert direct.link.next(0).flags == 2
        assert not Wire(agent.listener).is_readable(0.05)


def test_no_more_than_64_are_kept_ready(agent: Agent) -> None:
    Direct(agent).hand_out(*(os.urandom(32) for _ in range(70)))
    for _ in range(64):
        agent.accept(agent.listener)
    agent.wait_stat("direct_dials_failed", 6)
    assert not Wire(agent.listener).is_readable(0.05)


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 403 Forbidden\r\n\r\n", b"SSH-2.0\r\n\r\n", b"x" * 5000]
)
def test_a_server_that_wants_none(agent: Agent, answer: bytes) -> None:
    data = Direct(agent).asked(os.urandom(32))
    data.sock.sendall(answer)
    data.close()
    agent.wait_stat("direct_dials_failed", 1)
    wait_until(lambda: agent.connections() == 1, "the link alone")


def test_an_idle_connection_may_end(agent: Agent) -> None:
    data = Direct(agent).idle()
    data.close()
    wait_until(lambda: agent.connections() == 1, "the link alone")
    assert agent.stat("direct_dials_failed") == 0


@pytest.mark.parametrize(
    ("header", "code"),
    [
        (preamble(b"nobody"), UNKNOWN_TUNNEL),
        (b"GET / HTTP/1.1\r\n", PROTOCOL),
        (DB[:14] + b"\0\0", PROTOCOL),  # names no tunnel
    ],
)
def test_a_header_that_leads_nowhere(agent: Agent, header: bytes, code: int) -> None:
    agent.target("db")
    data = Direct(agent).idle()
    data.sock.sendall(NAME + header)
    assert data.rest() == bytes([code])
    wait_until(lambda: agent.connections() == 1, "the link alone")


def test_a_target_that_refuses_is_told_and_the_next_address_is_tried(agent: Agent) -> None:
    with agent.listen() as closed:
        dead = closed.getsockname()[1]
    agent.engine.targets_apply([("db", "127.0.0.1", dead)])
    direct = Direct(agent)
    data = direct.idle()
    data.sock.sendall(NAME + DB)
    assert data.rest() == bytes([REFUSED])
    assert agent.event(core.EVENT_TARGET_FAILED)[1:3] == ("db", errno.ECONNREFUSED)
    with agent.listen() as live:
        port = live.getsockname()[1]
        agent.engine.targets_apply([("db", "127.0.0.1", dead), ("db", "127.0.0.1", port)])
        _, target = direct.opened(live)
        target.sock.sendall(b"x")


def test_the_target_may_be_told_the_visitor(agent: Agent) -> None:
    listener = agent.target("db")
    flags = core.TARGET_TCP | core.TARGET_PROXY_HEADER
    agent.engine.targets_apply([("db", "127.0.0.1", listener.getsockname()[1], flags)])
    header = preamble_tcp(b"db", (b"\1\2\3\4", 5), (b"\5\6\7\x08", 9))
    data = Direct(agent).idle()
    data.sock.sendall(NAME + header + b"first")
    target = agent.accept(listener)
    assert target.take(len(header) + 5) == header + b"first"


def test_a_reset_goes_through_either_way(agent: Agent) -> None:
    listener = agent.target("db")
    direct = Direct(agent)
    for is_target in (True, False):
        data, target = direct.opened(listener)
        one, other = (target, data) if is_target else (data, target)
        one.sock.sendall(b"last words")
        assert other.take(10) == b"last words"
        one.abort()
        assert other.is_cut_off()
    wait_until(lambda: agent.connections() == 1, "the link alone")


def test_a_reset_overtakes_nothing_either_way(agent: Agent) -> None:
    spoken = b"0123456789abcdef" * 12_000  # what sockets take without a reader
    listener = agent.target("db")
    direct = Direct(agent)
    for is_target in (True, False):
        data, target = direct.opened(listener)
        one, other = (target, data) if is_target else (data, target)
        other.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        one.sock.sendall(spoken)
        acknowledged(one)
        one.abort()
        got = b""
        with pytest.raises(ConnectionResetError):
            while part := other.sock.recv(3000):
                got += part
        assert got == spoken
    wait_until(lambda: agent.connections() == 1, "the link alone")


def test_a_visitor_that_has_gone_before_the_target_is_there(agent: Agent) -> None:
    listener = agent.target("db")
    data = Direct(agent).idle()
    data.sock.sendall(NAME + DB + b"x")
    data.abort()
    target = agent.accept(listener)
    assert target.is_cut_off()
    wait_until(lambda: agent.connections() == 1, "the link alone")


def test_an_end_without_the_servers_word_is_no_end(agent: Agent) -> None:
    """A process that is killed leaves such ends behind."""
    listener = agent.target("db")
    direct = Direct(agent)
    data, target = direct.opened(listener)
    data.sock.sendall(b"half of it")
    data.close()
    assert target.take(10) == b"half of it"
    assert not target.is_readable(0.05)
    direct.link.close()
    assert target.is_cut_off()


def test_the_link_takes_them_along(agent: Agent) -> None:
    listener = agent.target("db")
    direct = Direct(agent)
    idle, (data, target) = direct.idle(), direct.opened(listener)
    asked = direct.asked(os.urandom(32))
    agent.engine.link_close(direct.dial, "enough")
    assert idle.rest() == b""
    assert asked.rest() == b""
    assert data.is_cut_off()
    assert target.is_cut_off()
    wait_until(lambda: agent.connections() == 0, "nothing")


def test_an_agent_that_drains_waits_for_what_is_under_way(agent: Agent) -> None:
    listener = agent.target("db")
    direct = Direct(agent)
    data, target = direct.opened(listener)
    before = agent.engine.stats()["turns"]
    agent.engine.drain(20_000)
    # The turn under way may have been past its mailbox; a ticket that overtakes is a good one.
    wait_until(lambda: agent.engine.stats()["turns"] >= before + 2, "the drain to be read")
    direct.hand_out(os.urandom(32))  # not for a new one
    target.sock.sendall(b"still here")
    assert data.take(10) == b"still here"
    assert not agent.has_event(core.EVENT_DRAINED)
    direct.end(data)
    target.sock.shutdown(socket.SHUT_WR)
    agent.event(core.EVENT_DRAINED)
    assert not Wire(agent.listener).is_readable(0)


def test_bulk_is_spliced_byte_for_byte(agent: Agent) -> None:
    listener = agent.target("db")
    data, target = Direct(agent).opened(listener)
    content = os.urandom(16 << 20)
    sender = threading.Thread(target=target.sock.sendall, args=(content,))
    sender.start()
    assert data.take(len(content)) == content
    sender.join()
    assert agent.stat("spliced_bytes") > 8 << 20
