"""Several workers: links placed, visitors' connections moving to where their link is."""

from __future__ import annotations

import errno
import gc
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from proxy_engine_core import core
from proxy_engine_core.core import Engine
from tests.engine.harness import (
    ACK,
    CARRIERS,
    DATA,
    OK_HELLO,
    RST,
    SYN,
    WINDOW,
    Carrier,
    Device,
    Frame,
    Server,
    Visitor,
    dialling,
    frame,
    has_ipv6,
    serving,
    wait_until,
    ws_frame,
)

SOME_WORKERS = [2, 4]


class Echo(threading.Thread):
    """A device that answers every request with "<tunnel> <method> <path> <body>"."""

    def __init__(self, device: Device, tunnel: str) -> None:
        super().__init__(daemon=True)
        self.device = device
        self.tunnel = tunnel
        self.streams: dict[int, bytearray] = {}
        self.answered = 0
        device.reader = self
        self.start()

    def run(self) -> None:
        try:
            while (read := self.device.read()) is not None:
                self.take(read)
        except (OSError, TimeoutError):
            pass

    def abort(self) -> None:
        """End its link with RST; not while its thread reads, which may get another's descriptor."""
        self.device.sock.shutdown(socket.SHUT_RD)  # wakes it, says nothing
        self.join(20)
        assert not self.is_alive()
        self.device.abort()

    def take(self, read: Frame) -> None:
        if read.flags & RST:
            self.streams.pop(read.stream, None)
            return
        if read.flags & SYN:
            self.streams[read.stream] = bytearray()
            self.device.accept(read.stream)
        if read.type != DATA or read.stream not in self.streams:
            return
        received = self.streams[read.stream]
        received += read.payload
        if read.payload:
            self.device.grant(read.stream, len(read.payload))
        if received.startswith(b"\r\n\r\n\x00"):
            size = 16 + int.from_bytes(received[14:16], "big")
            if len(received) < size:
                return
            del received[:size]
        while self.answer(read.stream, received):
            pass

    def answer(self, stream: int, received: bytearray) -> bool:
        head, end, rest = bytes(received).partition(b"\r\n\r\n")
        if not end:
            return False
        method, path, _ = head.split(b"\r\n")[0].split(b" ")
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        size = int(fields.get(b"content-length", b"0"))
        if fields.get(b"transfer-encoding") == b"chunked":
            size = rest.find(b"0\r\n\r\n") + 5
            if size == 4:
                return False
        if len(rest) < size:
            return False
        del received[: len(head) + 4 + size]
        body = b" ".join([self.tunnel.encode(), method, path, rest[:size]])
        self.answered += 1
        self.device.data(
            stream, b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        return True


@contextmanager
def echoing(workers: int, **options: int) -> Iterator[Server]:
    """A server with one echoing device "w0", "w1" ... on each worker."""
    with serving(workers, **options) as server:
        for worker in range(workers):
            name = f"w{worker}"
            Echo(server.device(worker=worker, tunnel=name, window=4 << 20), name)
        yield server


def ask(visitor: Visitor, worker: int, path: str = "/") -> None:
    visitor.get(path, host=f"w{worker}.test")
    answer = visitor.response()
    assert answer.status == 200
    assert answer.body == f"w{worker} GET {path} ".encode()


def moved(server: Server) -> int:
    """Visitors moved so far, all of them arrived."""
    stats = server.engine.stats()
    assert stats["visitors_moved_in"] == stats["visitors_moved_out"]
    return stats["visitors_moved_in"]


# --- listening ----------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("workers", SOME_WORKERS)
def test_every_worker_accepts_and_nobody_else(host: str, workers: int) -> None:
    if host == "::1" and not has_ipv6():
        pytest.skip("no IPv6 here")
    engine = Engine("server", workers=workers)
    port = engine.listen(host, 0)
    for others in (1, workers):
        other = Engine("server", workers=others)
        with pytest.raises(OSError) as caught:
            other.listen(host, port)
        assert caught.value.errno == errno.EADDRINUSE
        other.stop()
    engine.start()
    socks: list[socket.socket] = []
    while any(engine.worker_stats(worker)["accepted"] == 0 for worker in range(workers)):
        assert len(socks) < 500
        socks.append(socket.create_connection((host, port)))
        wait_until(lambda: engine.stats()["accepted"] == len(socks), "the last to be accepted")
    for sock in socks:
        sock.close()
    engine.stop()
    # The port is free again at once.
    again = Engine("server", workers=workers)
    assert again.listen(host, port) == port
    again.stop()


def test_a_port_somebody_has_is_refused_even_if_they_would_share() -> None:
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        engine = Engine("server", workers=2)
        with pytest.raises(OSError) as caught:
            engine.listen("127.0.0.1", sock.getsockname()[1])
        assert caught.value.errno == errno.EADDRINUSE
        engine.stop()


# --- where links live -----------------------------------------------------------------------


@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize("workers", SOME_WORKERS)
def test_a_link_lives_where_it_was_told_to(workers: int, carrier: Carrier) -> None:
    control = frame(WINDOW, SYN, 1) + frame(DATA, 0, 1, 6, b"\x00\x00\x00\x02{}")
    early = control if carrier == "raw" else ws_frame(2, control)
    with serving(workers) as server:
        for number in range(12 * workers):
            worker = number % workers
            cut = number % (len(early) + 1)
            device = server.device(
                carrier, early=early[:cut], worker=worker, device=number, tunnel=None
            )
            device.send_raw(early[cut:])
            assert server.engine.link_worker(device.link) == worker
            assert device.next(1) == Frame(WINDOW, ACK, 1, 0)
            assert server.event(core.EVENT_CONTROL) == (core.EVENT_CONTROL, device.link, b"{}")
            server.engine.link_send(device.link, b"hi")
            assert device.next(1, DATA).payload == b"\0\0\0\2hi"
        for worker in range(workers):
            stats = server.engine.worker_stats(worker)
            assert stats["links_opened"] == 12
            assert stats["connections"] == 13
        # 12 * workers connections were accepted at random: not all of them in the right place.
        assert 0 < server.stat("links_moved") < 12 * workers


@pytest.mark.parametrize("workers", SOME_WORKERS)
def test_links_go_where_the_fewest_are(workers: int) -> None:
    with serving(workers) as server:
        devices = [server.device(tunnel=None) for _ in range(3 * workers)]
        homes = [server.engine.link_worker(device.link) for device in devices]
        assert sorted(homes) == sorted(list(range(workers)) * 3)
        for device, home in zip(devices, homes, strict=True):
            if home == 1:
                device.close()
                server.event(core.EVENT_LINK_DOWN)
        for _ in range(3):
            assert server.engine.link_worker(server.device(tunnel=None).link) == 1


def test_a_device_that_left_before_its_answer_holds_no_place() -> None:
    with serving(2) as server:
        for _ in range(20):
            sock, ticket = server.knock()
            sock.close()
            server.engine.auth_reply(ticket, b"HTTP/1.1 101 S\r\n\r\n", accept=True)

        def all_gone() -> bool:
            stats = server.engine.stats()
            return stats["links_closed"] + stats["auth_refused"] == 20

        wait_until(all_gone)
        server.engine.poll()
        server.events.clear()
        homes = [server.engine.link_worker(server.device(tunnel=None).link) for _ in range(8)]
        assert sorted(homes) == [0] * 4 + [1] * 4


@pytest.mark.parametrize("workers", SOME_WORKERS)
def test_an_agent_spreads_its_links(workers: int) -> None:
    with dialling(workers) as agent:
        target = agent.target("web")
        links = [agent.link() for _ in range(2 * workers)]
        homes = [agent.engine.link_worker(link.link) for link in links]
        assert sorted(homes) == sorted(list(range(workers)) * 2)
        preamble = b"\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x06\xe0\x00\x03web"
        for link in links:
            link.send(frame(WINDOW, SYN, 2))
            link.data(2, preamble + b"ping")
            wire = agent.accept(target)
            assert wire.take(4) == b"ping"
            agent.engine.link_send(link.link, b"hi")
            assert link.next(1, DATA).payload == b"\0\0\0\2hi"
        agent.engine.link_close(links[0].link)
        assert agent.event(core.EVENT_LINK_DOWN)[1] == links[0].link
        dial, wire = agent.dial()
        assert agent.engine.link_worker(dial) == homes[0]
        wire.close()
        assert agent.event(core.EVENT_DIAL_FAILED)[1] == dial
        dial, _ = agent.dial()
        assert agent.engine.link_worker(dial) == homes[0]


def test_a_dial_goes_to_the_worker_asked_for() -> None:
    with dialling(3) as agent:
        for worker in (2, 0, 1, 2):
            port = agent.listener.getsockname()[1]
            dial = agent.engine.dial("127.0.0.1", port, b"x", carrier="raw", worker=worker)
            assert agent.engine.link_worker(dial) == worker
            agent.accept(agent.listener).close()
            assert agent.event(core.EVENT_DIAL_FAILED)[1] == dial


# --- visitors that move ---------------------------------------------------------------------


@pytest.mark.parametrize("workers", SOME_WORKERS)
def test_a_visitor_moves_at_every_change_of_tunnel(workers: int) -> None:
    with echoing(workers) as server:
        visitor = server.visitor()
        ask(visitor, 0)
        before = moved(server)
        rounds = 200
        for number in range(1, rounds + 1):
            ask(visitor, number % workers, f"/{number}")
        assert moved(server) == before + rounds
        # Staying costs nothing.
        for _ in range(10):
            ask(visitor, rounds % workers)
        assert moved(server) == before + rounds
        server.wait_stat("responses", rounds + 11)
        wait_until(lambda: accounted(server), "the sum")
        assert server.stat("visitor_moves_exhausted") == 0


def test_a_moved_request_that_is_refused_at_once_took_no_longer_than_that() -> None:
    # The clock of the worker it comes from may be ahead of the other's, which is read once a turn.
    with serving(2, device_requests_max=1) as server:
        device = server.device(worker=1)
        first = server.visitor()
        first.get()
        device.request()
        visitors = [server.visitor() for _ in range(400)]
        before = moved(server)
        for visitor in visitors:
            visitor.get()
        assert {visitor.response().status for visitor in visitors} == {503}
        assert moved(server) > before
        assert max(server.log().total_us for _ in visitors) < 60_000_000


def test_a_moved_request_keeps_what_it_was() -> None:
    with serving(2) as server:
        device = server.device(worker=1)
        other = server.device(worker=0, tunnel="other")
        visitor = server.visitor()
        visitor.get(host="other.test")
        stream, _ = other.request()
        other.data(stream, OK_HELLO)
        visitor.response()
        server.log()
        visitor.get("/path?q", fields="X-Request-Id: mine\r\nUser-Agent: me\r\n")
        stream, head = device.request()
        assert b"\r\nX-Forwarded-For: 127.0.0.1\r\n" in head
        assert b"\r\nX-Request-Id: mine\r\n" in head
        device.data(stream, OK_HELLO)
        assert visitor.response().fields["x-request-id"] == "mine"
        record = server.log()
        assert (record.path, record.request_id, record.status) == ("/path?q", "mine", 200)
        assert record.visitor == "127.0.0.1"
        answered_us = record.link_us + record.target_us
        assert record.total_us >= record.first_byte_us >= answered_us > 0
        assert moved(server) >= 1
        assert not server.engine.poll_logs()


@pytest.mark.parametrize("workers", SOME_WORKERS)
def test_pipelined_requests_for_several_workers_are_answered_in_order(workers: int) -> None:
    with echoing(workers) as server:
        visitor = server.visitor()
        order = [(number * 7) % workers for number in range(60)]
        visitor.send(
            b"".join(
                f"GET /{number} HTTP/1.1\r\nHost: w{worker}.test\r\n\r\n".encode()
                for number, worker in enumerate(order)
            )
        )
        for number, worker in enumerate(order):
            assert visitor.response().body == f"w{worker} GET /{number} ".encode()


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_a_body_in_pieces_moves_with_its_head(chunked: bool) -> None:
    body = bytes(range(97, 123)) * 4
    if chunked:
        wire = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:7], body[7:]))
        wire += b"0\r\n\r\n"
        framing = "Transfer-Encoding: chunked"
    else:
        wire = body
        framing = f"Content-Length: {len(body)}"
    with echoing(2) as server:
        visitor = server.visitor()
        for number, cut in enumerate([0, 1, 6, 50, len(wire) - 1, len(wire)] * 2):
            worker = number % 2
            ask(visitor, 1 - worker)
            head = f"PUT /{cut} HTTP/1.1\r\nHost: w{worker}.test\r\n{framing}\r\n\r\n".encode()
            visitor.send(head[:30])
            visitor.send(head[30:] + wire[:cut])
            for start in range(cut, len(wire), 40):
                visitor.send(wire[start : start + 40])
            answer = visitor.response()
            assert answer.status == 200
            assert answer.body == f"w{worker} PUT /{cut} ".encode() + wire
        assert moved(server) >= 12


