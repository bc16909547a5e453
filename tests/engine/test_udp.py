"""UDP tunnels: streams of visitors, datagrams in and out, what is lost, and how it ends."""

from __future__ import annotations

import itertools
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from proxy_engine_core import core
from proxy_engine_core._testing.core_parts import parse_preamble
from tests.engine.harness import (
    CANCEL,
    CARRIERS,
    DATA,
    PATIENCE,
    PROTOCOL,
    REFUSED,
    RST,
    SYN,
    UNREACHABLE,
    WINDOW,
    WINDOW_SIZE,
    WORKERS,
    Agent,
    Carrier,
    Device,
    Server,
    dialling,
    has_ipv6,
    serving,
    wait_until,
)

UDP = core.LOG_UDP | core.LOG_TUNNEL
SIZE_MAX = 65_507


def packed(*datagrams: bytes) -> bytes:
    return b"".join(struct.pack(">H", len(each)) + each for each in datagrams)


def settle(server: Server) -> None:
    """Every worker has had its mail: it has answered somebody who came later."""
    engine = server.engine
    waiting = {each: engine.worker_stats(each)["accepted"] for each in range(engine.workers)}
    while waiting:
        visitor = server.visitor()
        visitor.get(host="nobody.test")
        assert visitor.response().status == 404
        visitor.close()
        kept: list[Any] = []
        while not kept or kept[-1].method == "UDP":
            kept.append(server.log())
        server.logs = kept[:-1] + server.logs
        for worker, count in list(waiting.items()):
            if engine.worker_stats(worker)["accepted"] > count:
                del waiting[worker]


class UdpServer:
    """A server with one UDP tunnel "dns" on a port of its own."""

    def __init__(self, server: Server, host: str = "127.0.0.1") -> None:
        self.server = server
        self.socks: list[socket.socket] = []
        self.udp_port = server.engine.udp_listen(host, 0)

    def route(self, *devices: Device, **policy: object) -> None:
        links = [device.link for device in devices]
        self.server.routes([("set", f"udp::{self.udp_port}", 3, links, "dns", policy or None)])
        settle(self.server)

    def device(self, carrier: Carrier = "raw", **how: object) -> Device:
        device = self.server.device(carrier, tunnel=None, **how)  # type: ignore[arg-type]
        self.route(device)
        return device

    def visitor(self, host: str = "127.0.0.1") -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.settimeout(PATIENCE)
        sock.connect((host, self.udp_port))
        self.socks.append(sock)
        return sock

    def stat(self, name: str) -> int:
        return self.server.stat(name)

    def close(self) -> None:
        for sock in self.socks:
            sock.close()


@pytest.fixture
def udp() -> Iterator[UdpServer]:
    yield from running()


def running(workers: int = WORKERS, host: str = "127.0.0.1", **options: int) -> Iterator[UdpServer]:
    with serving(workers, **options) as server:
        made = UdpServer(server, host)
        try:
            yield made
        finally:
            made.close()


def opened(device: Device) -> tuple[int, bytes, bytes]:
    """The next stream, its preamble, and what is behind it so far."""
    stream = device.opened()
    device.accept(stream)
    data = device.next(stream, DATA).payload
    size, tunnel = parse_preamble(data)
    assert tunnel == b"dns"
    return stream, data[:size], data[size:]


def received(device: Device, stream: int, size: int, data: bytes = b"") -> bytes:
    while len(data) < size:
        data += device.next(stream, DATA).payload
    return data


@pytest.mark.parametrize("carrier", CARRIERS)
def test_datagrams_keep_their_bounds_both_ways(udp: UdpServer, carrier: Carrier) -> None:
    device = udp.device(carrier)
    visitor = udp.visitor()
    visitor.send(b"question")
    stream, header, rest = opened(device)
    assert header[12:14] == b"\x21\x12"  # PROXY, UDP over IPv4
    source, target, source_port, target_port = struct.unpack(">4s4sHH", header[16:28])
    assert (socket.inet_ntoa(source), source_port) == visitor.getsockname()
    assert (socket.inet_ntoa(target), target_port) == ("127.0.0.1", udp.udp_port)
    assert received(device, stream, 10, rest) == packed(b"question")
    device.data(stream, packed(b"one", b"", b"three" * 200))
    assert [visitor.recv(2000) for _ in range(3)] == [b"one", b"", b"three" * 200]
    visitor.send(b"")
    visitor.send(b"x" * 1400)
    assert received(device, stream, 1404) == packed(b"", b"x" * 1400)
    assert udp.stat("udp_visitors") == 1
    assert (udp.stat("udp_datagrams_in"), udp.stat("udp_datagrams_out")) == (3, 3)
    assert (udp.stat("udp_dropped"), udp.stat("udp_refused")) == (0, 0)


