"""Our session against hashicorp/yamux, over TCP on loopback, in both roles.

Our side has no I/O of its own: Peer below moves bytes between the socket and the
session, echoes what the Go side opens and keeps what its own streams receive.
"""

from __future__ import annotations

import random
import select
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest

from proxy_engine_core._testing.yamux import UNACKED_MAX, Event, Session

GO = shutil.which("go")
SOURCE = Path(__file__).parent / "yamux_go"
TIMEOUT_S = 60  # for what is at once, on a machine with much to do
RESET_CODE = 5

pytestmark = pytest.mark.skipif(GO is None, reason="needs the Go toolchain")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    assert GO is not None
    target = tmp_path_factory.mktemp("yamux_go") / "yamux_go"
    subprocess.run([GO, "build", "-o", target, "."], cwd=SOURCE, check=True, timeout=600)
    return target


class Stream:
    def __init__(self, *, is_ours: bool) -> None:
        self.is_ours = is_ours
        self.pending = bytearray()  # to send as the window allows
        self.received = bytearray()
        self.finish_after_pending = False
        self.fin_sent = False
        self.fin_seen = False
        self.reset_code: int | None = None


class Peer:
    """Our session, its socket and the Go process at the other end."""

    def __init__(self, program: Path, *, is_client: bool, arguments: tuple[str, ...]) -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        role = "server" if is_client else "client"
        self.process = subprocess.Popen(
            [program, "-address", address, "-role", role, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        listener.settimeout(TIMEOUT_S)
        self.socket = listener.accept()[0]
        listener.close()
        self.socket.setblocking(False)
        self.session = Session(is_client=is_client)
        self.streams: dict[int, Stream] = {}
        self.events: list[Event] = []  # all but data and windows
        self.unsent = b""
        self.answers = b""
        self.is_open = True

    # The owner of our streams

    def on_event(self, event: Event) -> None:
        name, stream_id, value = event
        assert name != "error", value
        if name == "open":
            self.streams[stream_id] = Stream(is_ours=False)
            assert self.session.accept(stream_id) == 0
        elif name == "data":
            assert isinstance(value, bytes)
            stream = self.streams[stream_id]
            if stream.is_ours:
                stream.received += value
                assert self.session.consume(stream_id, len(value)) == 0
            else:
                stream.pending += value  # consumed when the echo leaves
        elif name == "fin":
            stream = self.streams[stream_id]
            stream.fin_seen = True
            stream.finish_after_pending |= not stream.is_ours
        elif name == "reset":
            assert isinstance(value, int)
            self.streams[stream_id].reset_code = value
        if name not in ("data", "window"):
            self.events.append(event)

    def write(self) -> None:
        for stream_id, stream in list(self.streams.items()):
            if stream.reset_code is not None:
                continue
            if stream.pending:
                size = self.session.stream_state(stream_id)["send_window"]
                data = bytes(stream.pending[:size])
                del stream.pending[:size]
                assert self.session.send(stream_id, data) == 0
                if not stream.is_ours and data:
                    assert self.session.consume(stream_id, len(data)) == 0
            if stream.finish_after_pending and not stream.pending and not stream.fin_sent:
                stream.fin_sent = True
                assert self.session.finish(stream_id) == 0
            if not stream.is_ours and stream.fin_sent and stream.fin_seen:
                self.session.release(stream_id)
                del self.streams[stream_id]

    # The link

    def pump(self, until: Callable[[], bool]) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        assert self.process.stdout is not None
        sources: list[socket.socket | IO[bytes]] = [self.socket, self.process.stdout]
        while not until():
            assert time.monotonic() < deadline, "timed out"
            self.write()
            self.unsent += self.session.output()
            readable, writable, _ = select.select(
                sources, [self.socket] if self.unsent else [], [], 0.2
            )
            if writable:
                self.unsent = self.unsent[self.socket.send(self.unsent) :]
            if self.process.stdout in readable:
                self.answers += self.process.stdout.read(65536) or b""
                if not self.answers:
                    sources.remove(self.process.stdout)
            if self.socket in readable:
                data = self.socket.recv(random.choice([1, 13, 4096, 262144]))
                if not data:
                    self.is_open = False
                    sources.remove(self.socket)
                self.session.receive(data, self.on_event)

    def command(self, line: str) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")
        self.pump(lambda: b"\n" in self.answers)
        answer, self.answers = self.answers.split(b"\n", 1)
        return answer.decode()

    def open(self, data: bytes = b"", *, finish: bool = True) -> int:
        stream_id = self.session.open()
        assert stream_id is not None
        stream = self.streams[stream_id] = Stream(is_ours=True)
        stream.pending += data
        stream.finish_after_pending = finish
        return stream_id

    def stats(self) -> dict[str, int]:
        words = self.command("stats").split()
        return {name: int(value) for name, value in zip(words[::2], words[1::2], strict=True)}

    def wait_stats(self, **wanted: int) -> None:
        """Go counts a stream a moment after we have seen its end."""
        deadline = time.monotonic() + TIMEOUT_S
        while not wanted.items() <= (found := self.stats()).items():
            assert time.monotonic() < deadline, found

    def close(self) -> None:
        self.socket.close()
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.terminate()
        self.process.wait(TIMEOUT_S)


Connect = Callable[..., Peer]


@pytest.fixture(params=[True, False], ids=["we are the client", "we are the server"])
def connect(request: pytest.FixtureRequest, program: Path) -> Iterator[Connect]:
    peers: list[Peer] = []

    def connect_one(*arguments: str) -> Peer:
        peers.append(Peer(program, is_client=request.param, arguments=arguments))
        return peers[-1]

    yield connect_one
    for peer in peers:
        peer.close()


def test_streams_we_open_carry_megabytes_both_ways_and_close(connect):
    peer = connect()
    payloads = {}
    for index in range(4):
        data = random.Random(index).randbytes((1 << 20) + 7919 * index)
        payloads[peer.open(data)] = data
    peer.pump(lambda: all(stream.fin_seen for stream in peer.streams.values()))
    for stream_id, data in payloads.items():
        assert peer.streams[stream_id].received == data
        assert peer.session.is_closed(stream_id)
        peer.session.release(stream_id)
    peer.wait_stats(echoed=4, reset=0, open=0)
    assert [event[0] for event in peer.events].count("ack") == 4
    assert peer.session.state()["unknown_stream_frames"] == 0


def test_streams_go_opens_carry_megabytes_both_ways_and_close(connect):
    peer = connect()
    assert peer.command(f"open 4 {1 << 20}") == "ok"
    peer.wait_stats(open=0)
    assert peer.streams == {}


def test_go_may_open_many_streams_from_racing_goroutines(connect):
    peer = connect()
    for _ in range(3):
        assert peer.command("open 250 100") == "ok"
    assert [event[0] for event in peer.events].count("open") == 750
    assert peer.streams == {}


def test_as_many_unacked_opens_as_we_allow_fit_its_accept_backlog(connect):
    peer = connect()
    ids = [peer.open(b"x") for _ in range(UNACKED_MAX)]
    assert peer.session.open() is None
    peer.pump(lambda: all(peer.streams[stream_id].fin_seen for stream_id in ids))
    assert all(peer.streams[stream_id].received == b"x" for stream_id in ids)
    assert peer.session.state()["unacked_count"] == 0


def test_our_reset_reaches_go_and_leaves_the_session_alive(connect):
    peer = connect()
    stream_id = peer.open(b"x" * 1000, finish=False)
    peer.pump(lambda: len(peer.streams[stream_id].received) == 1000)
    peer.session.release(stream_id, RESET_CODE)
    del peer.streams[stream_id]
    peer.wait_stats(echoed=0, reset=1, open=0)
    assert peer.command("open 1 10") == "ok"


def test_reset_of_go_reaches_us_and_leaves_the_session_alive(connect):
    # Go resets a stream that stays half-closed for longer than its StreamCloseTimeout.
    peer = connect("-close-first", "-close-timeout", "50ms")
    stream_id = peer.open(b"never read", finish=False)
    stream = peer.streams[stream_id]
    peer.pump(lambda: stream.reset_code is not None)
    assert stream.fin_seen
    assert stream.reset_code == 0
    peer.session.release(stream_id)
    del peer.streams[stream_id]
    assert peer.command("open 1 10") == "ok"


def test_pings_are_answered_both_ways(connect):
    peer = connect()
    assert peer.command("ping") == "ok"
    assert peer.session.ping(0xDEADBEEF) == 0
    peer.pump(lambda: ("pong", 0, 0xDEADBEEF) in peer.events)


def test_go_away_of_go_stops_our_opens_and_keeps_our_streams(connect):
    peer = connect()
    stream_id = peer.open(b"before", finish=False)
    peer.pump(lambda: len(peer.streams[stream_id].received) == 6)
    assert peer.command("goaway") == "ok"
    peer.pump(lambda: ("go_away", 0, 0) in peer.events)
    assert peer.session.open() is None
    stream = peer.streams[stream_id]
    stream.pending += b" and after"
    stream.finish_after_pending = True
    peer.pump(lambda: stream.fin_seen)
    assert stream.received == b"before and after"


def test_our_go_away_stops_opens_of_go(connect):
    peer = connect()
    assert peer.session.go_away(0) == 0
    assert peer.command("ping") == "ok"
    assert "remote end is not accepting connections" in peer.command("open 1 10")


def test_go_goes_away_when_it_closes_the_session(connect):
    peer = connect()
    assert peer.command("quit") == "ok"
    peer.pump(lambda: not peer.is_open)
