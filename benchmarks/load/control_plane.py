"""What the control plane spends while requests come at a fixed rate: CPU of its own threads.

    python benchmarks/load/control_plane.py [--rate 10000] [--modes plain,access,...] [--check]

One server and one agent for each mode, measured in turns, a paced client in front: so many requests
a second, no more, however fast they are answered. Printed is the CPU time of all of the server's
threads that are not the engine's workers, as a share of one core, and which of them spend it. Most
of it is by the batch, not by the request, so the rate is part of the figure.

    plain    as shipped: the request log is stored
    access   with `access_log`, text into a file
    json     ... as JSON
    events   somebody watches live events, as a browser would, and reads all of them
    hook     a hook that counts requests one by one (`on_request`)
    many     10,000 other tunnels are registered
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import re
import selectors
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

# Run as a file, this folder is on the path and the root is not.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.parts.client import Endpoint
from benchmarks.parts.ours import ProxyEngine
from benchmarks.parts.processes import BenchmarkError
from benchmarks.parts.results import emit
from benchmarks.parts.rounds import Figures, interleaved
from benchmarks.parts.samples import spread
from benchmarks.parts.subjects import Origin

WORKER = "engine-"  # how the names of the workers' threads begin
BUDGET_PERCENT = 10.0  # of one core, at 10,000 requests a second
TURN = 0.01  # seconds between two requests of one connection
OTHER_TUNNELS = 10_000
WARM_UP_SECONDS = 1.0
HOOK = """
from proxy_engine.hooks import Hook

class Counting(Hook):
    count = 0

    def on_request(self, requests):
        for request in requests:
            self.count += request.status >= 200
"""
WATCHER = """
import asyncio, sys
import aiohttp

async def main(url, token):
    headers = {"Authorization": "Bearer " + token}
    async with aiohttp.ClientSession(headers=headers) as session:
        url += "/api/v1/events"
        async with session.ws_connect(url, max_msg_size=0, compress=15) as events:
            print("ready", flush=True)
            async for _ in events:
                pass

