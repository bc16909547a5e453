"""Memory of idle links: many devices, each with one registered tunnel and nothing to do.

    python benchmarks/load/idle_links.py [--links 1000] [--check]

Every device has its own token, makes the handshake, registers a tunnel and then only
answers pings. Printed is what the server's resident memory grew by, for each link. It is
memory of the process: socket buffers of the kernel come on top.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import struct
import sys
import tempfile
import time
from pathlib import Path

# Run as a file, this folder is on the path and the root is not.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.parts.processes import BenchmarkError, Process, accepts_connections, free_port
from benchmarks.parts.results import emit
from benchmarks.parts.samples import spread

ROOT = Path(__file__).resolve().parents[2]
BUDGET_KIB = 6.0  # a link: 4, and what a few hundred do not share out yet
AT_ONCE = 64  # devices that make their handshake at the same time
READY_SECONDS_MAX = 60.0
LATECOMERS = 20  # devices that come when the others are there
DATA, PING, SYN, ACK = 0, 2, 1, 2
HEADER = struct.Struct(">BBHII")


def resident_kib(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise BenchmarkError(f"process {pid} has no memory")


async def make_tokens(data: Path, count: int) -> list[str]:
    sys.path[:0] = [str(ROOT / "engine"), str(ROOT / "proxy")]
    from proxy_engine import tokens
    from proxy_engine.storage.sqlite import SqliteStore, create_data_dir, database_path

    create_data_dir(data)
    store = await SqliteStore.open(database_path(data))
    now = time.time()
    made = [(await tokens.create(store, name=f"d{i}", now=now))[0] for i in range(count)]
    await store.close()
    return made


class Device:
    """One raw link; answers pings until it is closed."""

    def __init__(self, number: int, token: str) -> None:
        self.name = f"t{number}"
        self.token = token
        self._task: asyncio.Task[None] | None = None

    async def connect(self, port: int) -> None:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", port)
        self.writer.write(
            f"GET /_proxy/link HTTP/1.1\r\nHost: server\r\nAuthorization: Bearer {self.token}\r\n"
            "Connection: Upgrade\r\nUpgrade: proxy-engine-yamux\r\nProxy-Engine-Version: 1\r\n"
            "Proxy-Engine-Window: 1048576\r\n"
            f"Proxy-Engine-Instance: {self.name}\r\n\r\n".encode()
        )
        head = await self.reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 101 "):
            raise BenchmarkError(f"{self.name} was refused: {head[:40]!r}")
        tunnels = [{"name": self.name, "kind": "http"}]
        text = json.dumps({"type": "register", "tunnels": tunnels}).encode()
        record = struct.pack(">I", len(text)) + text
        self.writer.write(HEADER.pack(0, DATA, SYN, 1, len(record)) + record)
        answer = b""
        while len(answer) < 4 or len(answer) < 4 + struct.unpack(">I", answer[:4])[0]:
            answer += await self._frame()
        if json.loads(answer[4:])["refused"]:
            raise BenchmarkError(f"{self.name}: {answer[4:]!r}")
        self._task = asyncio.create_task(self._serve())

    async def _frame(self) -> bytes:
        """The next frame's payload for the control stream."""
        _, kind, flags, _, length = HEADER.unpack(await self.reader.readexactly(12))
        if kind == DATA:
            return await self.reader.readexactly(length)
        if kind == PING and flags & SYN:
            self.writer.write(HEADER.pack(0, PING, ACK, 0, length))
        return b""

    async def _serve(self) -> None:
        try:
            while True:
                await self._frame()
        except (OSError, asyncio.IncompleteReadError):
            self.writer.close()

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self.writer.close()


async def measure(port: int, pid: int, tokens: list[str]) -> tuple[int, int, float, float]:
    """Memory before and with all links, the seconds it took to make them, and the milliseconds
    until one more device has its tunnel."""
    devices = [Device(number, token) for number, token in enumerate(tokens)]
    # The first makes what every server has once: lazy imports, the first buffers.
    await devices[0].connect(port)
    before = resident_kib(pid)
    latecomers = [devices.pop() for _ in range(LATECOMERS)]
    started = time.monotonic()
    gate = asyncio.Semaphore(AT_ONCE)

    async def connect(device: Device) -> None:
        async with gate:
            await device.connect(port)

    async with asyncio.timeout(READY_SECONDS_MAX):
        await asyncio.gather(*(connect(device) for device in devices[1:]))
    seconds = time.monotonic() - started
    after = resident_kib(pid)
    waited = []
    for device in latecomers:
        started = time.monotonic()
        await device.connect(port)
        waited.append((time.monotonic() - started) * 1e3)
    devices += latecomers
    await asyncio.gather(*(device.close() for device in devices))
    return before, after, seconds, spread(waited).median


def main() -> int:
    parser = argparse.ArgumentParser(description="Memory of idle links.")
    parser.add_argument("--links", type=int, default=1000)
    parser.add_argument("--check", action="store_true", help="exit 1 when over the budget")
    parser.add_argument("--json", metavar="FILE", help="add samples to this file")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="proxy-engine-idle-") as name:
        folder = Path(name)
        data, port = folder / "data", free_port()
        tokens = asyncio.run(make_tokens(data, chosen.links + 1 + LATECOMERS))
        server = Process(
            [sys.executable, "-m", "proxy_engine", "run", "--listen", f"127.0.0.1:{port}",
             "--admin", f"127.0.0.1:{free_port()}", "--data-dir", str(data)],
            folder / "server.log",
            {"PYTHONPATH": f"{ROOT / 'engine'}:{ROOT / 'proxy'}"},
        )  # fmt: skip
        try:
            server.wait_until(lambda: accepts_connections(port))
            before, after, seconds, new_ms = asyncio.run(measure(port, server.pid, tokens))
        except (BenchmarkError, OSError, TimeoutError) as error:
            print(f"failed: {error or type(error).__name__}", file=sys.stderr)
            return 1
        finally:
            server.stop()
    each = (after - before) / chosen.links
    figures = {"links": float(chosen.links), "kib_a_link": each, "rss_mib": after / 1024}
    figures["new_link_ms"] = new_ms
    emit(chosen.json, "idle-links", "proxy-engine", [figures])
    print(
        f"{chosen.links} idle links: {before / 1024:.1f} -> {after / 1024:.1f} MiB,"
        f" {each:.2f} KiB a link, {chosen.links / seconds:.0f} links/s,"
        f" one more in {new_ms:.1f} ms"
    )
    if chosen.check and each > BUDGET_KIB:
        print(f"over budget: {BUDGET_KIB:.0f} KiB a link", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
