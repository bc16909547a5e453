"""Fuzz the yamux session with what a hostile peer may send.

The first byte of the input seeds the cuts the rest is delivered in; the second
chooses the role and what the owner of the streams does:

    bit 0  we are the client
    bit 1  two streams of ours are open, and a ping of ours is in flight
    bit 2  the owner consumes and sends back what it receives, and finishes
    bit 3  the owner releases some streams in the middle of events
    bit 4  a window of 1000 bytes and three streams at most

Permitted outcomes: any events in their legal order, then nothing or exactly one of
the session's errors except "memory", which repeats. All of the input is used up
unless there is an error. What we answer must satisfy a fresh session of the other
role up to the first error that only its missing context explains ("ping": pongs of
pings it never sent; "flags" and "stream_id" and "window": it never saw our peer's
frames), never "version" or "type". Everything else is a bug.
"""

from __future__ import annotations

import random

from proxy_engine_core._testing.yamux import Event, Session, header_encode

DATA, WINDOW_UPDATE, PING, GO_AWAY = range(4)
SYN, ACK, FIN, RST = 1, 2, 4, 8

CONTEXT_ERRORS = ("ping", "flags", "stream_id", "window")

SEEDS = [
    b"\x00\x00" + header_encode(WINDOW_UPDATE, SYN, 1, 0) + header_encode(DATA, FIN, 1, 2) + b"hi",
    b"\x01\x04" + header_encode(DATA, SYN, 1, 5) + b"hello" + header_encode(DATA, FIN, 1, 0),
    b"\x02\x03" + header_encode(WINDOW_UPDATE, ACK, 1, 9) + header_encode(DATA, 0, 1, 1) + b"x",
    b"\x03\x0b" + header_encode(WINDOW_UPDATE, RST, 1, 2) + header_encode(PING, ACK, 0, 7),
    b"\x04\x1c" + b"".join(header_encode(WINDOW_UPDATE, SYN, n, 0) for n in (5, 1, 3, 7)),
    b"\x05\x10" + header_encode(DATA, SYN, 1, 1000) + b"w" * 1000,
    b"\x06\x00" + header_encode(PING, SYN, 0, 0xFFFFFFFF) + header_encode(GO_AWAY, 0, 0, 0),
]
DICTIONARY = [
    header_encode(type_, flags, stream_id, length)
    for type_, flags, stream_id, length in (
        (DATA, 0, 1, 1),
        (DATA, SYN, 1, 1),
        (DATA, SYN | FIN, 3, 0),
        (DATA, FIN, 1, 0),
        (DATA, RST, 1, 5),
        (DATA, 0, 2, 1),
        (DATA, ACK | FIN, 2, 3),
        (WINDOW_UPDATE, SYN, 1, 0),
        (WINDOW_UPDATE, SYN, 2, 0),
        (WINDOW_UPDATE, SYN | RST, 5, 0),
        (WINDOW_UPDATE, ACK, 1, 0),
        (WINDOW_UPDATE, ACK, 2, 0),
        (WINDOW_UPDATE, 0, 1, 0xFFFFFFFF),
        (WINDOW_UPDATE, FIN, 1, 0),
        (WINDOW_UPDATE, RST, 1, 0),
        (PING, SYN, 0, 1),
        (PING, ACK, 0, 7),
        (GO_AWAY, 0, 0, 0),
    )
] + [b"\x00\x00\x03\xe8", b"\x00\x04\x00\x00", b"\xff\xff\xff\xff", b"\x00\x0f"]


class Owner:
    """Owns the streams of one session and checks the order of their events."""

    def __init__(self, session: Session, *, echoes: bool, releases: bool) -> None:
        self.session = session
        self.echoes = echoes
        self.releases = releases
        self.live: set[int] = set()
        self.ended: set[int] = set()  # FIN or RST seen
        self.event_count = 0
        self.error: str | None = None

    def release(self, stream_id: int) -> None:
        self.session.release(stream_id, self.event_count & 0xFF)
        self.live.discard(stream_id)
        self.ended.discard(stream_id)

    def on_event(self, event: Event) -> None:
        name, stream_id, value = event
        self.event_count += 1
        if name == "error":
            assert value != "memory"
            assert self.error in (None, value)
            self.error = str(value)
            return
        assert self.error is None
        if name in ("pong", "go_away"):
            assert stream_id == 0
            return
        if name == "open":
            assert stream_id not in self.live
            self.live.add(stream_id)
            if self.echoes:
                assert self.session.accept(stream_id) == 0
        assert stream_id in self.live
        if name == "data":
            assert isinstance(value, bytes)
            assert value
            assert stream_id not in self.ended
            if self.echoes:
                room = self.session.stream_state(stream_id)["send_window"]
                assert self.session.send(stream_id, value[:room]) == 0
                assert self.session.consume(stream_id, len(value)) == 0
        elif name in ("fin", "reset"):
            if name == "fin":
                assert stream_id not in self.ended
            self.ended.add(stream_id)
            if self.echoes:
                assert self.session.finish(stream_id) == 0
                self.release(stream_id)
                return
        if self.releases and self.event_count % 3 == 0:
            self.release(stream_id)


def one_input(data: bytes) -> None:
    if len(data) < 2:
        return
    choose, options, data = random.Random(data[0]), data[1], data[2:]
    is_client = bool(options & 1)
    window, streams_max = (1000, 3) if options & 16 else (262144, 64)
    session = Session(is_client=is_client, window=window, streams_max=streams_max)
    owner = Owner(session, echoes=bool(options & 4), releases=bool(options & 8))
    if options & 2:
        for _ in range(2):
            stream_id = session.open()
            assert stream_id is not None
            owner.live.add(stream_id)
        assert session.ping(7) == 0
    output = bytearray()
    start = 0
    while start < len(data):
        size = choose.choice((1, 2, 11, 12, 13, 100, len(data)))
        session.receive(data[start : start + size], owner.on_event)
        output += session.output()
        start += size
    for stream_id in list(owner.live):
        owner.release(stream_id)
    output += session.output()
    state = session.state()
    assert state["stream_count"] == state["unacked_count"] == 0
    assert state["bucket_count"] == state["bytes_lent"] == 0
    other = Session(is_client=not is_client, window=0xFFFFFF, streams_max=1 << 20)
    for event in other.receive(bytes(output)):
        if event[0] == "error":
            assert event[2] in CONTEXT_ERRORS
