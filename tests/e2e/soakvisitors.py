"""Visitors of the soak: each does what its dice say, and knows what it must get for it.

All chance of a visitor comes from its own seeded dice, so a seed always gives the same
visitors; how they fall in with each other and with the faults is up to the machine.

What a visitor may meet while links break and targets die: an answer of the proxy with a
reason, a response that is visibly cut, a connection that ends. What it may never meet is
Wrong: a body that is complete and not exact, an answer to another request, a silence.
"""

from __future__ import annotations

import hashlib
import json
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.e2e.harness import Response, Truncated, Visitor, chunked
from tests.e2e.target import BLOCK, event_of

TIMEOUT = 40.0  # seconds without a byte; longer than every timeout of the proxy in between
OFFLINE_PAUSE = 0.1  # seconds, before another try with no device there
# What the proxy may say on its own while links and targets come and go (docs/errors.md).
REASONS = {
    "device_offline", "refused", "unreachable", "target_timeout", "link_lost", "target_lost",
    "overloaded", "response_timeout",
}  # fmt: skip
# Raw bytes that are no request, and the status that says so.
BAD = [
    (b"GET / HTTP/1.1\r\nHost: web.localhost\r\nX : 1\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\n\r\n", 400),
    (b"GET  / HTTP/1.1\r\nHost: web.localhost\r\n\r\n", 400),
    (b"GET / HTTP/3.0\r\nHost: web.localhost\r\n\r\n", 505),
    (b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", 405),
    (b"POST / HTTP/1.1\r\nHost: web.localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
     400),
    (b"POST / HTTP/1.1\r\nHost: web.localhost\r\nContent-Length: 1\r\n"
     b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: web.localhost\r\n\r\n", 414),
    (b"GET / HTTP/1.1\r\nHost: web.localhost\r\nX: " + b"a" * 40_000 + b"\r\n\r\n", 431),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
]  # fmt: skip
UPGRADE = (
    "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)  # fmt: skip


class Wrong(AssertionError):
    """What no fault of link or target explains."""


@dataclass
class Ledger:
    """What all visitors saw, under one lock."""

    totals: Counter[str] = field(default_factory=Counter)
    complete: dict[str, int] = field(default_factory=dict)  # request id: status
    cut: set[str] = field(default_factory=set)  # ids of responses the proxy broke off
    wrong: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, what: str) -> None:
        with self.lock:
            self.totals[what] += 1

    def completed(self, response: Response) -> None:
        with self.lock:
            self.totals["complete" if response.status == 200 else "answered by the proxy"] += 1
            if response.id in self.complete:
                self.wrong.append(f"two responses with the id {response.id}")
            self.complete[response.id] = response.status

    def broken_off(self, response: Response) -> None:
        with self.lock:
            self.totals["cut"] += 1
            self.cut.add(response.id)


@dataclass(frozen=True)
class Ask:
    """One request and the body of its 200."""

    data: bytes
    method: str
    expected: bytes
    ends: bool = False  # the connection ends with its response
    never_whole: bool = False  # the target breaks its response off


@dataclass(frozen=True)
class Ports:
    """Where the site is: for HTTP, of a TCP tunnel to the same target, of a UDP tunnel's echo."""

    http: int
    tcp: int
    udp: int


class SoakVisitor:
    def __init__(self, name: str, seed: int, ports: Ports, ledger: Ledger) -> None:
        self.name = name
        self.dice = random.Random(seed)
        self.port = ports.http
        self.ports = ports
        self.ledger = ledger
        self.asked = 0
        self.doing = ""  # the habit, for who is late
        self.is_offline = False  # the last answer said so

    def run(self, stop: threading.Event) -> None:
        habits: list[tuple[Callable[[], None], int]] = [
            (self.keep_alive, 8),
            (self.pipeline, 5),
            (self.abort_upload, 4),
            (self.abort_download, 4),
            (self.half_close, 3),
            (self.read_slowly, 1),
            (self.speak_badly, 3),
            (self.tunnel, 4),
            (self.leave_at_once, 2),
            (self.bulk, 3),
            (self.abort_bulk, 1),
            (self.half_close_bulk, 2),
            (self.datagrams, 2),
        ]
        weights = [weight for _, weight in habits]
        while not stop.is_set():
            [habit] = self.dice.choices([habit for habit, _ in habits], weights)
            self.doing = habit.__name__
            try:
                habit()
            except Truncated as error:
                self.ledger.count("cut within bytes" if error.so_far else "connection ended")
            except TimeoutError:
                self.blame(f"{habit.__name__}: nothing for {TIMEOUT:.0f} s")
            except OSError:
                self.ledger.count("connection ended")
            except (AssertionError, ValueError) as error:
                self.blame(f"{habit.__name__}: {type(error).__name__} {error!s:.300}")
            self.ledger.count(habit.__name__)
            if self.is_offline:
                # Or else the whole run is the one answer that is made fastest.
                stop.wait(OFFLINE_PAUSE)
                self.is_offline = False

    def blame(self, what: str) -> None:
        with self.ledger.lock:
            self.ledger.wrong.append(f"{self.name}: {what}")

    # --- what is asked ---

    def ask(self, *, small: bool = False) -> Ask:
        """Any request that has an answer; a small one's request and answer fit any buffer."""
        dice = self.dice
        self.asked += 1
        size = int(4_000 ** dice.random()) if small else int(600_000 ** dice.random())
        kind = dice.choice(["bulk", "chunked", "sink", "echo", "trickle", "events", "until-close",
                            "broken", "head", "other", "steady", "old"])  # fmt: skip
        tag = f"{self.name}.{self.asked}"
        if kind in ("sink", "echo"):
            start = dice.randrange(10_000)
            body = BLOCK[start : start + size]
            expected = body
            if kind == "sink":
                digest = hashlib.sha256(body).hexdigest()
                expected = json.dumps({"size": len(body), "sha256": digest}).encode()
            if dice.random() < 0.5:
                return self._ask("POST", f"/{kind}?{tag}", expected, chunked(*self.split(body)),
                                 "Transfer-Encoding: chunked")  # fmt: skip
            return self._ask("POST", f"/{kind}?{tag}", expected, body,
                             f"Content-Length: {len(body)}")  # fmt: skip
        if kind == "trickle":
            size = min(size, 20_000)
            return self._ask("GET", f"/trickle?n={size}&{tag}", BLOCK[:size])
        if kind == "events":
            count = size % 30
            return self._ask("GET", f"/events?n={count}&{tag}",
                             b"".join(event_of(number) for number in range(count)))  # fmt: skip
        if kind == "broken":
            how = dice.choice(["reset", "close"])
            return self._ask("GET", f"/{how}?n={size}&{tag}", b"", ends=True, never_whole=True)
        if kind == "head":
            return self._ask("HEAD", f"/kib?{tag}", b"")
        if kind == "other":
            return self._ask("GET", f"/kib?{tag}", BLOCK[:1024], host="other")
        if kind == "steady":
            return self._ask("GET", f"/bulk?n={size}&{tag}", BLOCK[:size], host="steady")
        if kind == "old":
            return self._ask("GET", f"/bulk?n={size}&{tag}", BLOCK[:size], version="1.0", ends=True)
        return self._ask("GET", f"/{kind}?n={size}&{tag}", BLOCK[:size])

    def _ask(
        self, method: str, path: str, expected: bytes, body: bytes = b"", *fields: str,
        host: str = "web", version: str = "1.1", ends: bool = False, never_whole: bool = False,
    ) -> Ask:  # fmt: skip
        lines = [f"{method} {path} HTTP/{version}", f"Host: {host}.localhost", *fields, "", ""]
        return Ask("\r\n".join(lines).encode() + body, method, expected, ends, never_whole)

    def split(self, data: bytes) -> list[bytes]:
        """In up to 6 parts, none of them empty."""
        places = sorted({self.dice.randint(0, len(data)) for _ in range(self.dice.randint(0, 5))})
        parts = [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]
        return [part for part in parts if part]

    # --- what is got ---

    def receive(self, visitor: Visitor, ask: Ask) -> bool:
        """One response, judged. Whether the connection goes on behind it."""
        head = self.peek_head(visitor)
        try:
            response = visitor.response(ask.method)
        except Truncated:
            # It had a head: the log must say why there was no more.
            self.ledger.broken_off(head)
            return False
        self.ledger.completed(response)
        if response.status == 200:
            if ask.never_whole:
                raise Wrong(f"{ask.data[:80]!r}: a broken response looks whole")
            if response.body != ask.expected:
                raise Wrong(
                    f"{ask.data[:80]!r}: {len(response.body)} bytes instead of"
                    f" {len(ask.expected)}, or others"
                )
        else:
            self.judge_local(response, ask.method)
        return not ask.ends and response.values("connection") != ["close"]

    def peek_head(self, visitor: Visitor) -> Response:
        """The final head, left in the buffer; raises Truncated when there is none."""
        try:
            head = visitor.head()
        except Truncated as error:
            if error.so_far and not error.was_reset:
                raise Wrong(f"half a head: {error.so_far!r}") from None
            raise
        visitor.buffer = head.head + visitor.buffer
        return head

    def judge_local(self, response: Response, method: str) -> None:
        if method == "HEAD":
            return
        reason = response.json()["error"]
        if reason not in REASONS:
            raise Wrong(f"{response.status} {reason}")
        self.ledger.count(reason)
        self.is_offline = reason == "device_offline"

    # --- habits ---

    def visitor(self) -> Visitor:
        return Visitor(self.port, TIMEOUT)

    def leave(self, visitor: Visitor) -> None:
        if self.dice.random() < 0.5:
            visitor.reset()
        else:
            visitor.socket.close()

    def keep_alive(self) -> None:
        with self.visitor() as visitor:
            for _ in range(self.dice.randint(1, 12)):
                ask = self.ask()
                self.send(visitor, ask.data)
                if not self.receive(visitor, ask):
                    return

    def send(self, visitor: Visitor, data: bytes) -> None:
        """In one go or in parts. An answer may come, and the connection end, before all is
        sent: that shows when the answer is read."""
        try:
            for part in self.split(data):
                visitor.send(part)
        except TimeoutError:
            raise
        except OSError:
            self.ledger.count("send refused")

    def pipeline(self) -> None:
        asks = [self.ask(small=True) for _ in range(self.dice.randint(2, 8))]
        with self.visitor() as visitor:
            self.send(visitor, b"".join(ask.data for ask in asks))
            for ask in asks:
                if not self.receive(visitor, ask):
                    return

    def abort_upload(self) -> None:
        size = self.dice.randint(10_000, 2_000_000)
        body, fields = BLOCK[: size // 2], f"Content-Length: {size}"
        if self.dice.random() < 0.5:
            body, fields = b"%x\r\n" % size + body, "Transfer-Encoding: chunked"
        path = self.dice.choice(["/sink", "/echo", "/hang"])
        ask = self._ask("POST", path, b"", body, fields)
        with self.visitor() as visitor:
            self.send(visitor, ask.data)
            if self.dice.random() < 0.3:
                visitor.finish()
                while not visitor.is_closed():
                    if self.peek_head(visitor).status == 200:
                        raise Wrong("half an upload was answered as a whole one")
                    visitor.buffer = b""
            else:
                self.leave(visitor)

    def abort_download(self) -> None:
        path = self.dice.choice(["/bulk?n=900000", "/endless", "/events?n=2000", "/hang",
                                 "/trickle?n=50000", "/chunked?n=2000000"])  # fmt: skip
        with self.visitor() as visitor:
            visitor.send(self._ask("GET", path, b"").data)
            waits = path != "/hang" and self.dice.random() < 0.8
            if waits and self.peek_head(visitor).status == 200:
                visitor.take(int(30_000 ** self.dice.random()))
            self.leave(visitor)

    def half_close(self) -> None:
        asks = [self.ask(small=True) for _ in range(self.dice.randint(1, 3))]
        with self.visitor() as visitor:
            self.send(visitor, b"".join(ask.data for ask in asks))
            visitor.finish()
            for ask in asks:
                if not self.receive(visitor, ask):
                    return
            if not visitor.is_closed():
                raise Wrong("bytes behind the last answer")

    def read_slowly(self) -> None:
        size = self.dice.randint(100_000, 1_000_000)
        ask = self._ask("GET", f"/bulk?n={size}", BLOCK[:size], ends=True)
        with self.visitor() as visitor:
            visitor.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            visitor.send(ask.data)
            reads = self.dice.randint(5, 30)
            if self.peek_head(visitor).status == 200:
                for _ in range(reads):
                    time.sleep(0.1 * self.dice.random())
                    visitor.buffer += visitor.socket.recv(3000)
            self.receive(visitor, ask)

    def speak_badly(self) -> None:
        raw, status = self.dice.choice(BAD)
        with self.visitor() as visitor:
            self.send(visitor, raw)
            response = visitor.response()
            if response.status != status:
                raise Wrong(f"{raw[:60]!r}: {response.status} instead of {status}")
            self.ledger.completed(response)
            if not visitor.is_closed():
                raise Wrong(f"{raw[:60]!r}: the connection goes on")

    def tunnel(self) -> None:
        ask = self._ask("GET", "/upgrade", b"", b"", *UPGRADE)
        with self.visitor() as visitor:
            visitor.send(ask.data)
            if (head := visitor.response()).status != 101:
                self.judge_local(head, "GET")
                self.ledger.completed(head)
                return
            for _ in range(self.dice.randint(0, 10)):
                start = self.dice.randrange(1000)
                message = BLOCK[start : start + int(60_000 ** self.dice.random())]
                visitor.send(message)
                if visitor.take(len(message)) != message:
                    raise Wrong("a tunnel gave back other bytes")
            ending = self.dice.randrange(3)
            if ending == 0:
                # Sent, and finished at once: the echo must still be whole.
                visitor.send(BLOCK[:50_000])
                visitor.finish()
                try:
                    rest = visitor.rest()
                except Truncated:
                    self.ledger.count("tunnel reset")
                    return
                if rest != BLOCK[:50_000][: len(rest)]:
                    raise Wrong("a tunnel gave back other bytes at its end")
                self.ledger.count("tunnel whole" if len(rest) == 50_000 else "tunnel cut")
            elif ending == 1:
                visitor.send(BLOCK[:50_000])
                visitor.reset()

    def leave_at_once(self) -> None:
        with self.visitor() as visitor:
            data = self.ask(small=True).data
            visitor.send(data[: self.dice.randint(0, len(data))])
            self.leave(visitor)

    # Over the TCP tunnel, by direct connections mostly: what the proxy does not look at is never
    # answered by it. It is whole, or the connection is reset.

    def bulk(self) -> None:
        with Visitor(self.ports.tcp, TIMEOUT) as visitor:
            for _ in range(self.dice.randint(1, 3)):
                size = int(6_000_000 ** self.dice.random())
                ask = self._ask("GET", f"/bulk?n={size}", b"")
                if self.dice.random() < 0.3:
                    body = BLOCK[: min(size, len(BLOCK))]
                    size = len(body)
                    ask = self._ask("POST", "/echo", b"", body, f"Content-Length: {size}")
                visitor.send(ask.data)  # a reset that it hears of would not be told again
                try:
                    response = visitor.response()
                except Truncated as error:
                    if not error.was_reset:
                        raise Wrong(f"{len(error.so_far)} bytes over TCP look whole") from None
                    raise
                repeats = size // len(BLOCK) + 1
                if response.status != 200 or response.body != (BLOCK * repeats)[:size]:
                    raise Wrong(f"{size} bytes over TCP are others, or {len(response.body)}")
                self.ledger.count("whole over TCP")

    def abort_bulk(self) -> None:
        with Visitor(self.ports.tcp, TIMEOUT) as visitor:
            visitor.send(self._ask("GET", "/bulk?n=6000000", b"").data)
            visitor.take(int(2_000_000 ** self.dice.random()))
            self.leave(visitor)

    def half_close_bulk(self) -> None:
        """Sent, and finished at once: what comes back ends with the connection."""
        with Visitor(self.ports.tcp, TIMEOUT) as visitor:
            visitor.send(self._ask("GET", "/until-close?n=900000", b"").data)
            visitor.finish()
            head = visitor.head()
            body = visitor.rest()
            if head.status != 200 or len(body) != 900_000:
                raise Wrong(f"{len(body)} bytes over TCP look whole")
            self.ledger.count("whole over TCP, with an end")

    def datagrams(self) -> None:
        """Any may be lost; none comes changed, or to somebody else."""
        mark = f"{self.name} {self.asked} ".encode()
        self.asked += 1
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect(("127.0.0.1", self.ports.udp))
            sock.settimeout(0.5)
            for _ in range(self.dice.randint(1, 20)):
                data = mark + BLOCK[: int(9_000 ** self.dice.random())]
                try:
                    sock.send(data)
                    while (answer := sock.recv(65_536)) != data:
                        if not answer.startswith(mark):
                            raise Wrong(f"a datagram of somebody else: {answer[:40]!r}")
                except TimeoutError:
                    self.ledger.count("datagram lost")
                else:
                    self.ledger.count("datagram answered")
