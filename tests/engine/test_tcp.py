"""TCP tunnels of the server role: listeners, streams, how they end, and who the visitor is."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

import pytest

from proxy_engine_core import core
from proxy_engine_core._testing.core_parts import parse_preamble
from tests.engine.harness import (
    CARRIERS,
    DATA,
    FIN,
    REFUSED,
    RST,
    TARGET_LOST,
    TIMEOUT,
    UNREACHABLE,
    WINDOW,
    WINDOW_SIZE,
    WORKERS,
    Carrier,
    Device,
    Server,
    Visitor,
    acknowledged,
    serving,
    wait_until,
)

TCP = core.LOG_TCP | core.LOG_TUNNEL


class TcpServer:
    """A server with one TCP tunnel "db" on a port of its own."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.tcp_port = server.engine.tcp_listen("127.0.0.1", 0)

    def route(self, *devices: Device) -> None:
        links = [device.link for device in devices]
        self.server.routes(
            [
                ("set", f"tcp::{self.tcp_port}", 3, links, "db"),
                ("set", "tcp:db", 3, links, "db"),
            ]
        )

    def device(self, carrier: Carrier = "raw", **how: object) -> Device:
        device = self.server.device(carrier, tunnel=None, **how)  # type: ignore[arg-type]
        self.route(device)
        return device

    def connect(self, **how: int) -> Visitor:
        visitor = Visitor(self.tcp_port, **how)
        self.server.wires.append(visitor)
        return visitor


@pytest.fixture
def tcp() -> Iterator[TcpServer]:
    with serving() as server:
        yield TcpServer(server)


def opened(device: Device, accept: bool = True) -> tuple[int, bytes]:
    """The next stream, and its preamble."""
    stream = device.opened()
    if accept:
        device.accept(stream)
    return stream, device.next(stream, DATA).payload