asyncio.run(main(*sys.argv[1:]))
"""
EXIT_FAILED, EXIT_USAGE = 1, 2


@dataclass(frozen=True)
class Mode:
    run: tuple[str, ...] = ()
    is_watched: bool = False
    other_tunnels: int = 0


MODES = {
    "plain": Mode(),
    "access": Mode(run=("--access-log",)),
    "json": Mode(run=("--access-log", "--log-format", "json")),
    "events": Mode(is_watched=True),
    "hook": Mode(run=("--hooks", "counting:Counting")),
    "many": Mode(other_tunnels=OTHER_TUNNELS),
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="The control plane's CPU at a fixed rate.")
    parser.add_argument("--rate", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=4.0, help="per sample")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--modes", metavar="NAME,NAME", default=",".join(MODES))
    parser.add_argument("--check", action="store_true", help="exit 1 when over the budget")
    parser.add_argument("--json", metavar="FILE", help="add samples to this file")
    return parser.parse_args()


class Paced:
    """Connections that send one request every TURN, and never a second one before its answer."""

    def __init__(self, endpoint: Endpoint, rate: int) -> None:
        self._request = f"GET / HTTP/1.1\r\nHost: {endpoint.host}\r\n\r\n".encode()
        self._selector = selectors.DefaultSelector()
        self._idle = []
        for _ in range(max(1, round(rate * TURN))):
            connection = socket.create_connection(("127.0.0.1", endpoint.port), timeout=10)
            self._selector.register(connection, selectors.EVENT_READ, connection)
            self._idle.append(connection)
        self._connections = list(self._idle)
        self._size = self._answer_size()

    def _answer_size(self) -> int:
        """The bytes of an answer: all are the same."""
        [connection, *_] = self._connections
        connection.sendall(self._request)
        found = b""
        while b"\r\n\r\n" not in found:
            found += connection.recv(65536)
        head, _, body = found.partition(b"\r\n\r\n")
        [length] = [
            int(line[15:])
            for line in head.lower().split(b"\r\n")
            if line[:15] == b"content-length:"
        ]
        while len(body) < length:
            body += connection.recv(65536)
        return len(head) + 4 + length

    def run(self, seconds: float) -> int:
        """Requests that were answered."""
        answered = 0
        left: dict[socket.socket, int] = {}
        end = time.monotonic() + seconds
        due = time.monotonic()
        while (now := time.monotonic()) < end or left:
            if now >= due and now < end:
                due = max(due + TURN, now)  # what could not be asked in time is not asked for
                idle, self._idle = self._idle, []
                for connection in idle:
                    connection.sendall(self._request)
                    left[connection] = self._size
            for key, _ in self._selector.select(max(0.0, due - time.monotonic())):
                connection = key.data
                got = len(connection.recv(65536))
                if not got:
                    raise BenchmarkError("a connection was closed")
                left[connection] -= got
                if left[connection] <= 0:
                    del left[connection]
                    self._idle.append(connection)
                    answered += 1
        return answered

    def close(self) -> None:
        for connection in self._connections:
            connection.close()


def python_time(pid: int) -> tuple[float, float]:
    """CPU seconds of the event loop, and of all other threads that are no workers."""
    loop = others = 0.0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):  # it has ended
            if (task / "comm").read_text().startswith(WORKER):
                continue
            seconds = int((task / "schedstat").read_text().split()[0]) / 1e9
            if task.name == str(pid):
                loop = seconds
            else:
                others += seconds
    return loop, others


def measure(pid: int, client: Paced, seconds: float) -> Figures:
    loop, others = python_time(pid)
    started = time.monotonic()
    answered = client.run(seconds)
    elapsed = time.monotonic() - started
    loop_after, others_after = python_time(pid)
    return {
        "rate": answered / elapsed,
        "loop_percent": 100 * (loop_after - loop) / elapsed,
        "threads_percent": 100 * (others_after - others) / elapsed,
        "percent": 100 * (loop_after - loop + others_after - others) / elapsed,
    }


class Site:
    """A server in one of the modes, with its agent and whoever watches it."""

    def __init__(self, mode: Mode, folder: Path, origin: int) -> None:
        folder.mkdir()
        (folder / "counting.py").write_text(HOOK)
        self._subject = ProxyEngine(folder.name, run=("--workers", "1", *mode.run))
        self._subject.environment["PYTHONPATH"] += f":{folder}"
        self._watcher: subprocess.Popen[str] | None = None
        try:
            running = self._subject.start(folder / "site", origin)
            self.pid = running.proxies["server"].pid
            self.endpoint = running.endpoint
            if mode.other_tunnels:
                asyncio.run(_register(folder / "site" / "data", mode.other_tunnels))
            if mode.is_watched:
                self._watch(folder)
        except BaseException:
            self.stop()
            raise

    def _watch(self, folder: Path) -> None:
        data = str(folder / "site" / "data")
        made = subprocess.run(
            [*self._subject.command, "token", "create", "--kind", "admin", "--name", "watcher"]
            + ["--data-dir", data],
            env={**os.environ, **self._subject.environment},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        log = (folder / "site" / "server.log").read_text()
        admin = re.search(r"admin=(\S+)", log)
        assert admin is not None
        self._watcher = subprocess.Popen(
            [sys.executable, "-c", WATCHER, f"http://{admin[1]}", made.stdout.strip()],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._watcher.stdout is not None
        if self._watcher.stdout.readline() != "ready\n":
            raise BenchmarkError("nobody watches the events")

    def stop(self) -> None:
        if self._watcher is not None:
            self._watcher.kill()
            self._watcher.communicate()
        for process in reversed(self._subject.started):
            process.stop()


async def _register(data: Path, count: int) -> None:
    """So many more tunnels, of a device that never connects."""
    from proxy_engine.storage.sqlite import SqliteStore

    store = await SqliteStore.open(data / "proxy-engine.sqlite")
    try:
        device = await store.device_add("elsewhere", {}, time.time())
        claims = [(f"other-{number}", "http", device.id) for number in range(count)]
        for start in range(0, count, 1000):
            await store.tunnels_claim(claims[start : start + 1000], time.time())
    finally:
        await store.close()


def run_rounds(folder: Path, chosen: argparse.Namespace) -> dict[str, list[Figures]]:
    origin = Origin(folder / "origin", 0, [])
    names = chosen.modes.split(",")
    sites: dict[str, Site] = {}
    try:
        for name in names:
            sites[name] = Site(MODES[name], folder / name, origin.port)

        def sample(name: str) -> Figures:
            client = Paced(sites[name].endpoint, chosen.rate)
            try:
                client.run(WARM_UP_SECONDS)
                return measure(sites[name].pid, client, chosen.seconds)
            finally:
                client.close()

        return interleaved(names, chosen.rounds, sample)
    finally:
        for site in sites.values():
            site.stop()
        origin.process.stop()


def main() -> int:
    chosen = arguments()
    if unknown := set(chosen.modes.split(",")) - MODES.keys():
        print(f"no such mode: {', '.join(sorted(unknown))}", file=sys.stderr)
        return EXIT_USAGE
    with tempfile.TemporaryDirectory(prefix="proxy-engine-control-") as folder:
        try:
            samples = run_rounds(Path(folder), chosen)
        except BenchmarkError as error:
            print(f"failed: {error}", file=sys.stderr)
            return EXIT_FAILED
    print(f"{'':10}{'requests/s':>12}{'event loop':>12}{'threads':>10}{'of a core':>22}")
    for name, rounds in samples.items():
        emit(chosen.json, "control-plane", name, rounds)
        of = {key: spread(each[key] for each in rounds) for key in rounds[0]}
        share = of["percent"]
        print(
            f"  {name:8}{of['rate'].median:>12,.0f}{of['loop_percent'].median:>10.1f} %"
            f"{of['threads_percent'].median:>8.1f} %"
            f"{f'{share.median:.1f} % [{share.least:.1f}-{share.most:.1f}]':>22}"
        )
    worst = max(spread(each["percent"] for each in rounds).median for rounds in samples.values())
    print(f"  {'OVER' if worst > BUDGET_PERCENT else 'within'} the budget, {BUDGET_PERCENT:.0f} %")
    return EXIT_FAILED if chosen.check and worst > BUDGET_PERCENT else 0


if __name__ == "__main__":
    sys.exit(main())
