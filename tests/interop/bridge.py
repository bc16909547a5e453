"""An engine, and somebody else's yamux library at the other end of its link.

    near  ->  Engine("server")  ==link==  bridge, a device  ->  far
    near  ->  bridge, a server  ==link==  Engine("agent")   ->  far

The bridge is a program of the other library's language that joins streams to TCP connections
(yamux_go/bridge/main.go says more). So a test holds both ends of every stream as plain sockets,
and the same test runs against every library, in both roles, over both carriers.
"""

from __future__ import annotations

import random
import select
import selectors
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import pytest

from proxy_engine import handshake
from proxy_engine_core import core
from proxy_engine_core.core import parse_request_head
from proxy_engine_core.websocket.handshake import new_key
from tests.engine.harness import Agent, Running, Server, wait_until

ROOT = Path(__file__).resolve().parents[2]
SOURCES = Path(__file__).parent
BUILD = ROOT / "build" / "interop"
TIMEOUT = 60.0  # seconds; for what takes one or two, on a machine with much to do
TOKEN = "pe_" + "T" * 43
WINDOW = handshake.STOCK_WINDOW
READ_SIZE = 256 * 1024
# What pairs send; every one a part of its own, so that nothing can be taken for another's.
BLOCK = random.Random(10).randbytes((8 << 20) + 1) * 5
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: bytes\r\n\r\n"
STEP = 1013  # bytes between the parts of two neighbours

Language = Literal["go", "rust", "js"]
Role = Literal["device", "server"]
TOOLS: dict[Language, tuple[str, ...]] = {
    "go": ("go",),
    "rust": ("cargo",),
    "js": ("node", "npm"),
}


# --- the programs ---------------------------------------------------------------------------


@cache
def program(language: Language) -> list[str]:
    """The command of a bridge, built; skips the test where a tool for it is missing."""
    missing = [tool for tool in TOOLS[language] if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"needs {' and '.join(missing)}")
    BUILD.mkdir(parents=True, exist_ok=True)
    return {"go": build_go, "rust": build_rust, "js": build_js}[language]()


def build_go() -> list[str]:
    found = BUILD / "bridge_go"
    run(["go", "build", "-o", str(found), "./bridge"], SOURCES / "yamux_go")
    return [str(found)]


def build_rust() -> list[str]:
    target = BUILD / "rust"
    run(["cargo", "build", "--quiet", "--locked", "--target-dir", str(target)],
        SOURCES / "yamux_rust")  # fmt: skip
    return [str(target / "debug" / "bridge")]


def build_js() -> list[str]:
    """A copy, because node looks for packages beside the program."""
    target = BUILD / "js"
    target.mkdir(exist_ok=True)
    installed, wanted = target / "package-lock.json", SOURCES / "yamux_js" / "package-lock.json"
    is_current = (target / "node_modules").is_dir() and (
        installed.is_file() and installed.read_bytes() == wanted.read_bytes()
    )
    for source in (SOURCES / "yamux_js").iterdir():
        if source.is_file():
            shutil.copy(source, target)
    if not is_current:
        run(["npm", "ci", "--no-audit", "--no-fund", "--loglevel", "error"], target)
    return ["node", str(target / "bridge.js")]


def run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"


