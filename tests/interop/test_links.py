"""Other people's yamux libraries at the far end of our links: hashicorp/yamux (Go), rust-yamux and
@chainsafe/libp2p-yamux, each as a device of our server and as a server of our agent, over both
carriers. What they do wrong is written down in docs/protocol.md.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial

import pytest

from proxy_engine_core import core
from tests.engine.harness import CARRIERS, wait_until
from tests.interop.bridge import TIMEOUT, TOOLS, WINDOW, Link, Pair, ends_of, move, move_all

CASES = list(itertools.product(TOOLS, ("device", "server"), CARRIERS))
BULK_STREAMS, BULK_BYTES = 50, 100_000_000  # each way
SHORT_AT_ONCE = 20
UNACKED_MAX = 256  # streams we open before any of them has been answered
NEAR, FAR = 0, 1

# The first test of a language compiles its bridge.
pytestmark = pytest.mark.timeout(360)

Connect = Callable[..., Link]
either_end = pytest.mark.parametrize("who", [NEAR, FAR], ids=["near", "far"])


@pytest.fixture(params=CASES, ids="-".join)
def connect(request: pytest.FixtureRequest) -> Connect:
    return partial(Link, *request.param)


def exchange(pairs: list[Pair], size: int, *, finish: bool = False) -> None:
    """So many bytes more, both ways at once."""
    for end in ends_of(pairs):
        end.send(size, finish=finish)
    move_all(pairs)


def test_fifty_streams_carry_a_hundred_megabytes_both_ways(connect: Connect) -> None:
    with connect() as link:
        exchange(link.open(BULK_STREAMS), BULK_BYTES // BULK_STREAMS, finish=True)
        assert link.running.stat("link_bytes_in") > BULK_BYTES
        assert link.running.stat("link_bytes_out") > BULK_BYTES


@either_end
def test_a_side_that_has_finished_gets_what_the_other_sends_later(
    connect: Connect, who: int
) -> None:
    with connect() as link:
        pair = link.open_one()
        first = pair.ends[who]
        first.send(1000, finish=True)
        move(pair.ends, lambda: first.other.is_at_end)
        assert not first.is_over
        for _ in range(3):
            first.other.send(1_000_000)
            move(pair.ends, lambda: first.received == first.other.size)
        first.other.finish()
        move(pair.ends, lambda: first.is_at_end)


@either_end
def test_a_reset_in_the_middle_concerns_one_stream_only(connect: Connect, who: int) -> None:
    with connect("--reset-after", "100") as link:
        pairs = link.open(4)
        victim, others = pairs[0], pairs[1:]
        for end in ends_of(pairs):
            end.send(32_000_000 if end in victim.ends else 2_000_000, finish=True)
        move(ends_of(pairs), lambda: victim.ends[who].received > 500_000)
        victim.ends[who].abort()
        left = victim.ends[1 - who]
        # A bridge in Go can only finish what breaks, and our agent closes the target's connection.
        is_ours = (link.role == "device") == (who == NEAR)
        is_reset = is_ours or (link.language != "go" and left is victim.near)
        # Node finishes a connection right before it resets it.
        move([left, *ends_of(others)], lambda: left.is_reset if is_reset else left.is_over)
        assert left.received < left.other.size
        move_all(others)


def test_go_away_of_the_library(connect: Connect) -> None:
    with connect() as link:
        pair = link.open_one()
        exchange([pair], 100_000)
        link.bridge.tell("goaway")
        if link.language == "go":
            # As meant: what is there goes on, nothing new is opened.
            assert link.bridge.line() == "ok"
            exchange([pair], 1_000_000)
            assert link.bridge.ask("ping") == "ok"
            if link.role == "device":
                assert link.refused().startswith(b"HTTP/1.1 503 ")
            exchange([pair], 1_000, finish=True)
        elif link.language == "rust":
            # The end of everything, at once.
            move(pair.ends, lambda: all(end.is_over for end in pair.ends))
            assert link.end_reason() == "closed"
        elif link.role == "device":
            # It finishes its side of every stream first; what we still send it takes.
            move(pair.ends, lambda: pair.near.is_at_end)
            pair.near.send(1_000_000, finish=True)
            move(pair.ends, lambda: pair.far.is_at_end)
            assert pair.far.received == pair.near.size
            assert link.bridge.line() == "ok"
        else:
            # ... of the control stream, too.
            assert link.end_reason() == "control_closed"
            link.protocol_errors = 1


def test_our_go_away_ends_the_session_in_peace(connect: Connect) -> None:
    with connect() as link:
        pair = link.open_one()
        exchange([pair], 100_000)
        link.running.engine.link_close(link.link, "shutdown")
        assert link.end_reason() == "shutdown"
        assert link.bridge.process.wait(TIMEOUT) == 0
        move(pair.ends, lambda: all(end.is_over for end in pair.ends))


def test_frames_as_large_as_the_window_and_the_bytes_around_it(connect: Connect) -> None:
    with connect("--write", str(WINDOW)) as link:
        steady, *others = link.open(6)
        for _ in range(3):
            exchange([steady], WINDOW)
        for pair, size in zip(others, [0, 1, WINDOW - 1, WINDOW + 1, 4 * WINDOW], strict=True):
            for end in pair.ends:
                end.send(size, finish=True)
        move_all(others)
        exchange([steady], WINDOW, finish=True)


@either_end
def test_a_reader_who_waits_holds_up_nobody_and_loses_nothing(connect: Connect, who: int) -> None:
    with connect() as link:
        stalled, other = link.open(2)
        reader = stalled.ends[who]
        reader.is_reading = False
        for end in stalled.ends:
            end.keep(64 * 1024)
        reader.other.send(32_000_000, finish=True)
        assert not move(stalled.ends, lambda: reader.other.has_finished, quiet=0.2)
        exchange([other], 1_000_000, finish=True)
        reader.is_reading = True
        reader.keep(1 << 20)
        reader.finish()
        move_all([stalled])


def test_thousands_of_streams_come_and_go(connect: Connect) -> None:
    with connect() as link:
        rounds = 100 if link.carrier == "raw" else 10
        for _ in range(rounds):
            exchange(link.open(SHORT_AT_ONCE), 100, finish=True)
            link.close_pairs()
        assert link.running.stat("streams_opened") == rounds * SHORT_AT_ONCE


def test_pings_are_answered_both_ways(connect: Connect) -> None:
    # Dead within three of these: no busy machine must take so long.
    with connect(ping_interval_ms=1000) as link:
        # The second goes out when the first was answered.
        wait_until(lambda: link.running.stat("pings_sent") >= 2, "pings")
        assert link.bridge.ask("ping") == ("unsupported" if link.language == "rust" else "ok")
        exchange([link.open_one()], 1_000, finish=True)
        assert not link.running.has_event(core.EVENT_LINK_DOWN)


def test_more_streams_at_once_than_may_be_unanswered(connect: Connect) -> None:
    count = UNACKED_MAX + 44
    with connect() as link:
        # rust-yamux answers with its first data only.
        is_late = link.language == "rust" and link.role == "device"
        if is_late:
            pairs = link.open(count, answer_at=UNACKED_MAX, queued=count - UNACKED_MAX)
        else:
            pairs = link.open(count, answer_at=count)
        exchange(pairs, 100, finish=True)