def test_an_answer_cut_anywhere_is_put_together(udp: UdpServer) -> None:
    device = udp.device()
    visitor = udp.visitor()
    visitor.send(b"?")
    stream, _, _ = opened(device)
    whole = packed(b"first", b"", b"second one")
    for byte in whole:
        device.data(stream, bytes([byte]))
    for at in range(1, len(whole)):
        device.data(stream, whole[:at])
        device.data(stream, whole[at:])
    for _ in range(len(whole)):
        assert [visitor.recv(100) for _ in range(3)] == [b"first", b"", b"second one"]


def test_the_largest_datagram_goes_both_ways(udp: UdpServer) -> None:
    device = udp.device()
    visitor = udp.visitor()
    large = bytes(range(251)) * 261
    large = large[:SIZE_MAX]
    visitor.send(large)
    stream, _, rest = opened(device)
    assert received(device, stream, 2 + SIZE_MAX, rest) == packed(large)
    device.data(stream, packed(large))
    assert visitor.recv(70_000) == large


def test_each_address_has_a_stream_of_its_own(udp: UdpServer) -> None:
    device = udp.device()
    visitors = [udp.visitor() for _ in range(50)]
    streams = {}
    for number, visitor in enumerate(visitors):
        visitor.send(b"%d" % number)
        stream, _, rest = opened(device)
        streams[stream] = number
        assert received(device, stream, 3, rest)[2:] == b"%d" % number
    assert len(streams) == 50
    for stream, number in streams.items():
        device.data(stream, packed(b"to %d" % number))
    for number, visitor in enumerate(visitors):
        assert visitor.recv(100) == b"to %d" % number


def test_credit_comes_back_whatever_became_of_the_datagrams(udp: UdpServer) -> None:
    device = udp.device()
    visitor = udp.visitor()
    visitor.send(b"?")
    stream, _, _ = opened(device)
    sent = granted = 0
    batch = packed(*[b"x" * 1400] * 40)
    for _ in range(20):  # more than the visitor's socket can hold
        while sent + len(batch) - granted > WINDOW_SIZE:
            granted += device.next(stream, WINDOW).length
        device.data(stream, batch)
        sent += len(batch)
    while granted < sent - WINDOW_SIZE // 4:
        granted += device.next(stream, WINDOW).length
    wait_until(lambda: udp.stat("udp_datagrams_out") + udp.stat("udp_dropped") == 800)


def test_what_the_window_has_no_room_for_is_lost_and_counted(udp: UdpServer) -> None:
    device = udp.device()
    visitor = udp.visitor()
    sent = 0
    while udp.stat("udp_dropped") == 0:
        visitor.send(b"x" * 30_000)
        sent += 1
        udp.server.wait_stat("udp_datagrams_in", sent)
        assert sent < 100
    stream, _, rest = opened(device)
    took = WINDOW_SIZE // 30_002
    wait_until(lambda: sent - udp.stat("udp_dropped") == took)  # counted in before it is dropped
    assert len(received(device, stream, took * 30_002, rest)) == took * 30_002
    device.grant(stream, 200_000)
    visitor.send(b"again")
    wait_until(lambda: udp.stat("udp_datagrams_in") == sent + 1)
    assert received(device, stream, 7) == packed(b"again")


def test_a_datagram_no_sender_can_have_sent_ends_the_visitor(udp: UdpServer) -> None:
    device = udp.device()
    udp.visitor().send(b"?")
    stream, _, _ = opened(device)
    device.data(stream, packed(b"fine") + struct.pack(">H", SIZE_MAX + 1))
    assert device.next(stream, WINDOW)[1:4] == (RST, stream, PROTOCOL)
    log = udp.server.log()
    assert (log.reason, log.bytes_out) == ("bad_datagram", 4)