def received(device: Device, stream: int, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += device.next(stream, DATA).payload
    return data


@pytest.mark.parametrize("carrier", CARRIERS)
def test_bytes_go_both_ways_and_each_end_by_itself(tcp: TcpServer, carrier: Carrier) -> None:
    device = tcp.device(carrier)
    visitor = tcp.connect()
    stream, header = opened(device)
    assert parse_preamble(header) == (len(header), b"db")
    device.data(stream, b"220 hello\r\n")  # the server speaks first
    assert visitor.take(11) == b"220 hello\r\n"
    visitor.send(b"HELO there")
    assert received(device, stream, 10) == b"HELO there"
    visitor.sock.shutdown(socket.SHUT_WR)
    assert device.next(stream, DATA).flags == FIN
    device.data(stream, b"and the rest of it")
    assert visitor.take(18) == b"and the rest of it"
    device.fin(stream)
    assert visitor.rest() == b""
    log = tcp.server.log()
    assert (log.method, log.host, log.path) == ("TCP", f":{tcp.tcp_port}", "")
    assert (log.visitor, log.device, log.route) == ("127.0.0.1", 7, 3)
    assert (log.status, log.reason, log.flags) == (0, "", TCP)
    assert (log.bytes_in, log.bytes_out) == (10, 29)
    assert 0 < log.link_us + log.target_us <= log.first_byte_us <= log.total_us
    assert len(log.request_id) == 32
    assert tcp.server.stat("tcp_connections") == 1
    assert tcp.server.stat("tcp_refused") == 0


def test_the_target_may_end_first(tcp: TcpServer) -> None:
    device = tcp.device()
    visitor = tcp.connect()
    stream, _ = opened(device)
    device.data(stream, b"bye")
    device.fin(stream)
    assert visitor.rest() == b"bye"
    visitor.send(b"still here")
    assert received(device, stream, 10) == b"still here"
    visitor.close()
    assert device.next(stream, DATA).flags == FIN
    assert tcp.server.log().reason == ""


def test_the_preamble_tells_who_the_visitor_is(tcp: TcpServer) -> None:
    device = tcp.device()
    visitor = tcp.connect()
    _, header = opened(device)
    assert header[12:14] == b"\x21\x11"
    source, target, source_port, target_port = struct.unpack(">4s4sHH", header[16:28])
    assert (socket.inet_ntoa(source), source_port) == visitor.sock.getsockname()
    assert (socket.inet_ntoa(target), target_port) == ("127.0.0.1", tcp.tcp_port)


def test_a_stock_peer_gets_the_bytes_alone(tcp: TcpServer) -> None:
    device = tcp.device(preamble=False)
    visitor = tcp.connect()
    stream = device.opened()
    visitor.send(b"first")
    assert received(device, stream, 5) == b"first"
    device.data(stream, b"answer")  # without an ACK
    assert visitor.take(6) == b"answer"


def test_what_comes_before_the_target_is_connected_waits_in_the_stream(tcp: TcpServer) -> None:
    device = tcp.device()
    visitor = tcp.connect()
    visitor.send(b"x" * 1000)
    stream, _ = opened(device, accept=False)
    assert received(device, stream, 1000) == b"x" * 1000
    device.accept(stream)
    device.data(stream, b"y")
    assert visitor.take(1) == b"y"


def test_a_reset_of_the_target_resets_the_visitor(tcp: TcpServer) -> None:
    device = tcp.device()
    visitor = tcp.connect()
    stream, _ = opened(device)
    device.data(stream, b"half an ans")
    assert visitor.take(11) == b"half an ans"
    device.reset(stream)
    assert visitor.is_cut_off()
    log = tcp.server.log()
    assert (log.reason, log.flags) == ("target_lost", TCP | core.LOG_ABORTED)


def test_a_reset_of_the_visitor_resets_the_stream(tcp: TcpServer) -> None:
    device = tcp.device()
    visitor = tcp.connect()
    stream, _ = opened(device)
    visitor.send(b"going")
    assert received(device, stream, 5) == b"going"
    visitor.abort()
    assert device.next(stream, WINDOW).flags == RST
    assert tcp.server.log().reason == "visitor_gone"


MORE = 16384  # than a window: the server's kernel has it


def test_what_a_visitor_said_before_its_reset_is_passed_on(tcp: TcpServer) -> None:
    spoken = b"0123456789abcdef" * ((WINDOW_SIZE + MORE) // 16)
    device = tcp.device()
    visitor = tcp.connect()
    stream, header = opened(device)
    visitor.send(spoken)
    got = received(device, stream, WINDOW_SIZE - len(header))
    acknowledged(visitor)
    visitor.abort()
    device.grant(stream, WINDOW_SIZE)
    got += received(device, stream, len(spoken) - len(got))
    assert got == spoken
    assert device.next(stream, WINDOW).flags == RST
    assert tcp.server.log().reason == "visitor_gone"


def test_a_visitor_that_has_gone_is_not_waited_for_without_end() -> None:
    with serving(reader_timeout_ms=100) as server:
        tcp = TcpServer(server)
        device = tcp.device()
        visitor = tcp.connect()
        stream, header = opened(device)
        visitor.send(bytes(WINDOW_SIZE + MORE))
        received(device, stream, WINDOW_SIZE - len(header))
        acknowledged(visitor)
        visitor.abort()
        assert device.next(stream, WINDOW).flags == RST
        assert server.log().reason == "visitor_gone"


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (REFUSED, "refused"),
        (UNREACHABLE, "unreachable"),
        (TIMEOUT, "target_timeout"),
        (TARGET_LOST, "target_lost"),
    ],
)
def test_a_target_that_can_not_be_connected_resets_the_visitor(
    tcp: TcpServer, code: int, reason: str
) -> None:
    device = tcp.device()
    visitor = tcp.connect()
    stream, _ = opened(device, accept=False)
    device.reset(stream, code)
    assert visitor.is_cut_off()
    log = tcp.server.log()
    assert (log.reason, log.status) == (reason, 0)


def test_a_lost_link_resets_the_visitor(tcp: TcpServer) -> None:
    device = tcp.device()
    visitor = tcp.connect()
    opened(device)
    device.close()
    assert visitor.is_cut_off()
    assert tcp.server.log().reason == "link_lost"


def test_without_a_device_a_visitor_is_reset(tcp: TcpServer) -> None:
    assert tcp.connect().is_cut_off()
    assert tcp.server.log().reason == "unknown_tunnel"
    tcp.route()
    assert tcp.connect().is_cut_off()
    assert tcp.server.log().reason == "device_offline"
    assert tcp.server.stat("tcp_refused") == 2


def test_a_target_that_does_not_answer_is_waited_for_only_so_long() -> None:
    with serving(open_timeout_ms=100) as server:
        tcp = TcpServer(server)
        device = tcp.device()
        visitor = tcp.connect()
        stream, _ = opened(device, accept=False)
        assert visitor.is_cut_off()
        assert device.next(stream, WINDOW).flags == RST
        assert server.log().reason == "target_timeout"


def test_only_silence_of_both_sides_ends_a_connection() -> None:
    with serving(tunnel_timeout_ms=1500, reader_timeout_ms=50) as server:
        tcp = TcpServer(server)
        device = tcp.device()
        visitor = tcp.connect()
        stream, _ = opened(device)
        for _ in range(5):
            device.data(stream, b"tick")
            assert visitor.take(4) == b"tick"
            assert not visitor.is_readable(0.4)
        assert visitor.is_cut_off()
        assert server.log().reason == "tunnel_timeout"


