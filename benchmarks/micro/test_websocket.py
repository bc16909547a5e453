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
from proxy_engine_core.websocket import Connection, Deflate

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


# Least GB/s of masking by (size, kernel), most ns to read a frame by size.
MASKING_BUDGETS = {(1024, "AVX2"): 80.0, (1024, "16 bytes"): 45.0, (64, "AVX2"): 10.0}
FRAME_BUDGETS = {64: 10.0}


def report(
    benchmark: BenchmarkFixture, size: int, count: int, *, frames: bool, budget: float | None = None
) -> None:
    seconds = best_seconds(benchmark) / count
    rate = size / seconds / 1e9
    if frames:
        benchmark.extra_info["ns/frame"] = round(seconds * 1e9, 1)
    benchmark.extra_info["GB/s"] = round(rate, 2)
    benchmark.extra_info["ns/KiB"] = round(seconds * 1e9 * 1024 / size, 2)
    if budget is not None:
        is_met = seconds * 1e9 <= budget if frames else rate >= budget
        benchmark.extra_info["budget"] = f"{budget:g}, {'met' if is_met else 'MISSED'}"
    print(benchmark.name, benchmark.extra_info)


@pytest.mark.parametrize("kernel", ["best", "16 bytes"])
@pytest.mark.parametrize("size", SIZES)
def test_masking(benchmark: BenchmarkFixture, size: int, kernel: str) -> None:
    rounds = 4 * (2_000_000 // size)
    # Payload lies behind a 6 byte header, so it is not aligned.
    benchmark(websocket.mask_rounds, size, rounds, 6, kernel == "best")
    used = "AVX2" if kernel == "best" and websocket.HAS_AVX2 else "16 bytes"
    budget = MASKING_BUDGETS.get((size, used))
    report(benchmark, size, rounds, frames=False, budget=budget)


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
    report(benchmark, size, rounds * count, frames=True, budget=FRAME_BUDGETS.get(size))


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


# ---- The Python face: bytes in, events out.


@pytest.mark.parametrize("size", FRAME_SIZES)
def test_receiving_by_the_python_face(benchmark: BenchmarkFixture, size: int) -> None:
    stream, count = batch(size)
    connection = Connection("server")
    assert benchmark(lambda: len(connection.receive(stream))) == count
    report(benchmark, size, count, frames=True)


@pytest.mark.parametrize("size", FRAME_SIZES)
def test_receiving_single_frames_by_the_python_face(benchmark: BenchmarkFixture, size: int) -> None:
    connection = Connection("server")
    frame = batch(size)[0][: 6 + size + (2 if size > 125 else 0)]
    rounds = 1000

    def run() -> None:
        for _ in range(rounds):
            connection.receive(frame)

    benchmark(run)
    report(benchmark, size, rounds, frames=True)


@pytest.mark.parametrize("role", ["server", "client"])
@pytest.mark.parametrize("size", FRAME_SIZES)
def test_sending_by_the_python_face(benchmark: BenchmarkFixture, size: int, role: str) -> None:
    connection = Connection("server" if role == "server" else "client")
    text = "x" * size
    rounds = 1000

    def run() -> None:
        for _ in range(rounds):
            connection.send_text(text)

    benchmark(run)
    report(benchmark, size, rounds, frames=True)


@pytest.mark.parametrize("size", [1024, 65536])
def test_deflating_and_inflating_by_the_python_face(benchmark: BenchmarkFixture, size: int) -> None:
    sender = Connection("server", deflate=Deflate())
    receiver = Connection("client", deflate=Deflate())
    text = ('{"id": 12345, "name": "a device", "state": "online", "load": 0.25}, ' * 1000)[:size]
    benchmark(lambda: receiver.receive(sender.send_text(text)))
    report(benchmark, size, 1, frames=True)


# ---- UTF-8


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
