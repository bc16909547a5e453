"""Direct connections of the server role: tickets, the pool, and visitors on them."""

from __future__ import annotations

import gc
import os
import resource
import select
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from proxy_engine_core import core
from proxy_engine_core._testing.core_parts import parse_preamble
from tests.engine.harness import (
    DATA,
    REFUSED,
    TARGET_LOST,
    TIMEOUT,
    UNKNOWN_TUNNEL,
    UNREACHABLE,
    Device,
    Server,
    Visitor,
    Wire,
    serving,
    wait_until,
)

TICKET_SIZE = 32
NAME = b"12345678"  # what the device calls its connections
ACCEPTED = b"\0" + NAME


class Direct:
    """A server with a TCP tunnel "db", and devices that make direct connections."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.tcp_port = server.engine.tcp_listen("127.0.0.1", 0)
        self.records: dict[int, bytes] = {}  # control bytes read, by link
        self.names: dict[Wire, bytes] = {}  # what the server calls a connection

    def route(self, *devices: Device) -> None:
        links = [device.link for device in devices]
        self.server.routes([("set", f"tcp::{self.tcp_port}", 3, links, "db")])

    def device(self, direct: int = 64, **how: object) -> Device:
        device = self.server.device(tunnel=None, direct=direct, **how)  # type: ignore[arg-type]
        device.open_control()
        return device

    def record(self, device: Device, kind: int) -> bytes:
        """The next one, less the byte that says what it is; others are skipped."""
        while True:
            data = self.records.pop(device.link, b"")
            while len(data) < 4 or len(data) < 4 + int.from_bytes(data[:4], "big"):
                data += device.next(1, DATA).payload
            size = int.from_bytes(data[:4], "big")
            self.records[device.link] = data[4 + size :]
            if data[4] == kind:
                return data[5 : 4 + size]

    def end(self, device: Device, data: Wire) -> None:
        """The device's side finishes, and says so."""
        data.sock.shutdown(socket.SHUT_WR)
        device.data(1, b"\0\0\0\x09\2" + self.names[data])

    def tickets(self, device: Device) -> list[bytes]:
        """Those of the next record."""
        rest = self.record(device, 1)
        assert len(rest) % TICKET_SIZE == 0
        return [rest[start : start + TICKET_SIZE] for start in range(0, len(rest), TICKET_SIZE)]

    def ask(self, ticket: bytes, fields: str = "") -> Wire:
        wire = Wire(socket.create_connection(("127.0.0.1", self.server.port)))
        self.server.wires.append(wire)
        wire.sock.sendall(
            f"GET /_proxy/data HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n"
            f"Upgrade: proxy-engine-data\r\nProxy-Engine-Ticket: {ticket.hex()}\r\n"
            f"{fields}\r\n".encode()
        )
        return wire

    def bring(self, ticket: bytes) -> Wire:
        wire = self.ask(ticket)
        head = wire.take_head()
        assert head.startswith(b"HTTP/1.1 101 ")
        assert b"\r\nUpgrade: proxy-engine-data\r\n" in head
        return wire

    def refused(self, ticket: bytes) -> bool:
        head = self.ask(ticket).take_head()
        return head.startswith(b"HTTP/1.1 403 ")

    def stocked(self) -> tuple[Device, list[Wire]]:
        """A device with the connections it was asked for."""
        device = self.device()
        self.route(device)
        return device, [self.bring(ticket) for ticket in self.tickets(device)]

    def connect(self, **how: int) -> Visitor:
        visitor = Visitor(self.tcp_port, **how)
        self.server.wires.append(visitor)
        return visitor

    def taken(self, wires: list[Wire]) -> Wire:
        """The connection that a visitor was given; its preamble is read off."""
        found = wait_until(
            lambda: next((wire for wire in wires if wire.is_readable(0)), None), "a visitor"
        )
        self.names[found] = found.take(8)
        header = found.take(16)
        header += found.take(int.from_bytes(header[14:16], "big"))
        assert parse_preamble(header) == (len(header), b"db")
        wires.remove(found)
        return found

    def outgrown(self) -> tuple[Device, list[Visitor], int, list[bytes]]:
        """A pool that had nothing for the last of five visitors, whose stream that is, and the
        tickets of the twice as many it asks for then."""
        device, wires = self.stocked()
        while True:
            visitors = [self.connect() for _ in range(5)]
            for _ in range(4):
                self.taken(wires)
            stream = device.opened()
            device.accept(stream)
            tickets = self.tickets(device)
            if len(tickets) == 8:
                return device, visitors, stream, tickets
            # It does not if the last found that others were asked for already: this was slow.
            while len(tickets) < 4:
                tickets += self.tickets(device)
            wires += [self.bring(ticket) for ticket in tickets]

    def opened(self) -> tuple[Device, Visitor, Wire]:
        """A visitor whose target is connected."""
        device, wires = self.stocked()
        visitor = self.connect()
        data = self.taken(wires)
        data.sock.sendall(ACCEPTED)
        return device, visitor, data