def test_the_log_of_a_visitor_that_fell_silent() -> None:
    for udp in running(udp_brief_timeout_ms=1000, udp_timeout_ms=1000):
        device = udp.device()
        visitor = udp.visitor()
        visitor.send(b"question")
        stream, _, _ = opened(device)
        device.data(stream, packed(b"answer", b"more"))
        assert visitor.recv(100) == b"answer"
        assert device.next(stream, WINDOW)[1:4] == (RST, stream, CANCEL)
        log = udp.server.log()
        assert (log.method, log.host, log.path) == ("UDP", f":{udp.udp_port}", "")
        assert (log.visitor, log.device, log.route) == ("127.0.0.1", 7, 3)
        assert (log.status, log.reason, log.flags) == (0, "", UDP)
        assert (log.bytes_in, log.bytes_out) == (8, 10)
        assert 0 < log.link_us + log.target_us == log.first_byte_us <= log.total_us
        assert len(log.request_id) == 32
        visitor.send(b"again")  # a new one
        assert opened(device)[0] != stream


def test_who_asks_once_is_forgotten_before_who_stays() -> None:
    for udp in running(udp_brief_timeout_ms=2000, udp_timeout_ms=60_000):
        device = udp.device()
        staying, asking = udp.visitor(), udp.visitor()
        staying.send(b"one")
        first, _, rest = opened(device)
        assert received(device, first, 5, rest) == packed(b"one")
        staying.send(b"two")
        assert received(device, first, 5) == packed(b"two")
        asking.send(b"?")
        second, _, _ = opened(device)
        assert device.next(second, WINDOW).flags == RST
        staying.send(b"three")
        assert device.next(first, DATA).payload == packed(b"three")
        assert udp.stat("udp_visitors") == 2


def test_so_many_visitors_and_no_more() -> None:
    for udp in running(udp_tunnel_visitors_max=3, udp_brief_timeout_ms=1500):
        device = udp.device()
        for number in range(5):
            udp.visitor().send(b"%d" % number)
        for _ in range(3):
            opened(device)
        udp.server.wait_stat("udp_refused", 2)
        assert udp.stat("udp_visitors") == 3
        for _ in range(3):
            udp.server.log()
        udp.visitor().send(b"room again")
        opened(device)


def test_so_many_visitors_of_all_tunnels_together() -> None:
    for udp in running(udp_visitors_max=2):
        device = udp.device()
        other = UdpServer(udp.server)
        other.route(device)
        for number in range(2):
            udp.visitor().send(b"%d" % number)
            opened(device)
        other.visitor().send(b"one too many")
        udp.server.wait_stat("udp_refused", 1)
        other.close()


def test_nobody_is_served_without_a_link_or_by_a_stock_peer(udp: UdpServer) -> None:
    udp.visitor().send(b"no route")
    udp.server.wait_stat("udp_refused", 1)
    udp.route()
    udp.visitor().send(b"no link")
    udp.server.wait_stat("udp_refused", 2)
    udp.device(preamble=False)
    udp.visitor().send(b"no preamble")
    udp.server.wait_stat("udp_refused", 3)
    udp.device()
    udp.visitor().send(b"now")
    udp.server.wait_stat("udp_visitors", 1)


def test_a_lost_link_ends_its_visitors_and_others_follow(udp: UdpServer) -> None:
    device = udp.device()
    visitor = udp.visitor()
    visitor.send(b"one")
    opened(device)
    device.close()
    log = udp.server.log()
    assert (log.reason, log.flags) == ("link_lost", UDP | core.LOG_ABORTED)
    again = udp.device()
    visitor.send(b"two")
    stream, _, rest = opened(again)
    assert received(again, stream, 5, rest) == packed(b"two")


@pytest.mark.parametrize(
    ("code", "reason"), [(REFUSED, "refused"), (UNREACHABLE, "unreachable"), (6, "target_lost")]
)
def test_the_device_ends_a_visitor_with_a_reason(udp: UdpServer, code: int, reason: str) -> None:
    device = udp.device()
    udp.visitor().send(b"?")
    stream, _, _ = opened(device)
    device.reset(stream, code)
    assert udp.server.log().reason == reason