class Bridge:
    """A running program; lines in, lines out."""

    def __init__(self, language: Language, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [*program(language), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        self.input = b""

    def line(self) -> str:
        assert self.process.stdout is not None
        deadline = time.monotonic() + TIMEOUT
        while b"\n" not in self.input:
            left = max(0.0, deadline - time.monotonic())
            assert select.select([self.process.stdout], [], [], left)[0], "the bridge says nothing"
            data = self.process.stdout.read(65536)
            assert data, f"the bridge has ended with {self.process.wait(TIMEOUT)}"
            self.input += data
        line, _, self.input = self.input.partition(b"\n")
        return line.decode()

    def tell(self, command: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{command}\n".encode())

    def ask(self, command: str) -> str:
        self.tell(command)
        return self.line()

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


# --- links ----------------------------------------------------------------------------------


class Pair:
    """The two ends of a stream."""

    def __init__(self, near: socket.socket, far: socket.socket, number: int) -> None:
        self.near = End(near, 2 * number)
        self.far = End(far, 2 * number + 1)
        self.ends = (self.near, self.far)
        self.near.other, self.far.other = self.far, self.near

    def close(self) -> None:
        for end in self.ends:
            end.sock.close()


class Link:
    """A link that is up, and the pairs that were made over it."""

    def __init__(
        self, language: Language, role: Role, carrier: Literal["raw", "websocket"],
        *arguments: str, **options: int,
    ) -> None:  # fmt: skip
        self.language, self.role, self.carrier = language, role, carrier
        self.pairs: list[Pair] = []
        self.count = 0
        self.is_ended = False
        self.protocol_errors = 0  # that we have complained of
        self.running: Running
        given = ["--role", role, "--carrier", carrier, *arguments]
        if role == "device":
            how: dict[str, Any] = {**options}
            self.running = server = Server(**how)
            self.target = Agent.listen()
            self.bridge = Bridge(
                language, *given, "--connect", f"127.0.0.1:{server.port}", "--token", TOKEN,
                "--target", f"127.0.0.1:{self.target.getsockname()[1]}",
            )  # fmt: skip
            self.link = self.admit(server)
            self.visitor_port = server.port
        else:
            self.running = agent = Agent(**options)
            self.target = agent.target()
            self.bridge = Bridge(language, *given)
            link_port, self.visitor_port = map(int, self.bridge.line().split()[1:])
            self.link = self.dial(agent, link_port)
        self.target.setblocking(True)
        self.target.settimeout(TIMEOUT)
        assert self.bridge.line() == "up"
        self.idle_connections = self.running.stat("connections")

    def admit(self, server: Server) -> int:
        """Answer the device as the control plane does."""
        # It is a program that starts.
        wait_until(lambda: server.has_event(core.EVENT_AUTH), "the device", TIMEOUT)
        _, ticket, _, head, _ = server.event(core.EVENT_AUTH)
        method, target, fields = parse_request_head(head)
        assert dict(fields)["authorization"] == f"Bearer {TOKEN}".encode()
        offer = handshake.read_request(method, target, fields)
        assert (offer.carrier, offer.is_agent) == (self.carrier, False)
        server.engine.auth_reply(
            ticket, handshake.accept_response(offer, 1), accept=True, device=7,
            carrier=offer.carrier, window=offer.window,
            streams_max=handshake.STOCK_STREAMS_MAX, preamble=False,
        )  # fmt: skip
        link: int = server.event(core.EVENT_LINK_UP)[1]
        server.engine.routes_apply([("set", "host:web.test", 1, [link], "web")])
        return link

    def dial(self, agent: Agent, port: int) -> int:
        """Ask for a link as the agent does."""
        key = new_key() if self.carrier == "websocket" else ""
        request = handshake.request(
            authority=f"127.0.0.1:{port}", token=TOKEN, instance="i", number=0,
            carrier=self.carrier, key=key,
        )  # fmt: skip
        link = agent.engine.dial("127.0.0.1", port, request, carrier=self.carrier)
        up = agent.event(core.EVENT_LINK_UP)
        assert up[1] == link
        handshake.check_response(up[4], carrier=self.carrier, key=key)
        return link

    # Pairs

    def knock(self, number: int) -> socket.socket:
        """Ask for a stream; what is told of it comes out at the far end."""
        near = socket.create_connection(("127.0.0.1", self.visitor_port), TIMEOUT)
        if self.role == "device":
            near.sendall(
                b"GET /%d HTTP/1.1\r\nHost: web.test\r\n"
                b"Connection: Upgrade\r\nUpgrade: bytes\r\n\r\n" % number
            )
        else:
            name = b"web"
            near.sendall(
                b"\r\n\r\n\0\r\nQUIT\n\x20\x00"
                + struct.pack(">HBH", 3 + len(name), 0xE0, len(name)) + name
                + b"GET /%d HTTP/1.1\r\n\r\n" % number
            )  # fmt: skip
        return near

    def take(self) -> tuple[int, socket.socket]:
        """The next stream at the far end: (its number, its socket)."""
        far = self.target.accept()[0]
        far.settimeout(TIMEOUT)
        return int(take_head(far).split()[1][1:]), far

    def open(self, count: int = 1, *, answer_at: int = 1, queued: int = 0) -> list[Pair]:
        """Streams, opened all at once.

        Args:
            answer_at: the far ends answer when there are so many of them,
            queued: and when so many more wait for one.
        """
        nears = {self.count + index: self.knock(self.count + index) for index in range(count)}
        self.count += count
        fars: dict[int, socket.socket] = {}
        for number, far in (self.take() for _ in range(count)):
            fars[number] = far
            if len(fars) == answer_at:
                if queued:
                    wait_until(lambda: self.running.stat("requests_queued") == queued, "a queue")
                for each in fars.values():
                    each.sendall(SWITCH)
            elif len(fars) > answer_at:
                far.sendall(SWITCH)
        for near in nears.values():
            take_head(near)
        made = [Pair(nears[number], fars[number], number) for number in nears]
        self.pairs += made
        return made

    def refused(self) -> bytes:
        """The head of the answer to a visitor who gets no stream."""
        with self.knock(0) as near:
            return take_head(near)

    def open_one(self) -> Pair:
        return self.open()[0]

    def close_pairs(self) -> None:
        for pair in self.pairs:
            pair.close()
        self.pairs.clear()

    # The end

    def streams(self) -> int:
        """Streams the library counts, without the control stream."""
        count = int(self.bridge.ask("streams"))
        return count - (self.role == "server" and self.language != "rust")

    def end_reason(self) -> str:
        """Wait for the end of the link."""
        self.is_ended = True
        reason: str = self.running.event(core.EVENT_LINK_DOWN)[3]
        return reason

    def check(self) -> None:
        """Nobody complained, nothing is kept on either side."""
        self.close_pairs()
        if not self.is_ended:
            wait_until(lambda: self.streams() == 0, "the library to forget its streams")
            assert not self.running.has_event(core.EVENT_LINK_DOWN)
            idle = self.idle_connections
            wait_until(lambda: self.running.stat("connections") == idle, "connections to close")
        wait_until(lambda: self.running.stat("buffer_bytes") == 0, "buffers to come back")
        stats = self.running.engine.stats()
        assert stats["link_protocol_errors"] == self.protocol_errors, stats
        assert stats["memory_errors"] == 0, stats

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            # What went wrong before says more than what is left over because of it.
            if error is None:
                self.check()
        finally:
            self.close()

    def close(self) -> None:
        self.close_pairs()
        self.running.stop()
        self.target.close()
        self.bridge.close()


def take_head(sock: socket.socket) -> bytes:
    """Byte by byte: what follows is not ours to take."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        data = sock.recv(1)
        assert data, f"ended after {head!r}"
        head += data
    return head


# --- moving bytes ---------------------------------------------------------------------------


class End:
    """One end of a pair: sends its own part of BLOCK, checks that the other's part comes in."""

    other: End

    def __init__(self, sock: socket.socket, number: int) -> None:
        self.sock = sock
        self.sock.setblocking(False)
        self.start = number * STEP % (1 << 20)
        self.sent = 0
        self.size = 0  # to send altogether
        self.finish_at: int | None = None  # finish sending after so many bytes
        self.has_finished = False
        self.received = 0
        self.is_reading = True
        self.is_at_end = False
        self.is_reset = False

    def send(self, size: int, *, finish: bool = False) -> None:
        """So many bytes more."""
        self.size += size
        assert self.start + self.size <= len(BLOCK)
        if finish:
            self.finish_at = self.size

    def finish(self) -> None:
        self.send(0, finish=True)

    def abort(self) -> None:
        """Close with RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def keep(self, size: int) -> None:
        """So much in the kernel at most: with little a reader who waits is soon felt."""
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            self.sock.setsockopt(socket.SOL_SOCKET, option, size)

    @property
    def is_over(self) -> bool:
        return self.is_at_end or self.is_reset

    def events(self) -> int:
        wants = selectors.EVENT_READ if self.is_reading and not self.is_over else 0
        if not self.is_reset and not self.has_finished and (
            self.sent < self.size or self.finish_at == self.sent
        ):  # fmt: skip
            wants |= selectors.EVENT_WRITE
        return wants

    def read(self) -> None:
        try:
            data = self.sock.recv(READ_SIZE)
        except ConnectionResetError:
            self.is_reset = True
            return
        at = self.other.start + self.received
        assert data == BLOCK[at : at + len(data)], "other bytes than were sent"
        self.received += len(data)
        assert self.received <= self.other.sent, "more bytes than were sent"
        self.is_at_end = not data

    def write(self) -> None:
        try:
            if self.sent < self.size:
                at = self.start + self.sent
                most = min(self.size - self.sent, READ_SIZE)
                # The other end may be read from before sendall() would have returned.
                self.sent += self.sock.send(BLOCK[at : at + most])
            if self.finish_at == self.sent:
                self.has_finished = True
                self.sock.shutdown(socket.SHUT_WR)
        except (BrokenPipeError, ConnectionResetError):
            self.is_reset = True
        except OSError:  # shutdown() of what the other side has reset
            self.is_reset = True


def move(ends: Sequence[End], until: Callable[[], bool], *, quiet: float | None = None) -> bool:
    """Send and receive until it is true, or, with `quiet`, until nothing moved for so long."""
    deadline = time.monotonic() + TIMEOUT
    with selectors.DefaultSelector() as selector:
        known: dict[End, int] = {}
        while not until():
            assert time.monotonic() < deadline, [
                (end.sent, end.size, end.received, end.is_at_end, end.is_reset) for end in ends
            ]
            for end in ends:
                wants, has = end.events(), known.get(end, 0)
                if wants != has:
                    if not has:
                        selector.register(end.sock, wants, end)
                    elif not wants:
                        selector.unregister(end.sock)
                    else:
                        selector.modify(end.sock, wants, end)
                    known[end] = wants
            ready = selector.select(quiet if quiet is not None else 0.2)
            if not ready and quiet is not None:
                return False
            for key, happened in ready:
                if happened & selectors.EVENT_READ:
                    key.data.read()
                if happened & selectors.EVENT_WRITE:
                    key.data.write()
    return True


def ends_of(pairs: Sequence[Pair]) -> list[End]:
    return [end for pair in pairs for end in pair.ends]


def move_all(pairs: Sequence[Pair]) -> None:
    """Until every end has all that the other sent, and its end if it finished."""
    ends = ends_of(pairs)

    def is_through() -> bool:
        return all(
            end.received == end.other.size and (end.other.finish_at is None or end.is_at_end)
            for end in ends
        )

    move(ends, is_through)