@pytest.fixture
def direct() -> Iterator[Direct]:
    with serving() as server:
        yield Direct(server)


def pipes() -> int:
    found = 0
    for fd in os.listdir("/proc/self/fd"):
        try:
            found += os.readlink(f"/proc/self/fd/{fd}").startswith("pipe:")
        except OSError:
            pass
    return found


# --- tickets ------------------------------------------------------------------------------------


def test_a_link_of_http_tunnels_gets_no_tickets(direct: Direct) -> None:
    device = direct.device()
    direct.server.route("web", device)
    visitor = direct.server.visitor()
    visitor.get()
    device.request()
    assert direct.server.stat("direct_tickets_issued") == 0


@pytest.mark.parametrize(("most", "expected"), [(0, 0), (1, 1), (64, 4)])
def test_a_tcp_tunnel_asks_for_four_connections_or_fewer(
    direct: Direct, most: int, expected: int
) -> None:
    device = direct.device(most)
    direct.route(device)
    if expected:
        assert len(set(direct.tickets(device))) == expected
    visitor = direct.connect()
    visitor.send(b"x")
    device.opened()  # the tickets did not come back: a stream serves
    assert direct.server.stat("direct_tickets_issued") == expected


def test_a_ticket_is_good_once(direct: Direct) -> None:
    device = direct.device()
    direct.route(device)
    ticket = direct.tickets(device)[0]
    direct.bring(ticket)
    assert direct.refused(ticket)
    assert direct.refused(ticket[:8] + os.urandom(24))
    assert direct.refused(ticket[:-1])
    assert direct.refused(b"")
    assert direct.server.stat("direct_tickets_refused") == 4
    assert direct.server.stat("direct_tickets_used") == 1
    assert direct.server.log().reason == "bad_ticket"


def test_a_ticket_of_another_session_is_refused(direct: Direct) -> None:
    gone, other = direct.device(), direct.device()
    direct.route(gone, other)
    [ticket, second, *_] = direct.tickets(gone)
    [theirs, *_] = direct.tickets(other)
    assert direct.refused(theirs[:8] + ticket[8:])
    direct.server.engine.link_close(gone.link, "enough")
    assert gone.closed()
    assert direct.refused(second)
    direct.bring(theirs)


def test_a_ticket_expires() -> None:
    with serving(direct_ticket_ms=20) as server:
        direct = Direct(server)
        device = direct.device()
        direct.route(device)
        tickets = direct.tickets(device)
        server.wait_stat("direct_tickets_expired", 4)
        assert direct.refused(tickets[0])
        # What came back never gets another chance before a pause.
        assert server.stat("direct_tickets_issued") == 4


@pytest.mark.parametrize(
    "request_line", ["POST /_proxy/data HTTP/1.1", "GET /_proxy/data HTTP/1.0"]
)
def test_a_request_that_is_no_upgrade_is_refused(direct: Direct, request_line: str) -> None:
    device = direct.device()
    direct.route(device)
    ticket = direct.tickets(device)[0]
    visitor = direct.server.visitor()
    visitor.send(
        f"{request_line}\r\nHost: x\r\nProxy-Engine-Ticket: {ticket.hex()}\r\n\r\n".encode()
    )
    assert visitor.response().status == 400
    direct.bring(ticket)  # and costs nobody the ticket


# --- the pool -----------------------------------------------------------------------------------


def test_what_was_taken_is_asked_for_again(direct: Direct) -> None:
    device, wires = direct.stocked()
    direct.connect()
    direct.taken(wires)
    [ticket] = direct.tickets(device)
    wires.append(direct.bring(ticket))
    direct.connect()
    direct.taken(wires)