def test_the_device_ends_a_visitor(udp: UdpServer) -> None:
    device = udp.device()
    udp.visitor().send(b"?")
    stream, _, _ = opened(device)
    device.fin(stream)
    assert udp.server.log().reason == ""
    assert device.next(stream, WINDOW).flags == RST


def test_a_closed_port_is_free_and_its_visitors_end(udp: UdpServer) -> None:
    device = udp.device()
    visitor = udp.visitor()
    visitor.send(b"?")
    stream, _, _ = opened(device)
    with pytest.raises(OSError, match="in use"):
        udp.server.engine.udp_listen("127.0.0.1", udp.udp_port)
    udp.server.engine.udp_close(udp.udp_port)
    assert device.next(stream, WINDOW).flags == RST
    assert udp.server.log().reason == ""

    def again() -> bool:
        try:
            return udp.server.engine.udp_listen("127.0.0.1", udp.udp_port) == udp.udp_port
        except OSError:
            return False

    wait_until(again, "the port")
    settle(udp.server)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("127.0.0.1", udp.udp_port))
        sock.send(b"hello")  # the route is known still
        opened(device)
    udp.server.engine.udp_close(1)  # nobody has it


def test_draining_ends_visitors(udp: UdpServer) -> None:
    device = udp.device()
    udp.visitor().send(b"?")
    opened(device)
    udp.server.engine.drain(5000)
    assert udp.server.event(core.EVENT_DRAINED)
    assert udp.server.log().method == "UDP"


def test_an_answer_comes_from_the_address_that_was_asked() -> None:
    for udp in running(host="0.0.0.0"):
        device = udp.device()
        visitor = udp.visitor("127.0.0.3")
        visitor.send(b"?")
        stream, header, _ = opened(device)
        assert socket.inet_ntoa(header[20:24]) == "127.0.0.3"
        device.data(stream, packed(b"from there"))
        assert visitor.recv(100) == b"from there"  # a connected socket takes it from nobody else


@pytest.mark.skipif(not has_ipv6(), reason="no IPv6 here")
@pytest.mark.parametrize("to", ["::1", "127.0.0.1"])
def test_ipv6_and_both_on_one_socket(to: str) -> None:
    for udp in running(host="::"):
        device = udp.device()
        family = socket.AF_INET6 if to == "::1" else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as visitor:
            visitor.settimeout(PATIENCE)
            visitor.connect((to, udp.udp_port))
            visitor.send(b"?")
            stream, header, _ = opened(device)
            assert header[13] == (0x22 if to == "::1" else 0x12)
            device.data(stream, packed(b"yes"))
            assert visitor.recv(10) == b"yes"


def test_a_switched_off_tunnel_and_denied_addresses(udp: UdpServer) -> None:
    device = udp.device()
    visitor = udp.visitor()
    visitor.send(b"?")
    stream, _, _ = opened(device)
    udp.route(device, disabled=True)
    assert device.next(stream, WINDOW).flags == RST
    assert udp.server.log().reason == "tunnel_disabled"
    visitor.send(b"?")
    udp.server.wait_stat("udp_refused", 1)
    udp.route(device, deny=["127.0.0.0/8"])
    visitor.send(b"?")
    udp.server.wait_stat("udp_refused", 2)
    udp.route(device)
    visitor.send(b"?")
    opened(device)


def test_another_target_is_for_who_comes_next(udp: UdpServer) -> None:
    device = udp.device()
    visitor = udp.visitor()
    visitor.send(b"?")
    stream, _, _ = opened(device)
    udp.server.engine.link_flush(device.link, 4)  # another tunnel's
    udp.server.engine.link_flush(device.link, 3)
    assert device.next(stream, WINDOW).flags == RST
    visitor.send(b"?")
    assert opened(device)[0] != stream


