"""slowhttptest in its three modes: the server gets rid of them, and others are served."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.harness import Pair, Peer, RecordingTarget, Request, ok, reply, wait_until

SLOWHTTPTEST = shutil.which("slowhttptest")
CONNECTIONS = 200
SECONDS = 8
LIMITS = {
    "head_timeout_ms": 2000,
    "rate_grace_ms": 2000,
    "upload_rate_min": 1000,
    "reader_timeout_ms": 2000,
}
# mode: further arguments, the counter that has to rise
MODES = {
    # A field every second, never the last one.
    "heads": (["-H", "-i", "1", "-x", "24", "-p", "2"], "head_timeouts"),
    # A few bytes of a body every second, of 8 KiB announced.
    "bodies": (["-B", "-i", "1", "-s", "8192", "-x", "10", "-p", "2", "-t", "POST"], "slow_bodies"),
    # A window of half a KiB, 32 bytes read every other second, several responses asked for.
    "reads": (["-X", "-w", "512", "-y", "1024", "-n", "2", "-z", "32", "-k", "3"], "slow_readers"),
}
PIECE = bytes(65536)
PIECES = 250  # 16 MB: more than the systems in between hold

pytestmark = pytest.mark.skipif(
    SLOWHTTPTEST is None, reason="slowhttptest is not installed: apt-get install slowhttptest"
)


@pytest.fixture(scope="module")
def big_target() -> Iterator[RecordingTarget]:
    """What the slow ones ask, who come by the default tunnel: apart from the others' target."""

    async def handler(peer: Peer, request: Request) -> None:
        await peer.body(request)
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (PIECES * len(PIECE)))
        for _ in range(PIECES):
            await peer.send(PIECE)

    target = RecordingTarget()
    target.handler = handler
    yield target
    target.close()


@pytest.fixture(scope="module")
def pair(
    shared_target: RecordingTarget,
    big_target: RecordingTarget,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Pair]:
    pair = Pair(
        tmp_path_factory.mktemp("slow") / "data",
        engine=LIMITS,
        server_args=["--default-tunnel", "big"],
    )
    try:
        pair.connect({"big": big_target.port, "web": shared_target.port})
        yield pair
    finally:
        pair.close()


@pytest.mark.parametrize("mode", MODES)
def test_normal_visitors_are_served_during_an_attack(
    pair: Pair, target: RecordingTarget, tmp_path: Path, mode: str
) -> None:
    target.handler = reply(ok(b"served"))
    arguments, counter = MODES[mode]
    before = pair.stats()
    assert SLOWHTTPTEST is not None
    attack = subprocess.Popen(
        [
            SLOWHTTPTEST, "-c", str(CONNECTIONS), "-r", "100", "-l", str(SECONDS), *arguments,
            "-u", f"http://127.0.0.1:{pair.port}/",
        ],
        cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    times = []
    try:
        while attack.poll() is None:
            started = time.monotonic()
            assert pair.get("web").body == b"served"
            times.append(time.monotonic() - started)
            time.sleep(0.02)
    finally:
        attack.kill()
        attack.wait()
    # A loaded machine is slow; a server that is blocked answers nobody until the attack is over.
    assert len(times) > 5
    assert sorted(times)[len(times) // 2] < 2
    stats = wait_until(
        lambda: found if (found := pair.stats())[counter] - before[counter] > 10 else None
    )
    assert stats is not None
    # What was held for them is given back.
    wait_until(lambda: pair.stats()["connections"] <= before["connections"] + 1)
    assert pair.stats()["memory_errors"] == 0
