"""Two sessions joined by a pipe lose nothing, whatever is done and however it is cut."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy_engine_core._testing.yamux import (
    ERROR_NAMES,
    EVENT_NAMES,
    Event,
    Session,
    header_decode,
    header_encode,
)

U32 = st.integers(0, 0xFFFFFFFF)


@given(type_=st.integers(0, 255), flags=st.integers(0, 0xFFFF), stream_id=U32, length=U32)
def test_decode_of_encode_is_the_identity(type_, flags, stream_id, length):
    header = header_encode(type_, flags, stream_id, length)
    assert header_decode(header) == (0, type_, flags, stream_id, length)


@dataclass
class Side:
    """What one end of a stream did and saw."""

    sent: bytearray = field(default_factory=bytearray)
    received: bytearray = field(default_factory=bytearray)
    consumed: int = 0
    finished: bool = False
    fin_seen: bool = False
    reset_seen: bool = False
    released: bool = False


class End:
    """One session and its owner, who keeps the books."""

    def __init__(self, *, is_client: bool, window: int, passing: bool) -> None:
        self.session = Session(is_client=is_client, window=window, passing=passing)
        self.window = window
        self.sides: dict[int, Side] = {}
        self.on_wire = bytearray()  # written, not yet given to the other end

    def on_event(self, event: Event) -> None:
        name, stream_id, value = event
        assert name != "error", value
        if name == "open":
            assert stream_id not in self.sides
            self.sides[stream_id] = Side()
            assert self.session.accept(stream_id) == 0
        elif name == "data":
            side = self.sides[stream_id]
            assert isinstance(value, bytes)
            assert value
            assert not side.fin_seen
            assert not side.released
            side.received += value
        elif name == "fin":
            assert not self.sides[stream_id].fin_seen
            self.sides[stream_id].fin_seen = True
        elif name == "reset":
            self.sides[stream_id].reset_seen = True
        self.check()

    def live(self) -> list[int]:
        return [stream_id for stream_id, side in self.sides.items() if not side.released]

    def open(self) -> None:
        stream_id = self.session.open()
        if stream_id is not None:
            self.sides[stream_id] = Side()

    def send(self, stream_id: int, size: int, *, in_place: bool) -> None:
        side = self.sides[stream_id]
        size = min(size, self.session.stream_state(stream_id)["send_window"], 65536)
        if side.finished or side.reset_seen or size == 0:
            return
        start = len(side.sent)
        data = bytes((stream_id + start + index) & 0xFF for index in range(size))
        if in_place:
            assert self.session.send_in_place(stream_id, data, min(size + 7, 65536)) == 0
        else:
            assert self.session.send(stream_id, data) == 0
        side.sent += data

    def consume(self, stream_id: int, size: int) -> None:
        side = self.sides[stream_id]
        size = min(size, len(side.received) - side.consumed)
        assert self.session.consume(stream_id, size) == 0
        side.consumed += size

    def finish(self, stream_id: int) -> None:
        assert self.session.finish(stream_id) == 0
        self.sides[stream_id].finished = True

    def release(self, stream_id: int) -> None:
        self.session.release(stream_id, 1)
        self.sides[stream_id].released = True

    def check(self) -> None:
        """Every byte the peer may send is in exactly one place."""
        state = self.session.state()
        assert state["stream_count"] == len(self.live())
        for stream_id in self.live():
            side, windows = self.sides[stream_id], self.session.stream_state(stream_id)
            assert windows["unconsumed"] == len(side.received) - side.consumed
            known = windows["receive_window"] + windows["unconsumed"] + windows["ungranted"]
            assert known <= windows["window"]
            assert known + state["payload_remaining"] >= windows["window"]
            assert windows["window"] >= self.window
        lent = sum(self.session.stream_state(each)["window"] - self.window for each in self.live())
        assert lent == state["extra"] == state["budget_extra"]


class Pipe:
    """Both ends and the bytes between them."""

    def __init__(self, window: int, *, passing: bool = False) -> None:
        self.client = End(is_client=True, window=window, passing=passing)
        self.server = End(is_client=False, window=window, passing=passing)
        self.ends = (self.client, self.server)

    def other(self, end: End) -> End:
        return self.server if end is self.client else self.client

    def move(self, end: End, size: int, bulk: int | None = None) -> None:
        """Give at most `size` bytes that `end` wrote to the other end, and take no more than
        about `bulk` out of what others may pass."""
        end.on_wire += end.session.output(bulk)
        chunk = bytes(end.on_wire[:size])
        del end.on_wire[:size]
        other = self.other(end)
        other.session.receive(chunk, other.on_event)
        other.check()

    def settle(self) -> None:
        while any(end.on_wire or end.session.state()["output_bytes"] for end in self.ends):
            for end in self.ends:
                self.move(end, 1 << 30)

    def act(self, choose: random.Random) -> None:
        end = choose.choice(self.ends)
        action = choose.choices(
            ["open", "send", "consume", "finish", "release", "move", "ping"],
            [4, 20, 14, 2, 1, 25, 1],
        )[0]
        if action == "open" and len(end.live()) < 12:
            end.open()
        elif action == "ping":
            end.session.ping(choose.getrandbits(32))
        elif action == "move":
            bulk = choose.choice([None, None, 0, 1, 70_000])
            self.move(end, choose.choice([1, 5, 12, 13, 100, 5000, 1 << 20]), bulk)
        elif end.live():
            stream_id = choose.choice(end.live())
            size = choose.choice([1, 7, 100, 3000, 65536])
            if action == "send":
                end.send(stream_id, size, in_place=choose.random() < 0.5)
                if choose.random() < 0.3:
                    end.session.rest(stream_id)
            elif action == "consume":
                end.consume(stream_id, size)
            elif action == "finish":
                end.finish(stream_id)
            elif action == "release":
                end.release(stream_id)

    def check_delivery(self) -> None:
        """After settling: nothing lost, nothing reordered, all credit accounted for."""
        for end in self.ends:
            other = self.other(end)
            for stream_id in end.live():
                side, peer = end.sides[stream_id], other.sides[stream_id]
                if peer.released:
                    assert side.reset_seen or (side.finished and side.fin_seen)
                    continue
                assert not side.reset_seen
                assert peer.received == side.sent
                assert peer.fin_seen == side.finished
                sending = end.session.stream_state(stream_id)
                receiving = other.session.stream_state(stream_id)
                # What was sent is unconsumed, ungranted or was granted back; a side
                # that has seen FIN grants no more.
                if not peer.fin_seen:
                    assert sending["send_window"] == receiving["receive_window"]
                    assert (
                        receiving["receive_window"]
                        + receiving["unconsumed"]
                        + receiving["ungranted"]
                        == receiving["window"]
                    )


@settings(max_examples=120, deadline=None)
@given(
    seed=st.integers(0, 2**64),
    window=st.sampled_from([1, 3, 64, 1000, 65536, 262144, 1 << 20]),
    steps=st.integers(1, 300),
    passing=st.booleans(),
)
def test_sessions_joined_by_a_pipe_lose_nothing(seed, window, steps, passing):
    choose = random.Random(seed)
    pipe = Pipe(window, passing=passing)
    for _ in range(steps):
        pipe.act(choose)
    pipe.settle()
    pipe.check_delivery()
    for end in pipe.ends:
        for stream_id in end.live():
            end.release(stream_id)
    pipe.settle()
    for end in pipe.ends:
        state = end.session.state()
        assert state["stream_count"] == state["unacked_count"] == 0
        assert state["bucket_count"] == state["bytes_lent"] == 0


@settings(max_examples=120, deadline=None)
@given(
    seed=st.integers(0, 2**64),
    window=st.sampled_from([1, 64, 1000, 65536]),
    start=st.sampled_from([0, 500, 100_000]),
    caps=st.tuples(*[st.sampled_from([0, 1, 1000, 300_000])] * 3),
    rtt=st.sampled_from([0, 1, 1000]),
    steps=st.integers(1, 300),
)
def test_credit_is_conserved_while_windows_grow_and_shrink(seed, window, start, caps, rtt, steps):
    choose = random.Random(seed)
    pipe = Pipe(window)
    stream_max, session_max, extra_max = window + caps[0], caps[1], caps[2]
    now = 1
    for end in pipe.ends:
        end.session.tune(
            start=start, stream_max=stream_max, session_max=session_max, extra_max=extra_max
        )
        end.session.set_round_trip(rtt)
    for _ in range(steps):
        now += choose.choice([0, 1, 10, 1000, 20_000_000])
        for end in pipe.ends:
            end.session.set_clock(now)
            end.session.set_short(choose.random() < 0.1)
        pipe.act(choose)
        for end in pipe.ends:
            assert end.session.state()["extra"] <= min(session_max, extra_max)
            for stream_id in end.live():
                assert end.session.stream_state(stream_id)["window"] <= stream_max
    pipe.settle()
    pipe.check_delivery()
    for end in pipe.ends:
        for stream_id in end.live():
            end.release(stream_id)
        assert end.session.state()["budget_extra"] == 0


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**64), window=st.sampled_from([1, 100, 5000]))
def test_bulk_transfer_ends_whatever_the_window(seed, window):
    choose = random.Random(seed)
    pipe = Pipe(window)
    pipe.client.open()
    total, side = window * 20, pipe.client.sides[1]
    while len(side.sent) < total:
        pipe.client.send(1, total - len(side.sent), in_place=False)
        pipe.move(pipe.client, choose.randrange(1, 4000))
        if 1 in pipe.server.sides:
            pipe.server.consume(1, choose.randrange(1, 4000))
        pipe.move(pipe.server, choose.randrange(1, 4000))
    pipe.client.finish(1)
    pipe.settle()
    assert pipe.server.sides[1].received == side.sent
    assert pipe.server.sides[1].fin_seen


FRAMES = st.builds(
    lambda type_, flags, stream_id, size, length, lies: (
        header_encode(type_, flags, stream_id, length if lies else size)
        + (b"p" * size if type_ == 0 and not lies else b"")
    ),
    type_=st.sampled_from([0, 0, 0, 1, 1, 1, 2, 3, 4]),
    flags=st.integers(0, 15),
    stream_id=st.integers(0, 8),
    size=st.integers(0, 40),
    length=U32,
    lies=st.integers(0, 15).map(lambda value: value == 0),
)
STREAMS = st.one_of(
    st.lists(FRAMES, max_size=30).map(b"".join),
    st.binary(max_size=200),
    st.lists(st.one_of(FRAMES, st.binary(max_size=5)), max_size=20).map(b"".join),
)


def read(data: bytes, cuts: list[int], *, is_client: bool) -> tuple[list[Event], bytes, Event]:
    """Events with neighbouring data joined, output, and the counters."""
    session = Session(is_client=is_client, window=100, streams_max=3)
    for _ in range(2):
        session.open()
    session.ping(7)
    events: list[Event] = []
    start = 0
    for cut in [*cuts, len(data)]:
        for event in session.receive(data[start:cut]):
            if event[0] == "error" and events and events[-1][0] == "error":
                continue  # it is returned again for every later piece
            last = events[-1] if events else None
            value = event[2]
            if last and last[:2] == event[:2] and event[0] == "data":
                assert isinstance(last[2], bytes)
                assert isinstance(value, bytes)
                events[-1] = ("data", event[1], last[2] + value)
            else:
                events.append(event)
        start = cut
    state = session.state()
    return events, session.output(), (repr(sorted(state.items())), 0, 0)


@settings(max_examples=200, deadline=None)
@given(data=STREAMS, is_client=st.booleans(), seed=st.integers(0, 2**32))
def test_pieces_of_any_size_read_like_the_whole(data, is_client, seed):
    whole = read(data, [], is_client=is_client)
    assert read(data, list(range(1, len(data))), is_client=is_client) == whole
    choose = random.Random(seed)
    cuts = sorted(choose.choices(range(len(data) + 1), k=5))
    assert read(data, cuts, is_client=is_client) == whole


@settings(max_examples=200, deadline=None)
@given(data=STREAMS, is_client=st.booleans())
def test_any_bytes_give_listed_events_or_one_listed_error(data, is_client):
    events, _, _ = read(data, [], is_client=is_client)
    names = [event[0] for event in events]
    assert set(names) <= {*EVENT_NAMES.values(), "error"}
    assert "error" not in names[:-1]
    if names and names[-1] == "error":
        assert events[-1][2] in ERROR_NAMES.values()
        assert events[-1][2] != "memory"


@pytest.mark.parametrize("is_client", [True, False])
def test_every_listed_error_but_memory_can_be_provoked(is_client):
    parity = 2 if is_client else 1
    inputs = {
        "version": b"\x01" + bytes(11),
        "type": header_encode(9, 0, 0, 0),
        "stream_id": header_encode(1, 1, parity + 1, 0),
        "window": header_encode(0, 1, parity, 101),
        "flags": header_encode(1, 3, parity, 0),
        "ping": header_encode(2, 2, 0, 1),
    }
    assert {*inputs, "memory"} == set(ERROR_NAMES.values())
    for name, data in inputs.items():
        assert read(data, [], is_client=is_client)[0] == [("error", 0, name)]