def test_so_many_connections_and_bytes_of_a_token(udp: UdpServer) -> None:
    device = udp.device(quota=9, limits=(2, 0, 10_000))
    first = udp.visitor()
    for sock in (first, udp.visitor(), udp.visitor()):
        sock.send(b"?")
    stream, _, rest = opened(device)
    opened(device)
    udp.server.wait_stat("udp_refused", 1)
    assert udp.stat("token_busy_refused") >= 1
    received(device, stream, 3, rest)
    for number in range(10):
        first.send(b"x" * 60_000)
        udp.server.wait_stat("udp_datagrams_in", 4 + number)
    assert 5 <= udp.stat("udp_dropped") <= 9
    udp.server.engine.limits_apply(9, (0, 0, 0))
    settle(udp.server)
    udp.visitor().send(b"?")
    opened(device)


def test_the_port_is_read_where_a_link_is_and_stays_there() -> None:
    for udp in running(2):
        workers = {}
        for worker in (1, 0):
            device = udp.server.device(tunnel=None, worker=worker)
            workers[worker] = device
        visitor = udp.visitor()
        udp.route(workers[1])
        visitor.send(b"one")
        stream, _, rest = opened(workers[1])
        assert received(workers[1], stream, 5, rest) == packed(b"one")
        udp.route(workers[0], workers[1])  # a second link changes nothing
        visitor.send(b"two")
        assert workers[1].next(stream, DATA).payload == packed(b"two")
        udp.route(workers[0])
        assert workers[1].next(stream, WINDOW).flags == RST
        visitor.send(b"three")
        moved, _, rest = opened(workers[0])
        assert received(workers[0], moved, 7, rest) == packed(b"three")
        for _ in range(20):  # to and fro
            udp.route(workers[1])
            udp.route(workers[0])
        visitor.send(b"four")
        last, _, rest = opened(workers[0])
        assert received(workers[0], last, 6, rest) == packed(b"four")


# --- the agent ----------------------------------------------------------------------------------


class Target:
    def __init__(self, agent: Agent, *before: tuple[str, int]) -> None:
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind(("127.0.0.1", 0))
        self.sock.settimeout(PATIENCE)
        agent.targets.append(self.sock)
        addresses = [*before, self.sock.getsockname()]
        agent.engine.targets_apply(
            [("dns", host, port, core.TARGET_UDP) for host, port in addresses]
        )

    def take(self) -> tuple[bytes, tuple[str, int]]:
        data, address = self.sock.recvfrom(70_000)
        return data, address


def preamble(kind: int = 0x12, tunnel: bytes = b"dns") -> bytes:
    addresses = bytes(8) + struct.pack(">HH", 1, 2)
    tlv = b"\xe0" + struct.pack(">H", len(tunnel)) + tunnel
    head = b"\r\n\r\n\x00\r\nQUIT\n" + bytes([0x21, kind])
    return head + struct.pack(">H", len(addresses) + len(tlv)) + addresses + tlv


def open_stream(link: Device, stream: int, *datagrams: bytes) -> None:
    link.send(frame_syn(stream))
    link.data(stream, preamble() + packed(*datagrams))


def frame_syn(stream: int) -> bytes:
    return struct.pack(">BBHII", 0, WINDOW, SYN, stream, 0)


def closed_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.mark.parametrize("carrier", CARRIERS)
def test_the_target_sees_one_address_for_each_visitor(carrier: Carrier) -> None:
    with dialling() as agent:
        target = Target(agent)
        link = agent.link(carrier)
        sources = set()
        for stream in (2, 4, 6):
            open_stream(link, stream, b"hello", b"", b"x" * 1400)
            assert link.next(stream, WINDOW).flags == 2  # ACK
            got = [target.take() for _ in range(3)]
            assert [data for data, _ in got] == [b"hello", b"", b"x" * 1400]
            assert len({address for _, address in got}) == 1
            sources.add(got[0][1])
            target.sock.sendto(b"answer to %d" % stream, got[0][1])
            target.sock.sendto(b"", got[0][1])
            expected = packed(b"answer to %d" % stream, b"")
            assert received(link, stream, len(expected)) == expected
        assert len(sources) == 3
        link.reset(2, CANCEL)
        link.fin(4)
        link.send(b"")
        link.close()
        agent.event(core.EVENT_LINK_DOWN)
        wait_until(lambda: agent.connections() == 0)