def test_a_dry_pool_falls_back_to_streams_and_grows(direct: Direct) -> None:
    device, visitors, stream, _ = direct.outgrown()
    device.data(stream, b"by a stream")
    got = wait_until(lambda: [each for each in visitors if each.is_readable(0)], "the stream")
    assert [each.take(11) for each in got] == [b"by a stream"]
    assert direct.server.stat("direct_missed") == direct.server.stat("streams_opened")


def test_a_pool_that_grew_shrinks_when_it_is_not_needed() -> None:
    with serving(direct_shrink_ms=100) as server:
        direct = Direct(server)
        _, visitors, _, tickets = direct.outgrown()
        wires = [direct.bring(ticket) for ticket in tickets]
        left = list(wires)

        def ended() -> bool:
            left[:] = [wire for wire in left if not wire.is_readable(0)]
            return len(left) <= 4

        wait_until(ended, "a smaller pool")
        for wire in set(wires) - set(left):
            assert wire.rest() == b""
        assert not left[0].is_readable(0.3)  # four stay
        assert len(left) == 4
        assert server.stat("direct_lost") == 0
        visitors.append(direct.connect())
        direct.taken(left)


def test_an_idle_connection_that_ends_or_speaks_is_dropped(direct: Direct) -> None:
    _, wires = direct.stocked()
    wires[0].close()
    wires[1].sock.sendall(b"unasked")
    wires[2].abort()
    direct.server.wait_stat("direct_lost", 3)
    direct.connect()
    direct.taken(wires[3:])


def test_a_draining_link_gives_its_idle_connections_back(direct: Direct) -> None:
    device, wires = direct.stocked()
    visitor = direct.connect()
    data = direct.taken(wires)
    data.sock.sendall(ACCEPTED)
    direct.server.engine.link_drain(device.link, close=True)
    for wire in wires:
        assert wire.rest() == b""
    visitor.send(b"still here")
    assert data.take(10) == b"still here"
    visitor.close()
    assert data.rest() == b""
    direct.end(device, data)
    assert device.closed()
    assert direct.server.event(core.EVENT_LINK_DOWN)[3] == "drained"


# --- visitors -----------------------------------------------------------------------------------


def test_bytes_go_both_ways_and_each_end_by_itself(direct: Direct) -> None:
    device, visitor, data = direct.opened()
    data.sock.sendall(b"220 hello\r\n")  # the server speaks first
    assert visitor.take(11) == b"220 hello\r\n"
    visitor.send(b"HELO there")
    assert data.take(10) == b"HELO there"
    visitor.sock.shutdown(socket.SHUT_WR)
    assert data.rest() == b""
    assert direct.record(device, 2) == NAME
    data.sock.sendall(b"and the rest of it")
    assert visitor.take(18) == b"and the rest of it"
    direct.end(device, data)
    assert visitor.rest() == b""
    log = direct.server.log()
    assert (log.method, log.host, log.device) == ("TCP", f":{direct.tcp_port}", 7)
    assert (log.status, log.reason, log.flags) == (0, "", core.LOG_TCP | core.LOG_TUNNEL)
    assert (log.bytes_in, log.bytes_out) == (10, 29)
    assert 0 < log.link_us + log.target_us <= log.first_byte_us <= log.total_us
    assert direct.server.stat("direct_connections") == 1
    assert direct.server.stat("streams_opened") == 0


def test_the_visitor_is_not_held_up_for_the_answer(direct: Direct) -> None:
    _, wires = direct.stocked()
    visitor = direct.connect()
    visitor.send(b"first")
    data = direct.taken(wires)
    assert data.take(5) == b"first"
    data.sock.sendall(ACCEPTED + b"second")
    assert visitor.take(6) == b"second"


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (REFUSED, "refused"),
        (UNREACHABLE, "unreachable"),
        (TIMEOUT, "target_timeout"),
        (UNKNOWN_TUNNEL, "unknown_target"),
        (TARGET_LOST, "target_lost"),
    ],
)
def test_a_refusal_of_the_device_resets_the_visitor(direct: Direct, code: int, reason: str) -> None:
    _, wires = direct.stocked()
    visitor = direct.connect()
    data = direct.taken(wires)
    data.sock.sendall(bytes([code]))
    data.close()
    assert visitor.is_cut_off()
    assert direct.server.log().reason == reason


def test_a_device_that_ends_without_an_answer(direct: Direct) -> None:
    _, wires = direct.stocked()
    visitor = direct.connect()
    direct.taken(wires).close()
    assert visitor.is_cut_off()
    assert direct.server.log().reason == "target_lost"