def test_a_large_body_behind_a_head_that_moves() -> None:
    body = os.urandom(1 << 20).replace(b"\r", b"r")
    with echoing(2, body_timeout_ms=20_000) as server:
        visitor = server.visitor()
        for worker in (0, 1, 0):
            visitor.send(
                f"POST / HTTP/1.1\r\nHost: w{worker}.test\r\n"
                f"Content-Length: {len(body)}\r\n\r\n".encode()
                + body[:200_000]
            )
            visitor.send(body[200_000:])
            # The device answers all of it, within its window of 256 KiB.
            head = visitor.take_head()
            assert head.startswith(b"HTTP/1.1 200 ")
            answer = visitor.take(len(body) + 10)
            assert answer == f"w{worker} POST / ".encode() + body


def is_stuck(server: Server) -> bool:
    """Whether a buffer is in use, and not only for a moment."""
    for _ in range(20):
        if server.stat("buffer_bytes") == 0:
            return False
        server.settle()
    return True


def owing(server: Server) -> tuple[Device, Visitor, int]:
    """A visitor that is owed a little more than its socket takes by worker 0, and has asked
    for something of worker 1; the device there, the visitor and the size of the answer."""
    big = server.device(tunnel="big", worker=0, window=16 << 20)
    small = server.device(tunnel="small", worker=1)
    visitor = server.visitor(receive_buffer=4096)
    visitor.get(host="big.test")
    stream, _ = big.request()
    big.data(stream, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    size = 0
    while not is_stuck(server):
        received = server.stat("link_bytes_in")
        big.data(stream, b"4000\r\n" + bytes(0x4000) + b"\r\n")
        size += 0x4000
        server.wait_stat("link_bytes_in", received + 0x4000)
    big.data(stream, b"0\r\n\r\n")
    server.wait_stat("responses", 1)
    visitor.get(host="small.test")
    server.wait_stat("requests", 4)  # two were for links
    return small, visitor, size


def test_nothing_moves_before_earlier_answers_are_out() -> None:
    with serving(2) as server:
        small, visitor, size = owing(server)
        before = moved(server)
        time.sleep(0.1)
        assert moved(server) == before
        assert visitor.response().body == bytes(size)
        stream, _ = small.request()
        assert moved(server) == before + 1
        small.data(stream, OK_HELLO)
        assert visitor.response().body == b"hello"


def test_who_asks_for_more_but_takes_nothing_is_cut_off() -> None:
    with serving(2, reader_timeout_ms=2000) as server:
        _, visitor, _ = owing(server)
        server.wait_stat("requests_aborted", 1)
        assert visitor.is_cut_off()
        assert server.log().status == 200
        record = server.log()
        assert (record.status, record.reason) == (0, "slow_reader")


def test_an_upgrade_moves_as_any_request() -> None:
    with serving(2) as server:
        device = server.device(worker=1)
        other = server.device(worker=0, tunnel="other")
        visitor = server.visitor()
        visitor.get(host="other.test")
        stream, _ = other.request()
        other.data(stream, OK_HELLO)
        visitor.response()
        visitor.get(fields="Connection: Upgrade\r\nUpgrade: echo\r\n")
        visitor.send(b"early")
        stream, _ = device.request()
        device.data(stream, b"HTTP/1.1 101 S\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nhello")
        assert visitor.response().status == 101
        assert visitor.take(5) == b"hello"
        assert device.next(stream, DATA).payload == b"early"
        visitor.send(b"more")
        assert device.next(stream, DATA).payload == b"more"
        device.fin(stream)
        assert visitor.rest() == b""


def test_a_visitor_that_finished_writing_may_move() -> None:
    with echoing(2) as server:
        for number in range(20):
            worker = number % 2
            visitor = server.visitor()
            ask(visitor, 1 - worker)
            visitor.get("/last", host=f"w{worker}.test")
            visitor.sock.shutdown(socket.SHUT_WR)
            answer = visitor.rest()
            assert answer.endswith(f"w{worker} GET /last ".encode())


# --- links that die ---------------------------------------------------------------------------


def dead_link(server: Server, worker: int) -> Device:
    device = server.device(worker=worker, tunnel=None)
    device.close()
    assert server.event(core.EVENT_LINK_DOWN)[1] == device.link
    return device


def test_a_link_that_has_gone_is_found_out_on_arrival() -> None:
    with serving(4) as server:
        dead = [dead_link(server, worker) for worker in range(4)]
        server.route("web", *dead)
        for _ in range(20):
            visitor = server.visitor()
            for _ in range(2):
                visitor.get()
                answer = visitor.response()
                assert answer.status == 503
                assert b"device_offline" in answer.body
        # Its links were all it knew; it asked at four of them and gave up.
        assert moved(server) == 20 * 2 * 4
        assert server.stat("visitor_moves_exhausted") == 40
        one = server.visitor()
        server.route("web", dead[2])
        one.get()
        assert one.response().status == 503
        assert server.stat("visitor_moves_exhausted") == 40


@pytest.mark.parametrize("workers", SOME_WORKERS)
def test_the_only_live_link_is_found(workers: int) -> None:
    with serving(workers) as server:
        dead = [dead_link(server, worker) for worker in range(workers)]
        for worker in {0, workers - 1}:
            name = f"w{worker}"
            device = server.device(worker=worker, tunnel=None)
            server.route(name, dead[worker], device)
            Echo(device, name)
            for _ in range(20):
                visitor = server.visitor()
                for _ in range(3):
                    ask(visitor, worker)


def test_who_waits_for_a_stream_moves_when_the_link_dies() -> None:
    with serving(2) as server:
        device = server.device(streams_max=2, worker=0)
        device.open_control()
        other = server.device(tunnel=None, worker=1)
        first = server.visitor()
        first.get()
        device.request()
        visitors = []
        for number in range(5):
            visitor = server.visitor()
            visitor.get(f"/{number}", fields=f"X-Request-Id: id-{number}\r\n")
            visitors.append(visitor)
        server.wait_stat("requests_queued", 5)
        before = moved(server)
        server.route("web", device, other)
        server.settle()
        device.close()
        for stream, head in [other.request() for _ in visitors]:
            other.data(stream, OK_HELLO)
            assert b"X-Request-Id: id-" in head
        for visitor in visitors:
            assert visitor.response().status == 200
        assert moved(server) == before + 5
        assert server.stat("responses") == 5
        wait_until(lambda: accounted(server), "the sum")


def test_a_retry_may_move() -> None:
    # A pooled stream turns out to be closed, and so does its link: the other one answers.
    with serving(2) as server:
        device = server.device(worker=0)
        other = server.device(tunnel=None, worker=1)
        visitor = server.visitor()
        visitor.get()
        stream, _ = device.request()
        device.data(stream, OK_HELLO)
        assert visitor.response().status == 200
        links = [device.link, other.link]
        server.routes([("set", "host:web.test", server.route_count, links, "web")])
        before = moved(server)
        visitor.get("/again")
        device.request(stream=stream)
        device.send(frame(WINDOW, RST, stream), frame(3, 0, 0, 0))  # GoAway: no new streams
        stream, head = other.request()
        assert head.startswith(b"GET /again ")
        other.data(stream, OK_HELLO)
        assert visitor.response().status == 200
        assert moved(server) == before + 1
        assert [server.log().flags for _ in range(2)] == [0, core.LOG_RETRIED]


# --- storms -----------------------------------------------------------------------------------


class Storm(threading.Thread):
    """A visitor that asks one tunnel after the other until told to end, or cut off."""

    def __init__(self, server: Server, seed: int) -> None:
        super().__init__(daemon=True)
        self.visitor = server.visitor()
        self.workers = server.engine.workers
        self.seed = seed
        self.statuses: dict[int, int] = {}
        self.ending = False
        self.lost = False
        self.start()

    def run(self) -> None:
        number = self.seed
        try:
            while not self.ending:
                number += 1
                worker = (number * 2654435761 >> 7) % self.workers
                self.visitor.get(f"/{number}", host=f"w{worker}.test")
                answer = self.visitor.response()
                self.statuses[answer.status] = self.statuses.get(answer.status, 0) + 1
                if answer.status == 200:
                    assert answer.body == f"w{worker} GET /{number} ".encode()
                if answer.fields.get("connection") == "close":
                    return
        except (OSError, AssertionError):
            self.lost = True


def end(storms: list[Storm]) -> dict[int, int]:
    total: dict[int, int] = {}
    for storm in storms:
        storm.ending = True
    for storm in storms:
        storm.join(20)
        assert not storm.is_alive()
        for status, how_many in storm.statuses.items():
            total[status] = total.get(status, 0) + how_many
    return total


def accounted(server: Server) -> bool:
    stats = server.engine.stats()
    return stats["requests"] == (
        stats["responses"]
        + stats["responses_local"]
        + stats["requests_aborted"]
        + stats["auth_asked"]
    )


@pytest.mark.parametrize("workers", SOME_WORKERS)
def test_visitors_keep_moving_while_links_die(workers: int) -> None:
    with serving(workers) as server:
        echoes: dict[int, Echo] = {}
        for worker in range(workers):
            device = server.device(worker=worker, tunnel=f"w{worker}")
            echoes[worker] = Echo(device, f"w{worker}")
        storms = [Storm(server, seed * 1000) for seed in range(8)]
        for round_ in range(30):
            worker = round_ % workers
            before = server.stat("responses")
            server.wait_stat("responses", before + 30)
            fresh = server.device(worker=(worker + round_) % workers, tunnel=None)
            follower = Echo(fresh, f"w{worker}")
            if round_ % 3:
                server.route(f"w{worker}", fresh)  # before the old one goes
            echoes[worker].abort()
            if not round_ % 3:
                server.event(core.EVENT_LINK_DOWN)
                server.route(f"w{worker}", fresh)
            echoes[worker] = follower
        total = end(storms)
        assert total.keys() <= {200, 502, 503}
        assert total[200] >= 900
        assert not any(storm.lost for storm in storms)
        wait_until(lambda: accounted(server), "the sum")
        assert moved(server) > 20


@pytest.mark.parametrize("workers", SOME_WORKERS)
def test_routes_change_under_moving_visitors(workers: int) -> None:
    # Every version of the table leads to a live link somewhere: nobody may see a gap.
    with serving(workers) as server:
        devices = []
        for worker in range(workers):
            devices.append(server.device(worker=worker, tunnel=None))
            Echo(devices[-1], "any")
        server.route("w0", devices[0])
        visitors = [server.visitor() for _ in range(6)]
        for number in range(300):
            server.route("w0", devices[number % workers])
            for visitor in visitors:
                visitor.get(f"/{number}", host="w0.test")
            server.route("w0", devices[(number * 7 + 3) % workers])
            for visitor in visitors:
                answer = visitor.response()
                assert (answer.status, answer.body) == (200, f"any GET /{number} ".encode())
        assert moved(server) > 20


# A visitor that lives on worker 0 and asks, on one CPU, for host after host until it is there.
ASKER = """
import os, socket, sys
port, cpu, count = map(int, sys.argv[1:])
os.sched_setaffinity(0, {cpu})
with socket.create_connection(("127.0.0.1", port), 30) as sock:
    def ask(host):
        sock.sendall(b"GET /%s HTTP/1.1\\r\\nHost: %s.test\\r\\n\\r\\n" % (host, host))
        head = b""
        while b"\\r\\n\\r\\n" not in head:
            head += sock.recv(65536)
        head, _, body = head.partition(b"\\r\\n\\r\\n")
        size = int(head.lower().partition(b"content-length: ")[2].split()[0])
        while len(body) < size:
            body += sock.recv(65536)
        return head.split()[1], body
    for number in range(count):
        assert ask(b"home")[0] == b"200"
        print("asks", flush=True)
        while (answer := ask(b"n%d" % number))[0] == b"404":
            pass
        assert answer == (b"200", b"away GET /n%d " % number), answer
        print("answered", flush=True)
"""
ASKED_MAX = 300


def worker_thread(index: int) -> int:
    """The thread id of this worker of the only engine that runs."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # it has ended meanwhile
            if (task / "comm").read_text() == f"engine-{index}\n":
                found.append(int(task.name))
    (thread,) = found
    return thread


def test_a_visitor_ahead_of_the_routes_waits_for_them() -> None:
    # Workers are told of a change one after the other. On one CPU, a thread that has it to spare
    # only is interrupted by the worker it wakes, between the two: worker 0 knows the route, sends
    # the visitor on, and worker 1 does not know it yet.
    cpu = min(os.sched_getaffinity(0))
    with serving(2) as server:
        Echo(server.device(worker=0, tunnel="home"), "home")
        away = server.device(worker=1, tunnel=None)
        Echo(away, "away")
        os.sched_setaffinity(worker_thread(0), {cpu})

        def apply(number: int) -> None:
            os.sched_setaffinity(0, {cpu})
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
            server.route(f"n{number}", away)

        asker = subprocess.Popen(
            [sys.executable, "-c", ASKER, str(server.port), str(cpu), str(ASKED_MAX)],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert asker.stdout is not None
            for number in range(ASKED_MAX):
                assert asker.stdout.readline() == "asks\n"
                thread = threading.Thread(target=apply, args=(number,))
                thread.start()
                thread.join()
                assert asker.stdout.readline() == "answered\n"
                if server.stat("visitors_held"):
                    break
        finally:
            asker.kill()
            asker.communicate()
        assert server.stat("visitors_held") > 0
        wait_until(lambda: accounted(server), "the sum")


# --- the end ------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", SOME_WORKERS)
def test_drain_lets_moving_visitors_finish_and_is_told_once(workers: int) -> None:
    for _ in range(5):
        with echoing(workers) as server:
            storms = [Storm(server, seed * 1000) for seed in range(8)]
            server.wait_stat("visitors_moved_in", 20)
            server.engine.drain(20_000)
            server.event(core.EVENT_DRAINED)
            total = end(storms)
            assert total.keys() == {200}
            wait_until(lambda: accounted(server), "the sum")
            assert moved(server) >= 20
            assert not server.has_event(core.EVENT_DRAINED)


def test_drain_without_anything_to_do() -> None:
    for workers in (1, 2, 4):
        with serving(workers) as server:
            server.engine.drain(20_000)
            server.event(core.EVENT_DRAINED)
            server.engine.drain(20_000)
            assert not server.has_event(core.EVENT_DRAINED)
        with dialling(workers) as agent:
            agent.engine.drain(20_000)
            agent.event(core.EVENT_DRAINED)


def test_drain_waits_for_the_slowest_worker_and_then_no_longer() -> None:
    with serving(2) as server:
        devices = [server.device(worker=worker, tunnel=f"w{worker}") for worker in (0, 1)]
        visitors = [server.visitor(), server.visitor()]
        streams = []
        for worker in (0, 1):
            visitors[worker].get(host=f"w{worker}.test")
            streams.append(devices[worker].request()[0])
        server.engine.drain(20_000)
        devices[0].data(streams[0], OK_HELLO)
        assert visitors[0].response().status == 200
        assert not server.has_event(core.EVENT_DRAINED)
        devices[1].data(streams[1], OK_HELLO)
        assert visitors[1].response().status == 200
        server.event(core.EVENT_DRAINED)
    with serving(2) as server:
        device = server.device()
        visitor = server.visitor()
        visitor.get()
        device.request()
        server.engine.drain(50)
        server.event(core.EVENT_DRAINED)
        assert not server.has_event(core.EVENT_DRAINED)


def fd_count() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("workers", SOME_WORKERS)
def test_stop_closes_what_is_on_its_way(workers: int) -> None:
    def stop_in_the_middle() -> None:
        with echoing(workers) as server:
            storms = [Storm(server, seed * 1000) for seed in range(8)]
            server.wait_stat("visitors_moved_in", 50)
            server.engine.stop()
            end(storms)
        # serving() has checked: no connection, no buffer is left.

    gc.collect()
    before = fd_count()
    for _ in range(10):
        stop_in_the_middle()
    gc.collect()
    assert fd_count() <= before


# --- numbers ----------------------------------------------------------------------------------


def test_stats_are_the_sum_of_the_workers() -> None:
    with echoing(4) as server:
        visitor = server.visitor()
        for number in range(40):
            ask(visitor, number % 4)
        server.wait_stat("responses", 40)  # counted behind the send
        parts = [server.engine.worker_stats(worker) for worker in range(4)]
        total = server.engine.stats()
        steady = ["requests", "responses", "visitors_moved_in", "links_opened", "connections"]
        for name in steady:
            assert total[name] == sum(part[name] for part in parts)
        assert [part["responses"] for part in parts] == [10] * 4
        wait_until(lambda: accounted(server), "the sum")
        assert total["connections"] == 4 + 4 + 1


def test_polling_is_fair_to_all_workers() -> None:
    with echoing(4) as server:
        visitors = [server.visitor() for _ in range(4)]
        for worker, visitor in enumerate(visitors):
            for number in range(300 if worker == 0 else 10):
                ask(visitor, worker, f"/{number}")
        server.wait_stat("log_records", 330)
        first = server.engine.poll_logs(150)
        assert len(first) == 150
        per_host: dict[str, list[str]] = {}
        for record in first:
            per_host.setdefault(record.host, []).append(record.path)
        # The quiet ones are not behind the busy one.
        assert {len(per_host[f"w{worker}.test"]) for worker in (1, 2, 3)} == {10}
        rest: list[str] = []
        while records := server.engine.poll_logs(7):
            rest += [record.path for record in records]
        assert per_host["w0.test"] + rest == [f"/{number}" for number in range(300)]


# --- how busy the workers are -------------------------------------------------------------


def test_the_cpu_time_of_each_worker_is_told() -> None:
    engine = Engine("server", workers=2)
    assert engine.worker_stats(0)["cpu_us"] == 0
    port = engine.listen("127.0.0.1", 0)
    engine.start()
    wait_until(lambda: min(engine.worker_stats(worker)["cpu_us"] for worker in (0, 1)) > 0)
    before = engine.stats()["cpu_us"]
    for _ in range(200):
        socket.create_connection(("127.0.0.1", port)).close()
    wait_until(lambda: engine.stats()["cpu_us"] > before)
    engine.stop()
    assert engine.stats()["cpu_us"] == 0


def test_links_that_carry_much_are_told_with_their_share() -> None:
    with serving(2) as server:
        devices = [server.device(worker=worker) for worker in (0, 0, 1, 0)]
        for device in devices:
            device.open_control()
        *busy, idle = devices
        server.engine.link_loads()  # since they came up, all carried the same
        assert {server.event(core.EVENT_LINK_LOAD)[1] for _ in devices} == {
            device.link for device in devices
        }
        for device, size in zip(busy, (30_000, 10_000, 5), strict=True):
            server.engine.link_send(device.link, b"x" * size)
            received = 0
            while received < size:
                received += len(device.next(1).payload)
        server.engine.link_loads()
        told = dict(server.event(core.EVENT_LINK_LOAD)[1:] for _ in busy)
        assert told.keys() == {device.link for device in busy}
        assert 700 <= told[busy[0].link] <= 800
        assert 200 <= told[busy[1].link] <= 300
        assert told[busy[2].link] == 1000
        assert idle.link not in told
        assert not server.has_event(core.EVENT_LINK_LOAD)