def test_the_agent_takes_the_largest_datagram_in_pieces() -> None:
    with dialling() as agent:
        target = Target(agent)
        link = agent.link()
        large = (bytes(range(256)) * 256)[:SIZE_MAX]
        link.send(frame_syn(2))
        whole = preamble() + packed(large, b"small")
        for at in range(0, len(whole), 5000):
            link.data(2, whole[at : at + 5000])
        assert target.take()[0] == large
        data, address = target.take()
        assert data == b"small"
        target.sock.sendto(large, address)
        assert received(link, 2, 2 + SIZE_MAX) == packed(large)


def test_a_bad_length_or_the_wrong_kind_of_stream_is_reset() -> None:
    with dialling() as agent:
        Target(agent)
        link = agent.link()
        open_stream(link, 2)
        link.data(2, struct.pack(">H", SIZE_MAX + 1))
        assert link.next(2, WINDOW).flags == 2
        assert link.next(2, WINDOW)[1:4] == (RST, 2, PROTOCOL)
        link.send(frame_syn(4))
        link.data(4, preamble(0x11))
        assert link.next(4, WINDOW)[1:4] == (RST, 4, PROTOCOL)


def test_a_service_that_is_away_is_told_once_and_found_when_it_is_back() -> None:
    with dialling() as agent:
        port = closed_port()
        agent.engine.targets_apply([("dns", "127.0.0.1", port, core.TARGET_UDP)])
        link = agent.link()
        open_stream(link, 2, b"one")
        failed = agent.event(core.EVENT_TARGET_FAILED)
        assert failed[1] == "dns"
        for count in range(2, 6):
            link.data(2, packed(b"more"))
            agent.wait_stat("udp_errors", count)
        assert not agent.has_event(core.EVENT_TARGET_FAILED)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(PATIENCE)
            sock.bind(("127.0.0.1", port))
            link.data(2, packed(b"back"))
            data, address = sock.recvfrom(100)
            assert data == b"back"
            sock.sendto(b"yes", address)
            assert received(link, 2, 5) == packed(b"yes")


def test_the_next_address_of_a_name_is_tried() -> None:
    with dialling() as agent:
        target = Target(agent, ("127.0.0.1", closed_port()))
        link = agent.link()
        open_stream(link, 2, b"lost")
        agent.wait_stat("udp_errors", 1)
        link.data(2, packed(b"heard"))
        data, address = target.take()
        assert data == b"heard"
        target.sock.sendto(b"answer", address)
        assert received(link, 2, 8) == packed(b"answer")
        assert not agent.has_event(core.EVENT_TARGET_FAILED)


def test_answers_wait_for_a_window_in_the_kernel_and_are_lost_there() -> None:
    with dialling() as agent:
        target = Target(agent)
        link = agent.link()
        open_stream(link, 2, b"go")
        _, address = target.take()
        numbers = itertools.count()

        def taken() -> int:
            """More than the agent's kernel holds at a time is sent to it."""
            for _ in range(200):
                target.sock.sendto(struct.pack(">I", next(numbers)) + b"x" * 1396, address)
            return agent.stat("udp_datagrams_in")

        wait_until(lambda: taken() * 1402 > WINDOW_SIZE - 70_000)
        data = received(link, 2, 100 * 1402)
        link.grant(2, WINDOW_SIZE)
        wait_until(lambda: taken() >= 200)
        data = received(link, 2, 190 * 1402, data)  # what came behind the grant is among it
        assert next(numbers) > WINDOW_SIZE * 2 // 1402
        found = [
            struct.unpack(">I", data[at + 2 : at + 6])[0]
            for at in range(0, len(data) // 1402 * 1402, 1402)
        ]
        assert found == sorted(set(found))
        assert agent.stat("udp_dropped") == 0


def test_a_table_of_targets_that_changes_leaves_visitors_where_they_are() -> None:
    with dialling() as agent:
        first = Target(agent)
        link = agent.link()
        open_stream(link, 2, b"one")
        assert first.take()[0] == b"one"
        second = Target(agent)
        link.data(2, packed(b"two"))
        assert first.take()[0] == b"two"
        open_stream(link, 4, b"three")
        assert second.take()[0] == b"three"
        agent.engine.targets_apply([])
        link.data(4, packed(b"four"))
        assert second.take()[0] == b"four"