def test_a_slow_visitor_holds_back_its_target_and_is_not_cut_off() -> None:
    with serving(reader_timeout_ms=50) as server:
        tcp = TcpServer(server)
        device = tcp.device()
        visitor = tcp.connect(receive_buffer=4096)
        stream, _ = opened(device)
        credit, sent = WINDOW_SIZE, 0
        while credit:  # what the kernel holds comes on top of the window
            device.data(stream, bytes(min(credit, 16384)))
            sent += min(credit, 16384)
            credit -= min(credit, 16384)
            while credit == 0 and device.is_readable(0.3):  # for a ping, perhaps
                device.pump()
                credit = sum(each.length for each in device.held if each.type == WINDOW)
                device.held.clear()
        assert server.stat("buffer_bytes") <= 2 * WINDOW_SIZE
        assert len(visitor.take(sent)) == sent
        assert device.next(stream, WINDOW).length
        assert server.stat("slow_readers") == 0


def test_a_closed_port_is_closed_and_can_be_had_again(tcp: TcpServer) -> None:
    device = tcp.device()
    visitor = tcp.connect()
    stream, _ = opened(device)
    tcp.server.engine.tcp_close(tcp.tcp_port)

    def is_refused() -> bool:
        try:
            Visitor(tcp.tcp_port).abort()
        except ConnectionRefusedError:
            return True
        except ConnectionResetError:  # waiting to be accepted when the listener went
            pass
        return False

    wait_until(is_refused, "the listeners are closed")
    device.data(stream, b"goes on")
    assert visitor.take(7) == b"goes on"
    assert tcp.server.engine.tcp_listen("127.0.0.1", tcp.tcp_port) == tcp.tcp_port
    tcp.connect()
    wait_until(lambda: tcp.server.stat("tcp_connections") >= 2, "accepted again")


def test_a_port_in_use_is_refused(tcp: TcpServer) -> None:
    with pytest.raises(OSError, match=str(tcp.tcp_port)):
        tcp.server.engine.tcp_listen("127.0.0.1", tcp.tcp_port)
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(OSError):
        tcp.server.engine.tcp_listen("127.0.0.1", other.getsockname()[1])


def test_visitors_find_links_on_other_workers() -> None:
    with serving(3) as server:
        tcp = TcpServer(server)
        device = tcp.device(worker=2)
        visitors = [tcp.connect() for _ in range(12)]
        for index, visitor in enumerate(visitors):
            visitor.send(b"%04d" % index)
        streams = {}
        for _ in visitors:
            stream, _ = opened(device)
            streams[int(received(device, stream, 4))] = stream
        for index, visitor in enumerate(visitors):
            device.data(streams[index], b"%08d" % index)
            assert int(visitor.take(8)) == index
        assert server.stat("visitors_moved_in") == server.stat("visitors_moved_out") > 0
        assert {server.engine.worker_stats(2)["streams_opened"]} == {12}


def test_the_limit_of_connections_per_address_holds() -> None:
    with serving(1, address_connections_max=1) as server:
        tcp = TcpServer(server)
        device = server.device(tunnel=None)
        tcp.route(device)
        tcp.connect()
        opened(device)
        assert tcp.connect().is_cut_off()
        assert server.stat("address_connections_refused") == 1


def test_draining_waits_for_a_connection(tcp: TcpServer) -> None:
    device = tcp.device()
    visitor = tcp.connect()
    stream, _ = opened(device)
    tcp.server.engine.drain(10_000)
    visitor.send(b"last words")
    assert received(device, stream, 10) == b"last words"
    assert not tcp.server.has_event(core.EVENT_DRAINED)
    device.fin(stream)
    visitor.close()
    tcp.server.event(core.EVENT_DRAINED)


def test_the_line_for_a_stream_is_short_of_room(tcp: TcpServer) -> None:
    device = tcp.device(streams_max=1)
    first = tcp.connect()
    stream, _ = opened(device)
    second = tcp.connect()
    tcp.server.wait_stat("requests_queued", 1)
    first.close()
    device.next(stream, DATA)
    device.fin(stream)
    stream, _ = opened(device)
    device.data(stream, b"your turn")
    assert second.take(9) == b"your turn"


# --- private tunnels ------------------------------------------------------------------------


def joined(tcp: TcpServer, tunnel: str = "db", early: bytes = b"") -> Visitor:
    visitor = tcp.server.visitor()
    visitor.send(b"GET /_proxy/tcp/pi/db HTTP/1.1\r\nHost: x\r\n\r\n" + early)
    ticket = tcp.server.event(core.EVENT_AUTH)[1]
    tcp.server.engine.auth_reply(ticket, b"HTTP/1.1 101 S\r\n\r\n", accept=True, tunnel=tunnel)
    assert visitor.take_head() == b"HTTP/1.1 101 S\r\n\r\n"
    return visitor


