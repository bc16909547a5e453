"""What the links of one token may carry together, on however many workers: exactly."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import ExitStack

import pytest

from proxy_engine_core import core
from tests.engine.harness import (
    DATA,
    OK_HELLO,
    RST,
    WINDOW,
    Device,
    Server,
    Visitor,
    serving,
    wait_until,
)
from tests.engine.test_limits import serve_until_refused

TOKEN, OTHER = 41, 42


class TokenServer:
    """A server whose devices have links of one token, and a TCP tunnel on a port of its own."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.engine = server.engine
        self.tcp_port = server.engine.tcp_listen("127.0.0.1", 0)

    def device(
        self, limits: tuple[int, int, int], *, tunnel: str = "web", worker: int = -1
    ) -> Device:
        device = self.server.device(tunnel=tunnel, worker=worker, quota=TOKEN, limits=limits)
        self.server.routes([("set", f"tcp::{self.tcp_port}", 90, [device.link], "db")])
        return device

    def tcp(self) -> Visitor:
        visitor = Visitor(self.tcp_port)
        self.server.wires.append(visitor)
        return visitor


def served(server: Server, device: Device, visitor: Visitor, host: str = "web.test") -> None:
    """One request, answered. Its stream may be new or one that was idle."""
    visitor.get(host=host)
    answer(device)
    assert visitor.response().body == b"hello"