def test_a_target_that_takes_too_long() -> None:
    with serving(open_timeout_ms=50) as server:
        direct = Direct(server)
        _, wires = direct.stocked()
        visitor = direct.connect()
        data = direct.taken(wires)
        assert visitor.is_cut_off()
        assert data.is_cut_off()
        assert server.log().reason == "target_timeout"


def test_a_connection_that_rests_too_long() -> None:
    with serving(tunnel_timeout_ms=50) as server:
        _, visitor, _ = Direct(server).opened()
        assert visitor.is_cut_off()
        assert server.log().reason == "tunnel_timeout"
        assert server.stat("tunnel_timeouts") == 1


def test_a_reset_of_the_device_is_a_reset_behind_its_last_bytes(direct: Direct) -> None:
    _, visitor, data = direct.opened()
    data.sock.sendall(b"last words")
    assert visitor.take(10) == b"last words"
    data.abort()
    assert visitor.is_cut_off()
    assert direct.server.log().reason == "target_lost"


SPOKEN = b"0123456789abcdef" * 12_000  # what sockets take without a reader


def test_a_reset_of_the_device_overtakes_nothing_on_its_way_to_a_slow_visitor() -> None:
    """A relay that only copies and closes would lose none of it, either."""
    with serving() as server:
        direct = Direct(server)
        _, wires = direct.stocked()
        visitor = direct.connect(receive_buffer=4096)
        data = direct.taken(wires)
        data.sock.sendall(ACCEPTED + SPOKEN)
        wait_until(lambda: data.unacknowledged() == 0, "the server's kernel to have it")
        data.abort()
        got = b""
        with pytest.raises(ConnectionResetError):
            while part := visitor.sock.recv(3000):
                got += part
        assert got == SPOKEN
        assert server.log().reason == "target_lost"
        wait_until(lambda: server.stat("connections") <= 6, "the visitor to be gone")


def test_who_reads_nothing_does_not_keep_a_reset_up_for_ever() -> None:
    with serving(reader_timeout_ms=200) as server:
        direct = Direct(server)
        _, wires = direct.stocked()
        visitor = direct.connect(receive_buffer=4096)
        data = direct.taken(wires)
        data.sock.sendall(ACCEPTED + SPOKEN[:12_000])  # the kernel takes it all
        wait_until(lambda: data.unacknowledged() == 0, "the server's kernel to have it")
        data.abort()
        server.wait_stat("resets_late", 1)
        assert server.log().reason == "target_lost"
        server.wait_stat("connections_closed", 2)
        with pytest.raises(ConnectionResetError):
            while visitor.sock.recv(3000):
                pass


def test_a_reset_of_the_visitor_overtakes_nothing_on_its_way_to_the_device(direct: Direct) -> None:
    _, wires = direct.stocked()
    for wire in wires:
        wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    visitor = direct.connect()
    data = direct.taken(wires)
    data.sock.sendall(ACCEPTED)
    visitor.send(SPOKEN)
    wait_until(lambda: visitor.unacknowledged() == 0, "the server's kernel to have it")
    visitor.abort()
    direct.server.wait_stat("resets_late", 1)
    got = b""
    with pytest.raises(ConnectionResetError):
        while part := data.sock.recv(3000):
            got += part
    assert got == SPOKEN
    assert direct.server.log().reason == "visitor_gone"


def test_a_reset_of_the_visitor_is_passed_on(direct: Direct) -> None:
    _, visitor, data = direct.opened()
    visitor.send(b"x")
    data.take(1)
    visitor.abort()
    with pytest.raises(ConnectionResetError):
        data.rest()
    assert direct.server.log().reason == "visitor_gone"


def test_an_end_without_the_devices_word_is_no_end(direct: Direct) -> None:
    """A process that is killed leaves such ends behind."""
    device, visitor, data = direct.opened()
    data.sock.sendall(b"half of it")
    data.close()
    assert visitor.take(10) == b"half of it"
    assert not visitor.is_readable(0.05)
    device.close()
    assert visitor.is_cut_off()
    assert direct.server.log().reason == "link_lost"


def test_the_word_may_come_before_the_end(direct: Direct) -> None:
    device, visitor, data = direct.opened()
    device.data(1, b"\0\0\0\x09\2" + direct.names[data])
    device.data(1, b"\0\0\0\x09\2" + NAME)  # there is no such: a race, and no harm
    data.sock.sendall(b"all of it")
    assert visitor.take(9) == b"all of it"
    assert not visitor.is_readable(0.02)
    data.sock.shutdown(socket.SHUT_WR)
    assert visitor.rest() == b""


