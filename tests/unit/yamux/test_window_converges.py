"""Two sessions at the ends of a simulated line: how much of it one stream fills.

    sender --rate--> half a round trip --> receiver, who takes all at once
           <------- half a round trip ---- its credit

Time is simulated, so the figures are exact and the same everywhere.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

import pytest

from proxy_engine_core._testing.yamux import Session

MIB = 1 << 20
LARGEST = 16 * MIB
CHUNK = 16 * 1024


@dataclass
class Line:
    rate: float  # bytes a microsecond
    round_trip: int  # microseconds
    start: int = 0
    now: float = 1.0
    delivered: int = 0
    posted: int = 0
    events: list[tuple[float, int, Session, bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.sender = Session(is_client=False)
        self.receiver = Session(is_client=True)
        self.receiver.tune(
            start=self.start, stream_max=LARGEST, session_max=64 * MIB, extra_max=64 * MIB
        )
        self.receiver.set_round_trip(self.round_trip)
        self.free_at = 0.0  # when the line has sent what was given to it
        stream = self.receiver.open()
        assert stream is not None
        self.stream = stream
        self.sender.receive(self.receiver.output())
        self.sender.accept(stream)
        self.receiver.receive(self.sender.output())

    @property
    def window(self) -> int:
        return self.receiver.stream_state(self.stream)["window"]

    def post(self, at: float, to: Session, data: bytes) -> None:
        self.posted += 1  # no two events compare equal
        heapq.heappush(self.events, (at, self.posted, to, data))

    def send(self) -> None:
        """The source always has more: whatever the window allows goes onto the line."""
        while allowed := self.sender.stream_state(self.stream)["send_window"]:
            self.sender.send(self.stream, bytes(min(allowed, CHUNK)))
            data = self.sender.output()
            self.free_at = max(self.free_at, self.now) + len(data) / self.rate
            self.post(self.free_at + self.round_trip / 2, self.receiver, data)

    def run(self, until: float) -> int:
        """Bytes delivered up to `until` microseconds."""
        self.send()
        while self.events and self.events[0][0] <= until:
            self.now, _, to, data = heapq.heappop(self.events)
            if to is self.sender:
                assert not any(event[0] == "error" for event in to.receive(data))
                self.send()
                continue
            to.set_clock(int(self.now))
            for name, _, value in to.receive(data):
                assert name == "data"
                assert isinstance(value, bytes)
                to.consume(self.stream, len(value))
                self.delivered += len(value)
            if credit := to.output():
                self.post(self.now + self.round_trip / 2, self.sender, credit)
        return self.delivered


LINES = [
    pytest.param(1_000, 1250.0, id="1 ms, 10 Gbit/s"),
    pytest.param(50_000, 12.5, id="50 ms, 100 Mbit/s"),
    pytest.param(50_000, 125.0, id="50 ms, 1 Gbit/s"),
    pytest.param(200_000, 6.25, id="200 ms, 50 Mbit/s"),
]


def settled(round_trip: int) -> int:
    """When the window has its size, microseconds: a step takes two round trips, or 10 ms."""
    return max(15 * round_trip, 80_000)


@pytest.mark.parametrize(("round_trip", "rate"), LINES)
@pytest.mark.parametrize("start", [0, MIB])
def test_one_stream_fills_the_line_with_a_window_that_fits(round_trip, rate, start):
    line = Line(rate, round_trip, start)
    on_the_way = rate * round_trip  # bytes: the bandwidth-delay product
    before = line.run(settled(round_trip))
    share = (line.run(settled(round_trip) + 5 * round_trip) - before) / (5 * on_the_way)
    print(f"{share:.0%} of the line, window {line.window / on_the_way:.1f} x its product")
    assert share > 0.95
    assert on_the_way <= line.window <= max(3 * on_the_way, MIB)


@pytest.mark.parametrize(("round_trip", "rate"), LINES)
def test_a_window_that_fits_stays(round_trip, rate):
    line = Line(rate, round_trip)
    line.run(settled(round_trip))
    window = line.window
    line.run(2 * settled(round_trip))
    assert line.window == window


def test_the_largest_window_is_the_limit():
    line = Line(1250.0, 50_000)  # 10 Gbit/s: 62 MB would be on their way
    line.run(20 * 50_000)
    assert line.window == LARGEST
