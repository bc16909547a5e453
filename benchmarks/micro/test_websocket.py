"""The WebSocket codec beside `websockets` and `wsproto`, doing the same job.

    PYTHONPATH=engine:proxy python -m pytest benchmarks/micro/test_websocket.py

Ours runs many rounds inside one native call, since that is how the engine runs it:
without Python. The references run as their users run them. `extra_info` holds what
to compare: GB/s for masking, ns for a frame. Budgets: masking 1 KiB >= 80 GB/s with
AVX2 and >= 45 without, 64 B >= 10; header and unmasking of a 64 B frame <= 10 ns.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import wsproto.frame_protocol
from pytest_benchmark.fixture import BenchmarkFixture
from websockets.protocol import SERVER, Protocol

from proxy_engine_core._testing import websocket

try:
    from websockets.speedups import apply_mask
except ImportError:
    from websockets.utils import apply_mask

KEY = b"\x12\x34\x56\x78"
SIZES = [64, 1024, 65536]
FRAME_SIZES = [64, 1024]
BATCH_SIZE = 64 * 1024  # bytes of frames handed over at once: one receive buffer


def best_seconds(benchmark: BenchmarkFixture) -> float:
    assert benchmark.stats is not None
    return float(benchmark.stats.stats.min)


def report(benchmark: BenchmarkFixture, size: int, count: int, *, frames: bool) -> None:
    seconds = best_seconds(benchmark) / count
    if frames:
        benchmark.extra_info["ns/frame"] = round(seconds * 1e9, 1)
    benchmark.extra_info["GB/s"] = round(size / seconds / 1e9, 2)
    print(benchmark.extra_info)


@pytest.mark.parametrize("kernel", ["best", "16 bytes"])
@pytest.mark.parametrize("size", SIZES)
def test_masking(benchmark: BenchmarkFixture, size: int, kernel: str) -> None:
    rounds = 4 * (2_000_000 // size)
    # Payload lies behind a 6 byte header, so it is not aligned.
    benchmark(websocket.mask_rounds, size, rounds, 6, kernel == "best")
    report(benchmark, size, rounds, frames=False)


@pytest.mark.parametrize("size", SIZES)
def test_masking_by_websockets(benchmark: BenchmarkFixture, size: int) -> None:
    data = bytes(size)
    rounds = 100

    def run() -> None:
        for _ in range(rounds):
            apply_mask(data, KEY)

    benchmark(run)
    report(benchmark, size, rounds, frames=False)


@pytest.mark.parametrize("size", SIZES)
def test_masking_by_wsproto(benchmark: BenchmarkFixture, size: int) -> None:
    masker = wsproto.frame_protocol.XorMaskerSimple(KEY)
    data = bytes(size)
    benchmark(masker.process, data)
    report(benchmark, size, 1, frames=False)


def batch(size: int) -> tuple[bytes, int]:
    frame = websocket.header_encode(2, True, size, KEY) + bytes(size)
    count = BATCH_SIZE // len(frame)
    return frame * count, count


@pytest.mark.parametrize("size", FRAME_SIZES)
def test_reading_frames(benchmark: BenchmarkFixture, size: int) -> None:
    stream, count = batch(size)
    rounds = 100
    assert benchmark(websocket.reader_rounds, stream, rounds) == rounds * count * size
    report(benchmark, size, rounds * count, frames=True)


def read_by_websockets(stream: bytes) -> int:
    protocol = Protocol(SERVER, max_size=None)
    protocol.receive_data(stream)
    return len(protocol.events_received())


def read_by_wsproto(stream: bytes) -> int:
    protocol = wsproto.frame_protocol.FrameProtocol(client=False, extensions=[])
    protocol.receive_bytes(stream)
    return sum(1 for _ in protocol.received_frames())


@pytest.mark.parametrize("size", FRAME_SIZES)
@pytest.mark.parametrize("read", [read_by_websockets, read_by_wsproto])
def test_reading_frames_by(
    benchmark: BenchmarkFixture, size: int, read: Callable[[bytes], int]
) -> None:
    stream, count = batch(size)
    assert benchmark(read, stream) == count
    report(benchmark, size, count, frames=True)


@pytest.mark.parametrize(
    ("name", "text"),
    [("ascii", "hello, world " * 5000), ("mixed", "Grüße aus 東京 und mehr " * 2500)],
)
def test_checking_utf8(benchmark: BenchmarkFixture, name: str, text: str) -> None:
    data = text.encode()
    rounds = 20
    assert benchmark(websocket.utf8_rounds, data, rounds) is True
    report(benchmark, len(data), rounds, frames=False)


@pytest.mark.parametrize(
    ("name", "text"),
    [("ascii", "hello, world " * 5000), ("mixed", "Grüße aus 東京 und mehr " * 2500)],
)
def test_checking_utf8_by_the_python_decoder(
    benchmark: BenchmarkFixture, name: str, text: str
) -> None:
    data = text.encode()
    assert benchmark(data.decode) == text
    report(benchmark, len(data), 1, frames=False)
