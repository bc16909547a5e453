"""1,000 devices that reconnect in waves to two servers: how often is the store asked?

    python benchmarks/load/reconnects.py [--devices 1000] [--waves 6] [--smoke]

Two servers share one store (an SQLite file), as they would behind a load balancer: without Redis,
with one, and with one that stalls half of the time (Debian's redis-server, started here). Half of
the devices have a token of their own, half share one for a fleet and tell their names. In each
wave all of them come back, each to either server; with them come new devices (1 in 100), broken
ones that try the same bad token again and again (1 in 100) and guesses (1 in 200), and an admin
revokes a token, makes one and now and then rotates one meanwhile.

Printed are lookups by who answered them: the server's own memory, Redis, or the store. Budget: 9
of 10 without the store. That a revoked token got in more than a second after its revocation is an
error.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.parts.processes import BenchmarkError, Process, accepts_connections, free_port
from benchmarks.parts.results import emit
from proxy_engine import tokens
from proxy_engine.grants import Scopes
from proxy_engine.storage.sqlite import SqliteStore, database_path

BUDGET = 0.9  # share of lookups
WAVE_SECONDS = 3.0  # over which devices come back
LATE = 1.0  # seconds after which a revoked token must not get in
HITS = (("memory", ("token_cache_hits", "device_cache_hits")), ("Redis", ("shared_cache_hits",)))
LOOKUPS = ("token_cache_hits", "token_cache_misses", "device_cache_hits", "device_cache_misses")


@dataclass
class Device:
    name: str
    secret: str
    address: str = "127.0.0.1"  # where it comes from
    status: int = 101  # how it is answered
    revoking_at: float = float("inf")  # asked for
    revoked_at: float = float("inf")  # ... and answered


@dataclass
class Outcome:
    statuses: Counter[int] = field(default_factory=Counter)
    waited: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


class Node:
    """One server, and its API."""

    def __init__(self, folder: Path, name: str, *options: str) -> None:
        self.port, self._admin = free_port(), free_port()
        self.secret = ""
        self.process = Process(
            [
                *(sys.executable, "-m", "proxy_engine", "run", "--workers", "1"),
                *("--listen", f"127.0.0.1:{self.port}", "--admin", f"127.0.0.1:{self._admin}"),
                *("--data-dir", str(folder / "data"), "--request-journal-max", "0", *options),
            ],
            folder / f"{name}.log",
        )
        self.process.wait_until(lambda: accepts_connections(self._admin))

    def ask(self, path: str, body: object = None) -> dict[str, int]:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self._admin}/api/v1{path}",
            None if body is None else json.dumps(body).encode(),
            {"Authorization": f"Bearer {self.secret}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return dict(json.loads(answer.read()))


async def make_devices(folder: Path, count: int) -> tuple[str, str, list[Device]]:
    """An admin's secret, the fleet's, and devices of both kinds."""
    store = await SqliteStore.open(database_path(folder / "data"))
    try:
        admin, _ = await tokens.create(store, name="bench", kind="admin", now=1.0)
        scopes = Scopes(devices=("*",))
        fleet, token = await tokens.create(store, name="fleet", now=1.0, scopes=scopes)
        devices = [Device(f"fleet-{number}", fleet) for number in range(count // 2)]
        await store.devices_claim([(each.name, token.id) for each in devices], 1.0)
        for number in range(count - len(devices)):
            secret, token = await tokens.create(store, name=f"own-{number}", now=1.0)
            devices.append(Device(token.name, secret))
        return admin, fleet, devices
    finally:
        await store.close()


class Fleet:
    def __init__(self, nodes: list[Node], fleet: str, devices: list[Device], seed: int) -> None:
        self._random = random.Random(seed)
        self._nodes = nodes
        self._fleet = fleet
        self._devices = devices
        self._broken = [
            Device(f"broken-{number}", tokens.new_secret(), f"127.0.1.{number % 250 + 1}", 401)
            for number in range(max(1, len(devices) // 100))
        ]
        self._open: list[asyncio.StreamWriter] = []
        self.outcome = Outcome()

    async def wave(self, number: int) -> None:
        """All hang up and come back, and an admin is at work."""
        for writer in self._open:
            writer.close()
        self._open.clear()
        count = len(self._devices)
        new = [Device(f"new-{number}-{n}", self._fleet) for n in range(max(1, count // 100))]
        guesses = [
            Device("guess", tokens.new_secret(), f"127.0.{2 + number % 200}.{n % 250 + 1}", 401)
            for n in range(max(1, count // 200))
        ]
        self._devices += new
        comers = [*self._devices, *self._broken, *self._broken, *guesses]
        comings = (self._come(device) for device in comers)
        await asyncio.gather(self._administrate(number), *comings)

    async def _come(self, device: Device) -> None:
        await asyncio.sleep(self._random.random() * WAVE_SECONDS)
        node = self._random.choice(self._nodes)
        started = time.monotonic()
        # Bound only where it must be: the kernel looks long for a port that is free for all peers.
        source = None if device.address == "127.0.0.1" else (device.address, 0)
        reader, writer = await asyncio.open_connection("127.0.0.1", node.port, local_addr=source)
        writer.write(
            (
                "GET /_proxy/link HTTP/1.1\r\nHost: server\r\nConnection: Upgrade\r\n"
                "Upgrade: proxy-engine-yamux\r\nProxy-Engine-Version: 1\r\n"
                f"Authorization: Bearer {device.secret}\r\nProxy-Engine-Device: {device.name}\r\n"
                f"Proxy-Engine-Instance: {os.urandom(8).hex()}\r\n\r\n"
            ).encode()
        )
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)
        status = int(head[9:12])
        outcome = self.outcome
        outcome.waited.append(time.monotonic() - started)
        outcome.statuses[status] += 1
        expected = {device.status} if started < device.revoked_at + LATE else {401}
        if time.monotonic() > device.revoking_at:
            expected.add(401)
        if status not in expected:
            outcome.wrong.append(f"{device.name}: {status}")
        if status == 101:
            self._open.append(writer)
        else:
            writer.close()

    async def _administrate(self, number: int) -> None:
        await asyncio.sleep(WAVE_SECONDS / 3)
        own = [each for each in self._devices if each.secret != self._fleet]
        live = [each for each in own if each.revoking_at == float("inf")]
        node, victim = self._random.choice(self._nodes), self._random.choice(live)
        victim.revoking_at = time.monotonic()
        await asyncio.to_thread(node.ask, f"/tokens/{victim.name}/revoke", {})
        victim.revoked_at = time.monotonic()
        await asyncio.sleep(WAVE_SECONDS / 6)
        node = self._random.choice(self._nodes)
        await asyncio.to_thread(node.ask, "/tokens", {"name": f"late-{number}"})
        if number % 3 == 0:  # who has the old secret has it for an hour more
            victim = [each for each in live if each is not victim][number]
            await asyncio.to_thread(node.ask, f"/tokens/{victim.name}/rotate", {"overlap": 3600})


def measure(folder: Path, mode: str, chosen: argparse.Namespace) -> bool:
    """One mode; whether it is within the budget."""
    folder.mkdir()
    (folder / "data").mkdir(mode=0o700)
    started: list[Process] = []
    options = ["--log-format", "json"]
    try:
        if mode != "without":
            port = free_port()
            command = ["redis-server", "--port", str(port), "--save", "", "--dir", str(folder)]
            redis = Process(command, folder / "redis.log")
            started.append(redis)
            redis.wait_until(lambda: accepts_connections(port))
            options += ["--redis-url", f"redis://127.0.0.1:{port}"]
        admin, fleet, devices = asyncio.run(make_devices(folder, chosen.devices))
        nodes = []
        for name in ("first", "second"):
            nodes.append(Node(folder, name, *options))
            started.append(nodes[-1].process)
            nodes[-1].secret = admin

        async def waves() -> Outcome:
            run = Fleet(nodes, fleet, devices, seed=7)
            for number in range(chosen.waves):
                if mode == "stalling":
                    redis.popen.send_signal(signal.SIGSTOP if number % 2 else signal.SIGCONT)
                await run.wave(number)
            return run.outcome

        outcome = asyncio.run(waves())
        stats: Counter[str] = Counter()
        for node in nodes:
            stats.update(node.ask("/stats"))
        lookups = sum(stats[name] for name in LOOKUPS)
        hits = sum(stats[name] for _, names in HITS for name in names)
        figures = {"without_store": hits / lookups, "wrong": float(len(outcome.wrong))}
        emit(chosen.json, "reconnects", mode, [figures])
        return report(mode, outcome, stats) or (chosen.smoke and not outcome.wrong)
    finally:
        for process in reversed(started):
            process.popen.send_signal(signal.SIGCONT)
            process.stop()


def report(mode: str, outcome: Outcome, stats: Counter[str]) -> bool:
    lookups = sum(stats[name] for name in LOOKUPS)
    shares = {who: sum(stats[name] for name in names) / lookups for who, names in HITS}
    waited = sorted(outcome.waited)
    p50, p99 = (waited[int(len(waited) * share)] * 1e3 for share in (0.5, 0.99))
    hit = sum(shares.values())
    print(
        f"{mode:<9} {len(waited):>7} {lookups:>8} {shares['memory']:>8.2%} {shares['Redis']:>7.2%}"
        f" {1 - hit:>7.2%} {stats['access_cache_flushes']:>8} {p50:>8.1f} {p99:>8.1f}"
        f"   {dict(outcome.statuses)}"
    )
    for line in outcome.wrong[:5]:
        print(f"  wrong: {line}")
    return hit >= BUDGET and not outcome.wrong


def main() -> int:
    parser = argparse.ArgumentParser(description="Devices that reconnect in waves.")
    parser.add_argument("--devices", type=int, default=1000)
    parser.add_argument("--waves", type=int, default=6)
    parser.add_argument("--only", action="append", help="without, with, or stalling")
    parser.add_argument("--smoke", action="store_true", help="does it run?")
    parser.add_argument("--json", metavar="FILE", help="add samples to this file")
    chosen = parser.parse_args()
    if chosen.smoke:
        chosen.devices, chosen.waves = 60, 2
    modes = chosen.only or ["without", "with", "stalling"]
    if shutil.which("redis-server") is None:
        print("no redis-server here: only without", file=sys.stderr)
        modes = modes[:1]
    titles = ("logins", "lookups", "memory", "Redis", "store", "flushes", "p50 ms", "p99 ms")
    print("Redis     " + " ".join(f"{title:>7}" for title in titles) + "   answers")
    is_good = True
    with tempfile.TemporaryDirectory(prefix="proxy-engine-reconnects-") as name:
        for mode in modes:
            try:
                is_good &= measure(Path(name) / mode, mode, chosen)
            except (BenchmarkError, OSError) as error:
                print(f"failed: {error or type(error).__name__}", file=sys.stderr)
                return 1
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
