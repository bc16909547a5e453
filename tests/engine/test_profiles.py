"""What a tunnel's profile is to its connections, at both ends, direct and over a link."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from typing import Literal

import pytest

from proxy_engine_core._testing.core_parts import preamble, preamble_profile, preamble_tcp
from tests.engine.harness import (
    DATA,
    SYN,
    WINDOW,
    Agent,
    Wire,
    dialling,
    frame,
    serving,
    wait_until,
)
from tests.engine.test_direct import ACCEPTED, Direct
from tests.engine.test_direct_agent import NAME
from tests.engine.test_direct_agent import Direct as AgentDirect
from tests.engine.test_sockets import peer_of

Profile = Literal["balanced", "throughput", "latency"]
IDS = {"balanced": 0, "throughput": 1, "latency": 2}
KIB = 1024
# TCP_NODELAY, TCP_NOTSENT_LOWAT, and whether the kernel's buffers are small.
SOCKETS = {
    "balanced": (True, 128 * KIB, False),
    "throughput": (False, 1024 * KIB, False),
    "latency": (True, 16 * KIB, True),
}
ENDS = ((b"\1\2\3\4", 5), (b"\5\6\7\x08", 9))

profiles = pytest.mark.parametrize("profile", list(IDS))


def kernel(end: socket.socket) -> tuple[bool, int, bool]:
    with peer_of(end) as ours:
        sizes = [
            ours.getsockopt(socket.SOL_SOCKET, each)
            for each in (socket.SO_SNDBUF, socket.SO_RCVBUF)
        ]
        return (
            bool(ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)),
            ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT),
            sizes == [128 * KIB] * 2,  # what was asked for, doubled for the kernel's own needs
        )


def header_of(wire: Wire) -> bytes:
    head = wire.take(16)
    return head + wire.take(int.from_bytes(head[14:16], "big"))


class Tunnels(Direct):
    def use(self, profile: Profile, *links: int) -> None:
        self.server.routes([("set", f"tcp::{self.tcp_port}", 3, links, "db", {"profile": profile})])


@pytest.fixture
def tunnels() -> Iterator[Tunnels]:
    with serving(1) as server:
        yield Tunnels(server)


# --- the server ---------------------------------------------------------------------------------


@profiles
def test_a_direct_connection_and_its_visitor_have_the_profile(
    tunnels: Tunnels, profile: Profile
) -> None:
    device, wires = tunnels.stocked()
    tunnels.use(profile, device.link)
    visitor = tunnels.connect()
    data = wait_until(
        lambda: next((wire for wire in wires if wire.is_readable(0)), None), "a visitor"
    )
    data.take(8)
    assert preamble_profile(header_of(data)) == IDS[profile]
    data.sock.sendall(ACCEPTED)
    assert kernel(data.sock) == kernel(visitor.sock) == SOCKETS[profile]


@profiles
def test_a_stream_and_its_visitor_have_the_profile(tunnels: Tunnels, profile: Profile) -> None:
    device = tunnels.device(0)
    tunnels.use(profile, device.link)
    visitor = tunnels.connect()
    visitor.send(b"x")
    stream = device.opened()
    data = device.next(stream, DATA).payload
    assert preamble_profile(data[:-1] if data.endswith(b"x") else data) == IDS[profile]
    device.accept(stream)
    assert kernel(visitor.sock) == SOCKETS[profile]


def test_another_profile_is_for_new_connections(tunnels: Tunnels) -> None:
    device = tunnels.device(0)
    tunnels.use("latency", device.link)
    first = tunnels.connect()
    device.accept(device.opened())
    tunnels.use("throughput", device.link)
    second = tunnels.connect()
    device.accept(device.opened())
    assert [kernel(each.sock) for each in (first, second)] == [
        SOCKETS["latency"], SOCKETS["throughput"],
    ]  # fmt: skip
    tunnels.route(device)
    third = tunnels.connect()
    device.accept(device.opened())
    assert kernel(third.sock) == SOCKETS["balanced"]


@pytest.mark.parametrize(("profile", "frame_max"), [("balanced", 64 * KIB), ("latency", 8 * KIB)])
def test_a_visitor_is_read_in_pieces_of_the_profile(
    tunnels: Tunnels, profile: Profile, frame_max: int
) -> None:
    device = tunnels.device(0)
    tunnels.use(profile, device.link)
    visitor = tunnels.connect()
    stream = device.opened()
    device.accept(stream)
    sender = threading.Thread(target=visitor.send, args=(bytes(200 * KIB),))
    sender.start()
    sizes, got = [], -len(preamble_tcp(b"db", *ENDS, IDS[profile]))
    while got < 200 * KIB:
        sizes.append(len(device.next(stream, DATA).payload))
        got += sizes[-1]
    sender.join()
    assert max(sizes) <= frame_max
    assert (max(sizes) > 8 * KIB) == (frame_max > 8 * KIB)


# --- the agent ----------------------------------------------------------------------------------


@pytest.fixture
def agent() -> Iterator[Agent]:
    with dialling(1) as agent:
        yield agent


@profiles
def test_a_direct_connection_and_its_target_have_the_profile(
    agent: Agent, profile: Profile
) -> None:
    listener = agent.target("db")
    direct = AgentDirect(agent)
    data = direct.idle()
    data.sock.sendall(NAME + preamble_tcp(b"db", *ENDS, IDS[profile]))
    target = agent.accept(listener)
    direct.accepted(data)
    assert kernel(data.sock) == kernel(target.sock) == SOCKETS[profile]


@profiles
@pytest.mark.parametrize("is_http", [False, True])
def test_a_target_of_a_stream_has_the_profile(
    agent: Agent, profile: Profile, is_http: bool
) -> None:
    listener = agent.target("db")
    header = preamble(b"db", IDS[profile]) if is_http else preamble_tcp(b"db", *ENDS, IDS[profile])
    link = AgentDirect(agent).link
    link.send(frame(WINDOW, SYN, 2))
    link.data(2, header)
    target = agent.accept(listener)
    assert kernel(target.sock) == SOCKETS[profile]


def test_a_profile_that_is_not_known_is_none(agent: Agent) -> None:
    listener = agent.target("db")
    link = AgentDirect(agent).link
    link.send(frame(WINDOW, SYN, 2))
    link.data(2, preamble(b"db", 77))
    assert kernel(agent.accept(listener).sock) == SOCKETS["balanced"]


@profiles
def test_what_is_for_dialogues_is_never_spliced(agent: Agent, profile: Profile) -> None:
    listener = agent.target("db")
    direct = AgentDirect(agent)
    data = direct.idle()
    data.sock.sendall(NAME + preamble_tcp(b"db", *ENDS, IDS[profile]))
    target = agent.accept(listener)
    direct.accepted(data)
    content = os.urandom(8 << 20)
    sender = threading.Thread(target=target.sock.sendall, args=(content,))
    sender.start()
    assert data.take(len(content)) == content
    sender.join()
    assert (agent.stat("spliced_bytes") > 0) == (profile != "latency")