def answer(device: Device) -> None:
    """The next request that comes, on whatever stream."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        found = device.read()
        assert found is not None
        if found.type == WINDOW and found.flags & 1:
            device.accept(found.stream)
        elif found.type == DATA:
            head += found.payload
            stream = found.stream
    device.data(stream, OK_HELLO)


def test_one_request_too_many_at_once_is_refused_and_the_next_is_not() -> None:
    with serving() as server:
        tokens = TokenServer(server)
        device = tokens.device((2, 0, 0))
        visitors = [server.visitor() for _ in range(3)]
        streams = []
        for visitor in visitors[:2]:
            visitor.get()
            streams.append(device.request()[0])
        assert server.engine.connections(TOKEN) == 2
        visitors[2].get()
        refused = visitors[2].response()
        assert refused.status == 503
        assert refused.fields["retry-after"] == "2"
        assert b'"token_busy"' in refused.body
        assert server.log().reason == "token_busy"
        assert server.stat("token_busy_refused") == 1
        device.data(streams[0], OK_HELLO)
        assert visitors[0].response().status == 200
        visitors[2].get()  # over the same connection
        stream, _ = device.request(stream=streams[0])
        device.data(stream, OK_HELLO)
        assert visitors[2].response().status == 200
        device.data(streams[1], OK_HELLO)
        assert visitors[1].response().status == 200
        wait_until(lambda: server.engine.connections(TOKEN) == 0)


def test_a_tcp_connection_too_many_is_reset_and_counted() -> None:
    with serving() as server:
        tokens = TokenServer(server)
        device = tokens.device((2, 0, 0))
        first, second = tokens.tcp(), tokens.tcp()
        streams = [device.opened(), device.opened()]
        for stream in streams:
            device.accept(stream)
        third = tokens.tcp()
        assert third.is_cut_off()
        record = server.log()
        assert (record.reason, record.flags & core.LOG_TCP) == ("token_busy", core.LOG_TCP)
        assert (server.stat("token_busy_refused"), server.stat("tcp_refused")) == (1, 1)
        visitor = server.visitor()
        visitor.get()  # the limit is for both kinds together
        assert visitor.response().status == 503
        first.abort()
        assert device.next(streams[0], WINDOW).flags == RST
        fourth = tokens.tcp()
        device.accept(device.opened())
        second.abort()
        fourth.abort()
        wait_until(lambda: server.engine.connections(TOKEN) == 0)


def test_requests_beyond_the_rate_are_refused_and_tokens_do_not_share_one() -> None:
    with serving(rate_burst_ms=1000) as server:
        tokens = TokenServer(server)
        device = tokens.device((0, 2, 0))
        other = server.device(tunnel="other", device=8, quota=OTHER, limits=(0, 1000, 0))
        visitor = server.visitor()
        refused, _ = serve_until_refused(server, device, visitor, 2, rate=2)
        assert (refused.status, refused.fields["retry-after"]) == (429, "1")
        assert b'"token_rate"' in refused.body
        for _ in range(5):
            served(server, other, visitor, host="other.test")
        assert server.stat("token_rate_refused") == 1
        time.sleep(0.55)
        served(server, device, visitor)


def test_changed_limits_count_for_what_is_under_way_and_for_what_comes() -> None:
    with serving() as server:
        tokens = TokenServer(server)
        device = tokens.device((0, 0, 0))
        first, second, third = (server.visitor() for _ in range(3))
        first.get()
        stream, _ = device.request()
        assert server.engine.connections(TOKEN) == 0  # without limits nobody counts
        server.engine.limits_apply(TOKEN, (2, 0, 0))
        wait_until(lambda: server.engine.connections(TOKEN) == 1)
        second.get()
        other, _ = device.request()
        third.get()
        assert third.response().status == 503
        server.engine.limits_apply(TOKEN, (0, 0, 0))
        third.get()
        last, _ = device.request()
        for visitor, number in ((first, stream), (second, other), (third, last)):
            device.data(number, OK_HELLO)
            assert visitor.response().status == 200
        wait_until(lambda: server.engine.connections(TOKEN) == 0)
        with pytest.raises(ValueError, match="limit of this kind"):
            server.engine.limits_apply(TOKEN, (0, 1 << 40, 0))
        server.engine.limits_apply(777, (1, 1, 1))  # nobody's


@pytest.mark.parametrize("how", ["gone", "reset", "timeout", "refused"])
def test_whatever_ends_a_connection_gives_its_place_back(how: str) -> None:
    with serving(response_timeout_ms=150 if how == "timeout" else 60_000) as server:
        tokens = TokenServer(server)
        device = tokens.device((1, 0, 0))
        visitor = server.visitor()
        visitor.get()
        stream, _ = device.request(accept=how != "refused")
        if how == "gone":
            visitor.abort()
        elif how in ("reset", "refused"):
            device.reset(stream)
            assert visitor.response().status == 502
        else:
            assert visitor.response().status == 504
        wait_until(lambda: server.engine.connections(TOKEN) == 0, how)


def test_a_lost_link_gives_the_places_of_its_connections_back() -> None:
    with serving() as server:
        tokens = TokenServer(server)
        device = tokens.device((1, 0, 0))
        visitor = server.visitor()
        visitor.get()
        device.request()
        device.abort()
        assert visitor.response().status == 502
        wait_until(lambda: server.engine.connections(TOKEN) == 0, "link lost")


@pytest.mark.parametrize("most", [1, 10])
def test_many_workers_and_links_never_let_one_too_many_in(most: int) -> None:
    """Visitors on all workers at once; each link counts what is under way on it."""
    with serving(3) as server, ExitStack() as ending:
        tokens = TokenServer(server)
        devices = [
            tokens.device((most, 0, 0), tunnel=f"w{index}", worker=index % 3) for index in range(6)
        ]
        lock = threading.Lock()
        now = worst = done = refused = 0

        def serve(device: Device) -> None:
            nonlocal now, worst
            heads: dict[int, bytes] = {}
            while True:
                try:
                    found = device.read()
                except (OSError, ValueError):
                    return
                if found is None:
                    return
                if found.type == WINDOW and found.flags & 1:
                    device.accept(found.stream)
                elif found.type == DATA:
                    heads[found.stream] = heads.get(found.stream, b"") + found.payload
                    if heads[found.stream].endswith(b"\r\n\r\n"):
                        heads[found.stream] = b""
                        with lock:
                            now += 1
                            worst = max(worst, now)
                        time.sleep(0.001)
                        with lock:  # before the answer: the engine can not count it out sooner
                            now -= 1
                        device.data(found.stream, OK_HELLO)

        def ask(index: int) -> None:
            nonlocal done, refused
            visitor = Visitor(server.port)
            for _ in range(60):
                visitor.get(host=f"w{index % 6}.test")
                status = visitor.response().status
                with lock:
                    done += status == 200
                    refused += status == 503
            visitor.close()

        servers = [threading.Thread(target=serve, args=(device,)) for device in devices]
        for thread in servers:
            ending.callback(thread.join)
        for device in devices:
            ending.callback(device.sock.shutdown, socket.SHUT_RDWR)
        for thread in servers:
            thread.start()
        askers = [threading.Thread(target=ask, args=(index,)) for index in range(24)]
        for thread in askers:
            thread.start()
        for thread in askers:
            thread.join()
        assert worst <= most
        assert done + refused == 24 * 60
        assert done >= 10
        assert refused == server.stat("token_busy_refused") > 0
        wait_until(lambda: server.engine.connections(TOKEN) == 0)


# --- bandwidth ------------------------------------------------------------------------------------

RATE = 4_000_000  # bytes a second
# What is not used in a while longer than a burst is lost. A machine that stalls may do so in one
# run, or two; nobody may ever have more.
TRIES = 5


def upload(tokens: TokenServer, device: Device, visitors: int, seconds: float) -> list[int]:
    """Bytes that each of some TCP visitors got through to the device, which takes all."""
    made = [tokens.tcp() for _ in range(visitors)]
    numbers = [device.opened() for _ in made]
    for number in numbers:
        device.accept(number)
    received = dict.fromkeys(numbers, 0)
    for visitor in made:
        visitor.sock.settimeout(0.2)
    stopping = threading.Event()

    def send(visitor: Visitor) -> None:
        block = bytes(65536)
        while not stopping.is_set():
            try:
                visitor.sock.send(block)
            except TimeoutError:
                continue
            except OSError:
                return

    senders = [threading.Thread(target=send, args=(visitor,)) for visitor in made]
    for sender in senders:
        sender.start()
    until = time.monotonic() + seconds
    owed = dict.fromkeys(numbers, 0)
    while time.monotonic() < until:
        found = device.read()
        assert found is not None
        if found.type == DATA and found.stream in received:
            received[found.stream] += found.length
            owed[found.stream] += found.length
            if owed[found.stream] >= 65536:
                device.grant(found.stream, owed[found.stream])
                owed[found.stream] = 0
    stopping.set()
    for sender in senders:
        sender.join()
    return list(received.values())


@pytest.mark.parametrize("visitors", [1, 4])
def test_uploads_have_their_bandwidth_and_share_it(visitors: int) -> None:
    def is_used_and_shared() -> bool:
        with serving() as server:
            tokens = TokenServer(server)
            device = tokens.device((0, 0, RATE))
            started = time.monotonic()
            received = upload(tokens, device, visitors, 4.0)
            seconds = time.monotonic() - started
            burst = RATE * 0.25
            assert sum(received) <= (RATE * seconds + burst) * 1.05 + visitors * 65536
            return (
                sum(received) >= RATE * 4.0 * 0.95
                and min(received) >= 0.5 * max(received)
                and server.stat("token_pauses") > 10
            )

    assert any(is_used_and_shared() for _ in range(TRIES))


def download(
    tokens: TokenServer, device: Device, visitors: int, seconds: float
) -> tuple[list[int], float]:
    """Bytes that each of some TCP visitors was sent by a device that sends all it may."""
    made = [tokens.tcp() for _ in range(visitors)]
    numbers = [device.opened() for _ in made]
    for number in numbers:
        device.accept(number)
    received = [0] * visitors
    stopping = threading.Event()

    def take(index: int) -> None:
        made[index].sock.settimeout(0.2)
        while not stopping.is_set():
            try:
                received[index] += len(made[index].sock.recv(1 << 20))
            except TimeoutError:
                continue
            except OSError:
                return

    takers = [threading.Thread(target=take, args=(index,)) for index in range(visitors)]
    for taker in takers:
        taker.start()
    credit = dict.fromkeys(numbers, 256 * 1024)
    started = time.monotonic()
    while time.monotonic() < started + seconds:
        for number in numbers:
            if credit[number]:
                size = min(credit[number], 65536)
                device.data(number, bytes(size))
                credit[number] -= size
        if any(credit.values()) and not device.is_readable(0):
            continue
        found = device.read()
        assert found is not None
        if found.type == WINDOW and found.stream in credit:
            credit[found.stream] += found.length
    taken, passed = list(received), time.monotonic() - started
    stopping.set()
    for taker in takers:
        taker.join()
    return taken, passed


@pytest.mark.parametrize("visitors", [1, 4])
def test_downloads_have_their_bandwidth_and_share_it(visitors: int) -> None:
    def is_used_and_shared() -> bool:
        with serving() as server:
            tokens = TokenServer(server)
            device = tokens.device((0, 0, RATE))
            received, seconds = download(tokens, device, visitors, 4.0)
            # A window of each may have passed that is not paid for yet.
            assert sum(received) <= (RATE * (seconds + 0.25)) * 1.05 + visitors * 256 * 1024
            return sum(received) >= RATE * 4.0 * 0.95 and min(received) >= 0.4 * max(received)

    assert any(is_used_and_shared() for _ in range(TRIES))


def test_who_waits_for_bandwidth_holds_nobody_else_up() -> None:
    with serving() as server:
        tokens = TokenServer(server)
        device = tokens.device((0, 0, 1000))
        free = server.device(tunnel="free", device=8)
        visitor = tokens.tcp()
        stream = device.opened()
        device.accept(stream)
        visitor.send(bytes(300_000))
        wait_until(lambda: server.stat("token_pauses") >= 1)
        # Control frames of that link, and other links, go on.
        device.send(b"\x00\x02\x00\x01\x00\x00\x00\x00\x00\x00\x00\x09")  # a ping
        while (found := device.read()) is not None and found.type != 2:
            pass
        other = server.visitor()
        for _ in range(3):
            served(server, free, other, host="free.test")
        # A request for the token's tunnels waits, and goes on when the limit does.
        other.get()
        assert not other.is_readable(0.2)
        server.engine.limits_apply(TOKEN, (0, 0, 0))
        answer(device)
        assert other.response().status == 200
        visitor.abort()


def test_a_request_that_waits_too_long_for_bandwidth_is_told() -> None:
    with serving(open_timeout_ms=200) as server:
        tokens = TokenServer(server)
        device = tokens.device((0, 0, 1000))
        visitor = server.visitor()
        visitor.send(
            b"POST / HTTP/1.1\r\nHost: web.test\r\nContent-Length: 100000\r\n\r\n" + bytes(100_000)
        )
        wait_until(lambda: server.stat("token_pauses") >= 1)
        device.opened()
        other = server.visitor()
        other.get()
        assert other.response().status == 503
        assert server.log().reason == "overloaded"


def test_small_answers_are_paid_for_too() -> None:
    with serving(bandwidth_burst_ms=50) as server:
        tokens = TokenServer(server)
        device = tokens.device((0, 0, 1_000_000))
        body = bytes(20_000)
        head = b"HTTP/1.1 200 OK\r\nContent-Length: 20000\r\n\r\n"
        visitor = server.visitor()
        started = time.monotonic()
        rounds = 100
        for _ in range(rounds):
            visitor.get()
            stream = 0
            data = b""
            while not data.endswith(b"\r\n\r\n"):
                found = device.read()
                assert found is not None
                if found.type == WINDOW and found.flags & 1:
                    device.accept(found.stream)
                elif found.type == DATA:
                    stream, data = found.stream, data + found.payload
            device.data(stream, head + body)
            assert len(visitor.response().body) == 20_000
        assert time.monotonic() - started > 20_000 * rounds / 1_000_000 - 0.1


def test_a_stop_amid_pauses_frees_everything() -> None:
    with serving(2) as server:
        tokens = TokenServer(server)
        device = tokens.device((0, 0, 1000))
        visitors = [tokens.tcp() for _ in range(20)]
        for visitor in visitors:
            visitor.send(bytes(50_000))
        for visitor in visitors[:5]:
            visitor.get()
        device.accept(device.opened())
        wait_until(lambda: server.stat("token_pauses") >= 10)  # in the middle, and before it
        visitors[3].abort()


# --- private tunnels ------------------------------------------------------------------------------


def join(server: Server, quota: int) -> Visitor:
    visitor = server.visitor()
    visitor.send(b"GET /_proxy/tcp/pi/db HTTP/1.1\r\nHost: x\r\n\r\n")
    ticket = server.event(core.EVENT_AUTH)[1]
    head = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"
    server.engine.auth_reply(ticket, head, accept=True, tunnel="db", quota=quota)
    assert visitor.take_head() == head
    return visitor


@pytest.mark.parametrize("workers", [1, 3])
def test_who_joined_a_tunnel_has_to_go_when_its_token_does(workers: int) -> None:
    with serving(workers) as server:
        device = server.device(tunnel=None)
        server.routes([("set", "tcp:db", 3, [device.link], "db")])
        going = [join(server, TOKEN) for _ in range(6)]
        staying = join(server, OTHER)
        streams = [device.opened() for _ in range(7)]
        for stream in streams:
            device.accept(stream)
        server.engine.joined_close(TOKEN)
        for visitor in going:
            assert visitor.is_cut_off()
        assert server.stat("token_ended") == 6
        assert {server.log().reason for _ in going} == {"token_ended"}
        ended = {device.next(type_=WINDOW).stream for _ in going}
        (left,) = set(streams) - ended
        staying.send(b"still here")
        data = b""
        while not data.endswith(b"still here"):
            data += device.next(left, DATA).payload
        # Nobody joins by it any more, even with an answer that was under way.
        assert join(server, TOKEN).is_cut_off()
        assert server.log().reason == "token_ended"
        staying.abort()
