"""The yamux session alone: nanoseconds a frame, no sockets, one core.

Each round is one call into a native loop, so Python's share is nothing. Payload is
neither read nor (receiving) copied: that is the price of the frame itself.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from proxy_engine_core._testing.yamux import BenchmarkSession, benchmark_header

ROUNDS = 64_000
FRAME_SIZES = [64, 1024, 16384]


def measure(benchmark, name: str, run: Callable[[int], object]) -> None:
    benchmark.group = name
    benchmark.pedantic(run, args=(ROUNDS,), rounds=20, warmup_rounds=2)
    benchmark.extra_info["ns_per_frame"] = round(benchmark.stats.stats.min / ROUNDS * 1e9, 2)


def test_header_encode_and_decode(benchmark):
    measure(benchmark, "yamux header", benchmark_header)


@pytest.mark.parametrize("frame_size", FRAME_SIZES)
def test_session_receives_frames(benchmark, frame_size):
    # Four streams in turn; includes granting the credit back every quarter window.
    session = BenchmarkSession(4, frame_size)
    measure(benchmark, "yamux receive", session.receive)


@pytest.mark.parametrize("frame_size", FRAME_SIZES)
def test_session_sends_frames(benchmark, frame_size):
    # Includes the copy of the payload into the output buffer.
    session = BenchmarkSession(4, frame_size)
    measure(benchmark, "yamux send", session.send)


def test_session_relays_1_kib_frames_to_another_session(benchmark):
    session = BenchmarkSession(4, 1024)
    measure(benchmark, "yamux relay", session.relay)
    assert session.relay(ROUNDS) == ROUNDS * 1024