@pytest.mark.parametrize("workers", [1, 3])
def test_who_has_a_token_joins_a_tunnel(workers: int) -> None:
    with serving(workers) as server:
        tcp = TcpServer(server)
        device = tcp.device(worker=workers - 1)
        for _ in range(6):
            visitor = joined(tcp, early=b"SSH-2.0-x\r\n")
            stream, header = opened(device)
            assert parse_preamble(header) == (len(header), b"db")
            assert received(device, stream, 11) == b"SSH-2.0-x\r\n"
            device.data(stream, b"SSH-2.0-y\r\n")
            assert visitor.take(11) == b"SSH-2.0-y\r\n"
            device.fin(stream)
            visitor.close()
            log = server.log()
            assert (log.method, log.host, log.path) == ("TCP", "db", "")
            assert (log.bytes_in, log.bytes_out, log.reason) == (11, 11, "")


def test_joining_what_is_offline_ends_in_a_reset(tcp: TcpServer) -> None:
    visitor = joined(tcp, "web")
    assert visitor.is_cut_off()
    assert tcp.server.log().reason == "unknown_tunnel"


# --- behind a load balancer -----------------------------------------------------------------

V2 = (
    b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c"
    + bytes([192, 0, 2, 9, 192, 0, 2, 1])
    + b"\x12\x34\0\x50"
)
V1 = b"PROXY TCP4 192.0.2.9 192.0.2.1 4660 80\r\n"


@pytest.mark.parametrize("header", [V1, V2])
@pytest.mark.parametrize("cut", [0, 1, 20])
def test_a_trusted_proxy_says_who_the_visitor_is(header: bytes, cut: int) -> None:
    with serving(WORKERS, ("127.0.0.0/8",), tcp_proxy_protocol=1) as server:
        tcp = TcpServer(server)
        device = tcp.device()
        visitor = tcp.connect()
        visitor.send(header[:cut])
        visitor.is_readable(0.02)
        visitor.send(header[cut:] + b"hello")
        stream, preamble = opened(device)
        assert preamble[16:20] == bytes([192, 0, 2, 9])
        assert preamble[24:26] == b"\x12\x34"
        assert received(device, stream, 5) == b"hello"
        visitor.abort()
        assert server.log().visitor == "192.0.2.9"


def test_a_proxy_may_speak_for_itself() -> None:
    with serving(WORKERS, ("127.0.0.0/8",), tcp_proxy_protocol=1) as server:
        tcp = TcpServer(server)
        device = tcp.device()
        for header in (b"PROXY UNKNOWN\r\n", b"\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"):
            visitor = tcp.connect()
            visitor.send(header)
            _, preamble = opened(device)
            assert preamble[16:20] == bytes([127, 0, 0, 1])


@pytest.mark.parametrize(
    "header",
    [
        b"SSH-2.0-OpenSSH\r\n",
        b"PROXY TCP4 192.0.2.9 192.0.2.1 4660\r\n",
        b"PROXY TCP4 x.0.2.9 192.0.2.1 4660 80\r\n",
        b"PROXY TCP4 192.0.2.9 192.0.2.1 4660 80" + b" " * 80,
    ],
)
def test_a_trusted_proxy_must_send_its_header(header: bytes) -> None:
    with serving(WORKERS, ("127.0.0.0/8",), tcp_proxy_protocol=1) as server:
        tcp = TcpServer(server)
        tcp.device()
        visitor = tcp.connect()
        visitor.send(header)
        assert visitor.is_cut_off()
        assert server.log().reason == "bad_proxy_header"
        assert server.stat("bad_proxy_headers") == 1


def test_a_header_that_never_comes_has_its_time() -> None:
    with serving(WORKERS, ("127.0.0.0/8",), tcp_proxy_protocol=1, head_timeout_ms=50) as server:
        tcp = TcpServer(server)
        tcp.device()
        assert tcp.connect().is_cut_off()
        assert server.log().reason == "head_timeout"


def test_a_stranger_can_not_say_who_it_is() -> None:
    with serving(WORKERS, ("192.0.2.0/24",), tcp_proxy_protocol=1) as server:
        tcp = TcpServer(server)
        device = tcp.device()
        visitor = tcp.connect()
        visitor.send(V1)
        stream, _ = opened(device)
        assert received(device, stream, len(V1)) == V1
        visitor.abort()
        assert server.log().visitor == "127.0.0.1"


def test_the_limits_are_those_of_the_one_behind_the_proxy() -> None:
    options = {"tcp_proxy_protocol": 1, "address_connections_max": 1}
    with serving(1, ("127.0.0.0/8",), **options) as server:
        tcp = TcpServer(server)
        device = tcp.device()
        tcp.connect().send(V1)
        opened(device)
        second = tcp.connect()
        second.send(V1)
        assert second.is_cut_off()
        other = tcp.connect()
        other.send(V1.replace(b"192.0.2.9", b"192.0.2.8"))
        opened(device)