def test_a_link_takes_its_direct_connections_along(direct: Direct) -> None:
    device, wires = direct.stocked()
    visitor = direct.connect()
    data = direct.taken(wires)
    data.sock.sendall(ACCEPTED + b"hello")
    assert visitor.take(5) == b"hello"
    direct.server.engine.link_close(device.link, "revoked")
    assert visitor.is_cut_off()
    with pytest.raises(ConnectionResetError):
        data.rest()
    for wire in wires:
        assert wire.rest() == b""
    assert direct.server.log().reason == "link_lost"
    wait_until(lambda: direct.server.connections() == 1, "the tunnel's listener alone")


def test_a_slow_visitor_stops_the_device(direct: Direct) -> None:
    device, wires = direct.stocked()
    visitor = direct.connect(receive_buffer=4096)
    data = direct.taken(wires)
    data.sock.sendall(ACCEPTED)
    data.sock.setblocking(False)
    sent = 0
    block = os.urandom(65536)
    with pytest.raises(BlockingIOError):
        while sent < 64 << 20:
            sent += data.sock.send(block)
            select.select([], [data.sock], [], 0.1)
    assert direct.server.stat("buffer_bytes") <= 2 << 20
    data.sock.setblocking(True)
    direct.end(device, data)
    assert len(visitor.rest()) == sent


def test_bulk_is_spliced_byte_for_byte(direct: Direct) -> None:
    device, visitor, data = direct.opened()
    before = pipes()
    blocks = {True: os.urandom(24 << 20), False: os.urandom(24 << 20)}
    with ExitStack() as stack:

        def send(wire: Wire, content: bytes) -> None:
            wire.sock.sendall(content)
            if wire is visitor:
                visitor.sock.shutdown(socket.SHUT_WR)
            else:
                direct.end(device, data)

        for wire, content in ((visitor, blocks[True]), (data, blocks[False])):
            sender = threading.Thread(target=send, args=(wire, content))
            sender.start()
            stack.callback(sender.join)
        got: dict[bool, bytes] = {}
        reader = threading.Thread(target=lambda: got.update({True: all_of(data)}))
        reader.start()
        got[False] = all_of(visitor)
        reader.join()
    assert got == blocks
    log = direct.server.log()
    assert (log.reason, log.bytes_in, log.bytes_out) == ("", 24 << 20, 24 << 20)
    assert direct.server.stat("spliced_bytes") > 32 << 20
    assert pipes() - before <= 2 * 8 * direct.server.engine.workers  # kept for the next


def test_bulk_is_copied_when_there_are_no_file_descriptors_for_pipes(direct: Direct) -> None:
    _, visitor, data = direct.opened()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    block = os.urandom(8 << 20)
    gc.collect()  # or a descriptor of rubbish comes free in the middle
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        sender = threading.Thread(target=visitor.sock.sendall, args=(block,))
        sender.start()
        got = data.take(len(block))
        sender.join()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert got == block
    assert direct.server.stat("pipes_short") >= 1
    assert direct.server.stat("spliced_bytes") == 0

    def send_more() -> bool:
        """It is tried again after a while."""
        sender = threading.Thread(target=data.sock.sendall, args=(block,))
        sender.start()
        assert visitor.take(len(block)) == block
        sender.join()
        return direct.server.stat("spliced_bytes") > 0

    wait_until(send_more, "a pipe")
    assert direct.server.stat("direct_connections") == 1


def all_of(wire: Wire) -> bytes:
    parts = [bytes(wire.received)]
    wire.received.clear()
    while part := wire.sock.recv(1 << 20):
        parts.append(part)
    return b"".join(parts)


@pytest.mark.parametrize("worker", [0, 1, 2])
def test_connections_move_to_the_worker_of_their_link(worker: int) -> None:
    with serving(3) as server:
        direct = Direct(server)
        device = direct.device(worker=worker)
        direct.route(device)
        wires = [direct.bring(ticket) for ticket in direct.tickets(device)]
        for index in range(12):
            visitor = direct.connect()
            data = direct.taken(wires)
            data.sock.sendall(ACCEPTED)
            visitor.send(b"%d" % index)
            assert data.take(len(str(index))) == b"%d" % index
            wires += [direct.bring(ticket) for ticket in direct.tickets(device)]
        assert server.engine.worker_stats(worker)["direct_connections"] == 12
