"""How a window grows, and what makes it shrink again: the rule at the top of window.pxd."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from proxy_engine_core._testing.yamux import WINDOW_INITIAL, Session, header_encode

DATA, WINDOW_UPDATE = 0, 1
SYN, ACK, FIN, RST = 1, 2, 4, 8
KIB, MIB = 1 << 10, 1 << 20
RTT = 50_000  # microseconds
SECOND = 1_000_000


def frame(type_: int, flags: int, stream_id: int, length: int, payload: bytes = b"") -> bytes:
    return header_encode(type_, flags, stream_id, length) + payload


class Receiver:
    """A session whose peer sends all it may, on one stream, at a time the test sets."""

    def __init__(self, *, rtt: int = RTT, start: int = 0, **limits: int) -> None:
        self.session = Session(is_client=True)
        self.session.tune(
            start=start,
            stream_max=limits.get("stream_max", 16 * MIB),
            session_max=limits.get("session_max", 64 * MIB),
            extra_max=limits.get("extra_max", 256 * MIB),
        )
        self.session.set_round_trip(rtt)
        self.now = SECOND
        self.session.set_clock(self.now)
        self.streams: list[int] = []

    def open(self) -> int:
        stream = self.session.open()
        assert stream is not None
        self.session.receive(frame(WINDOW_UPDATE, ACK, stream, 0))
        self.session.output()
        self.streams.append(stream)
        return stream

    def wait(self, microseconds: int) -> None:
        self.now += microseconds
        self.session.set_clock(self.now)

    def take(self, stream: int, size: int) -> int:
        """`size` bytes come in and are delivered at once; the credit granted for them."""
        self.session.output()
        while size:
            part = min(size, self.session.stream_state(stream)["receive_window"], 16 * KIB)
            assert part
            self.session.receive(frame(DATA, 0, stream, part, bytes(part)))
            assert self.session.consume(stream, part) == 0
            size -= part
        return len(self.session.output())

    def round_trip(self, stream: int, share: float) -> None:
        """... and this share of its window is delivered all the while."""
        window = self.window(stream)
        for _ in range(8):
            self.wait(RTT // 8)
            self.take(stream, int(window * share / 8))

    def window(self, stream: int) -> int:
        state = self.session.stream_state(stream)
        assert (
            state["receive_window"] + state["unconsumed"] + state["ungranted"] == (state["window"])
        )
        return state["window"]

    def check(self) -> None:
        extra = sum(self.window(stream) - WINDOW_INITIAL for stream in self.streams)
        assert extra == self.session.state()["extra"] == self.session.state()["budget_extra"]


@pytest.fixture
def busy() -> Callable[..., tuple[Receiver, int]]:
    """A receiver and a stream whose window was used up, round trip after round trip."""

    def make(round_trips: int, **how: int) -> tuple[Receiver, int]:
        receiver = Receiver(**how)
        stream = receiver.open()
        receiver.take(stream, 1)  # the first epoch begins
        for _ in range(round_trips):
            receiver.round_trip(stream, 3 / 4)
        receiver.check()
        return receiver, stream

    return make


def test_window_doubles_when_a_round_trip_delivered_most_of_it(busy):
    receiver, stream = busy(3)
    assert receiver.window(stream) == 8 * WINDOW_INITIAL
    assert receiver.session.state()["grown"] == 3


def test_growth_is_granted_at_once(busy):
    receiver, stream = busy(1)
    state = receiver.session.stream_state(stream)
    assert state["window"] == 2 * WINDOW_INITIAL
    assert state["receive_window"] > WINDOW_INITIAL


def test_half_a_window_a_round_trip_is_no_reason_to_grow(busy):
    receiver, stream = busy(0)
    for _ in range(20):
        receiver.wait(RTT)
        receiver.take(stream, WINDOW_INITIAL // 2)
    assert receiver.window(stream) == WINDOW_INITIAL


def test_slow_delivery_is_no_reason_to_grow(busy):
    # A quarter of the window at a time, every two round trips.
    receiver, stream = busy(0)
    for _ in range(100):
        receiver.wait(2 * RTT)
        receiver.take(stream, WINDOW_INITIAL // 4)
    assert receiver.window(stream) == WINDOW_INITIAL


def test_a_destination_that_does_not_keep_up_makes_nothing_grow(busy):
    receiver, stream = busy(2)
    window, most = receiver.window(stream), receiver.session.stream_state(stream)["receive_window"]
    receiver.session.receive(frame(DATA, 0, stream, most, bytes(most)))
    for _ in range(40):
        # More than a quarter of the window waits all the time, and is taken in bursts.
        receiver.wait(RTT // 2)
        receiver.session.consume(stream, window // 2)
        part = receiver.session.stream_state(stream)["receive_window"]
        receiver.session.receive(frame(DATA, 0, stream, part, bytes(part)))
    assert receiver.window(stream) == window


def test_nothing_grows_before_the_round_trip_is_known(busy):
    receiver, stream = busy(5, rtt=0)
    assert receiver.window(stream) == WINDOW_INITIAL


def test_bytes_that_nobody_took_do_not_count(busy):
    receiver, stream = busy(0)
    for _ in range(5):
        receiver.wait(RTT)
        part = receiver.session.stream_state(stream)["receive_window"]
        receiver.session.receive(frame(DATA, 0, stream, part, bytes(part)))
        assert receiver.session.settle(stream) == 0
        assert receiver.session.stream_state(stream)["ungranted"] == 0
    assert receiver.window(stream) == WINDOW_INITIAL


@pytest.mark.parametrize(
    ("limits", "most"),
    [
        ({"stream_max": 3 * WINDOW_INITIAL}, 3 * WINDOW_INITIAL),
        ({"session_max": MIB}, WINDOW_INITIAL + MIB),
        ({"extra_max": MIB + 5}, WINDOW_INITIAL + MIB + 5),
        ({"session_max": 0}, WINDOW_INITIAL),
    ],
)
def test_window_grows_no_further_than_its_limits(busy, limits, most):
    receiver, stream = busy(8, **limits)
    assert receiver.window(stream) == most


def test_streams_share_the_budget_of_a_session(busy):
    receiver, first = busy(2, session_max=MIB)
    assert receiver.window(first) == MIB
    second = receiver.open()
    receiver.take(second, 1)
    for _ in range(4):
        receiver.wait(RTT)
        receiver.take(second, receiver.window(second) * 3 // 4)
    assert receiver.window(second) == WINDOW_INITIAL + MIB - (MIB - WINDOW_INITIAL)
    receiver.check()


def test_a_stream_that_ends_gives_its_part_of_the_budget_back(busy):
    receiver, stream = busy(3)
    receiver.session.release(stream)
    assert receiver.session.state()["budget_extra"] == 0
    assert receiver.session.state()["extra"] == 0


def test_a_session_that_ends_gives_everything_back(busy):
    receiver, _ = busy(3)
    receiver.session.free()
    assert receiver.session.state()["budget_extra"] == 0


def test_when_memory_is_short_grants_are_withheld_down_to_what_was_agreed(busy):
    receiver, stream = busy(4)
    receiver.session.set_short(True)
    while (before := receiver.window(stream)) > WINDOW_INITIAL:
        owed = receiver.session.stream_state(stream)["ungranted"]
        receiver.take(stream, 64 * KIB)
        assert receiver.window(stream) == max(WINDOW_INITIAL, before - owed - 64 * KIB)
        receiver.check()
    # ... and no further: the stream goes on with the agreed window.
    receiver.take(stream, 4 * MIB)
    assert receiver.window(stream) == WINDOW_INITIAL
    assert receiver.session.state()["withheld"] == 15 * WINDOW_INITIAL


def test_nothing_grows_while_memory_is_short(busy):
    receiver, stream = busy(0)
    receiver.session.set_short(True)
    for _ in range(4):
        receiver.wait(RTT)
        receiver.take(stream, WINDOW_INITIAL)
    assert receiver.window(stream) == WINDOW_INITIAL


def test_a_stream_that_went_quiet_falls_back_to_what_it_started_with(busy):
    receiver, stream = busy(4, start=MIB)
    assert receiver.window(stream) == 16 * MIB
    for _ in range(11):
        receiver.wait(SECOND)
        receiver.take(stream, KIB)
    assert receiver.window(stream) < 16 * MIB
    for _ in range(400):
        receiver.wait(SECOND)
        receiver.take(stream, 64 * KIB)
    assert receiver.window(stream) == MIB
    receiver.check()


def test_a_busy_stream_keeps_its_window(busy):
    receiver, stream = busy(2)
    window = receiver.window(stream)
    for _ in range(500):
        receiver.wait(RTT)
        receiver.take(stream, window // 4)
    assert receiver.window(stream) == window


def test_syn_carries_what_a_stream_starts_with():
    receiver = Receiver(start=MIB)
    stream = receiver.session.open()
    assert stream is not None
    assert receiver.session.output() == frame(WINDOW_UPDATE, SYN, stream, MIB - WINDOW_INITIAL)
    assert receiver.session.stream_state(stream) == {
        "send_window": WINDOW_INITIAL, "receive_window": MIB, "unconsumed": 0, "ungranted": 0,
        "window": MIB,
    }  # fmt: skip


def test_syn_carries_no_more_than_the_budget_has():
    receiver = Receiver(start=MIB, session_max=MIB)
    first, second, third = receiver.open(), receiver.open(), receiver.open()
    windows = [receiver.window(stream) for stream in (first, second, third)]
    assert windows == [MIB, WINDOW_INITIAL + MIB - 3 * WINDOW_INITIAL, WINDOW_INITIAL]


def test_ack_carries_what_a_stream_starts_with():
    session = Session(is_client=False)
    session.tune(start=MIB, stream_max=MIB, session_max=MIB, extra_max=MIB)
    session.receive(frame(WINDOW_UPDATE, SYN, 1, 0))
    session.accept(1)
    assert session.output() == frame(WINDOW_UPDATE, ACK, 1, MIB - WINDOW_INITIAL)


def test_peer_may_use_all_of_a_grown_window_and_not_a_byte_more(busy):
    receiver, stream = busy(2)
    most = receiver.session.stream_state(stream)["receive_window"]
    assert most > WINDOW_INITIAL
    events = receiver.session.receive(frame(DATA, 0, stream, most, bytes(most)))
    assert sum(len(event[2]) for event in events) == most
    assert receiver.session.receive(frame(DATA, 0, stream, 1)) == [("error", 0, "window")]
