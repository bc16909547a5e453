"""Everything at once for minutes: visitors of every habit, links that break, processes that die.

    scripts/soak --seconds 600 --carrier ws --seed 7

Two agents: one is killed and replaced again and again, the other lives as long as the server; both
have their links through the same faults. In the end the law holds: every request that was accepted
was completed, answered by the proxy, or aborted; the log says the same as the visitors; all that
was held is given back. The memory of server and steady agent is flat once they are warm.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tests.e2e.faultproxy import FaultProxy, random_pieces, whole
from tests.e2e.harness import CARRIERS, wait_until
from tests.e2e.processes import Process
from tests.e2e.site import Site, fd_count, rss_kib
from tests.e2e.soakvisitors import Ledger, Ports, SoakVisitor
from tests.e2e.target import Target, TargetProcess
from tests.e2e.test_udp import service as echo_datagrams

VISITORS = 16
ENGINE = {
    "pool_idle_ms": 300, "ping_interval_ms": 300, "link_stall_ms": 1500,
    "udp_timeout_ms": 3000, "udp_brief_timeout_ms": 1000,
    # Its pages are touched for the first time one by one: a small one is warm soon.
    "log_ring_size": 512 * 1024,
}  # fmt: skip
SETTLE = 60.0  # seconds for the last visitor's last request, the slowest timeout included
# A leak of 1 KiB with every request would be some 200 KiB/s; allocators wander less than this.
RSS_GROWTH_MAX = 1500.0  # KiB, by the slope over the second half
RSS_SECONDS_MIN = 300.0  # seconds; a shorter run is all warm-up
SAMPLE_INTERVAL = 0.5  # seconds
POOL = 4  # direct connections that a link has ready
LINKS_MORE = 4  # links of both agents beyond their first ones
FDS_MORE = LINKS_MORE * (1 + POOL) + 2 * 8  # ... and the pipes that a worker keeps
REPORTS = (
    "AddressSanitizer", "runtime error:", "LeakSanitizer", "CHECK failed", "Traceback", "Fatal",
)  # fmt: skip
SANITIZED = "asan" in os.environ.get("LD_PRELOAD", "")


class Faults:
    """Breaks one thing after the other, and sees to it that it comes back."""

    def __init__(self, site: Site, link: FaultProxy, seed: int, carrier: str) -> None:
        self.site = site
        self.link = link
        self.carrier = carrier
        self.dice = random.Random(seed)
        self.totals: Counter[str] = Counter()
        self.tunnels: dict[str, int] = {}
        self.killed: list[Process] = []
        self.other = TargetProcess()
        self.error: BaseException | None = None

    def run(self, stop: threading.Event) -> None:
        try:
            while not stop.wait(self.dice.uniform(0.2, 2.0)):
                name = self.dice.choice(
                    ["cut", "reset", "stall", "stall", "pieces", "pieces", "delay", "kill_agent",
                     "end_agent", "kill_target"]
                )  # fmt: skip
                getattr(self, name)(stop)
                self.totals[name] += 1
                self.come_back()
        except BaseException as error:
            self.error = error
            raise

    def cut(self, _: threading.Event) -> None:
        self.link.cut()

    def reset(self, _: threading.Event) -> None:
        self.link.reset()

    def stall(self, stop: threading.Event) -> None:
        """Short ones are survived, long ones are given up."""
        self.link.stall()
        stop.wait(self.dice.choice([0.05, 0.2, 0.5, 2.5]))
        self.link.resume()

    def pieces(self, stop: threading.Event) -> None:
        largest = self.dice.choice([3, 64, 1500])
        self.link.pieces = random_pieces(self.dice.getrandbits(32), largest)
        stop.wait(self.dice.uniform(0.1, 1.5))
        self.link.pieces = whole()

    def delay(self, stop: threading.Event) -> None:
        self.link.delay = 0.01
        stop.wait(self.dice.uniform(0.1, 1.0))
        self.link.delay = 0.0

    def kill_agent(self, _: threading.Event) -> None:
        self.replace_agent(signal.SIGKILL)

    def end_agent(self, _: threading.Event) -> None:
        self.replace_agent(signal.SIGTERM)

    def replace_agent(self, how: signal.Signals) -> None:
        agent = self.site.agent
        assert agent is not None
        assert agent.popen.poll() is None, f"the agent ended by itself: {agent.err}"
        agent.signal(how)
        agent.popen.wait(SETTLE)
        self.killed.append(agent)
        self.connect()

    def kill_target(self, stop: threading.Event) -> None:
        """The second target goes, and is back on its port."""
        self.other.__exit__(None, None, None)
        stop.wait(self.dice.uniform(0, 0.5))
        self.other = TargetProcess(self.tunnels["other"])

    def connect(self) -> None:
        # A short grace: what drains serves no new visitor.
        self.site.connect(
            self.tunnels, "--grace", "1s", transport=self.carrier, server_port=self.link.port
        )

    def come_back(self) -> None:
        """Online again. An agent that was cut off often waits long: then a new one is due."""
        for name in self.tunnels:
            try:
                wait_until(partial(self.site.is_online, name), 2.5)
            except AssertionError:
                self.replace_agent(signal.SIGTERM)
                self.totals["agents that waited too long"] += 1

    def calm(self) -> None:
        self.link.pieces, self.link.delay = whole(), 0.0
        self.link.resume()
        self.come_back()


class Sample(NamedTuple):
    time: float  # seconds
    rss: int  # KiB
    fds: int
    buffers: int  # KiB that the engine's pools of buffers have taken at most, so far

    @property
    def rest(self) -> int:
        """Memory without what the worst moment has taken: what is free again is not given back."""
        return self.rss - self.buffers


class Weight:
    """Memory and file descriptors of a process, sample by sample."""

    def __init__(self, name: str, process: Process, buffers: Callable[[], int] = lambda: 0) -> None:
        self.name = name
        self.pid = process.popen.pid
        self.buffers = buffers  # bytes
        self.buffers_max = 0
        self.samples = [self.look()]

    def look(self) -> Sample:
        self.buffers_max = max(self.buffers_max, self.buffers() // 1024)
        return Sample(time.monotonic(), rss_kib(self.pid), fd_count(self.pid), self.buffers_max)

    def run(self, stop: threading.Event) -> None:
        while not stop.wait(SAMPLE_INTERVAL):
            self.samples.append(self.look())

    def has_closed_all(self) -> bool:
        """Whether it has no more descriptors than at first; busy agents make more links."""
        return self.look().fds <= self.samples[0].fds + FDS_MORE

    @property
    def slope(self) -> float:
        """KiB per second over the second half, by least squares."""
        half = self.samples[len(self.samples) // 2 :]
        mean_time = sum(sample.time for sample in half) / len(half)
        mean_rest = sum(sample.rest for sample in half) / len(half)
        above = sum((sample.time - mean_time) * (sample.rest - mean_rest) for sample in half)
        return above / sum((sample.time - mean_time) ** 2 for sample in half)

    @property
    def growth(self) -> float:
        """KiB that this slope made over the second half."""
        half = self.samples[len(self.samples) // 2 :]
        return self.slope * (half[-1].time - half[0].time)

    def __str__(self) -> str:
        last = self.samples[-1]
        return f"{self.name} {last.rss / 1024:.1f} MiB {last.fds} fds"


class Report:
    """A line now and then."""

    def __init__(self, site: Site, weights: list[Weight], interval: float) -> None:
        self.site = site
        self.weights = weights
        self.interval = interval

    def run(self, stop: threading.Event) -> None:
        started = time.monotonic()
        while not stop.wait(self.interval):
            stats = self.site.stats()
            print(
                f"{time.monotonic() - started:5.0f} s  {', '.join(map(str, self.weights))};"
                f" {law(stats)}; {stats['connections']} connections,"
                f" {stats['buffer_bytes'] // 1024} KiB in buffers"
                f" (at most {stats['buffer_bytes_max'] // 1024},"
                f" {stats['buffer_bytes_kept'] // 1024} free)",
                flush=True,
            )


def ports_of(agent: Process, *schemes: str) -> list[int]:
    """The public ports of its tunnels of these kinds."""
    urls = [each["url"] for each in agent.printed("connected")["tunnels"]]
    return [
        int(url.rpartition(":")[2])
        for scheme in schemes
        for url in urls
        if url.startswith(f"{scheme}://")
    ]


def pooled(stats: dict[str, int]) -> int:
    """Bytes of buffers, those that are free included: a pool keeps some of each size."""
    return max(stats["buffer_bytes_max"], stats["buffer_bytes"] + stats["buffer_bytes_kept"])


def law(stats: dict[str, int]) -> str:
    return (
        f"requests {stats['requests']} = {stats['responses']} complete"
        f" + {stats['responses_local']} answered + {stats['requests_aborted']} aborted"
        f" + {stats['auth_asked']} links"
        f" + {stats['direct_tickets_used']} direct connections"
    )


@contextmanager
def running(*bodies: object) -> Iterator[threading.Event]:
    """Each body.run(stop) in a thread of its own until the block ends."""
    stop = threading.Event()
    threads = [
        threading.Thread(target=body.run, args=(stop,), daemon=True)  # type: ignore[attr-defined]
        for body in bodies
    ]
    for thread in threads:
        thread.start()
    try:
        yield stop
    finally:
        stop.set()
        deadline = time.monotonic() + SETTLE
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
    assert not any(thread.is_alive() for thread in threads), "somebody hangs"


def assert_settled(site: Site) -> dict[str, int]:
    """The law, once nothing is under way."""

    def look() -> dict[str, int] | None:
        now = site.stats()
        outcomes = now["responses"] + now["responses_local"] + now["requests_aborted"]
        # Devices ask for links and direct connections, which are requests, too; visitors by UDP ask
        # for nothing, and have their record when they have been silent for long enough.
        asked = now["auth_asked"] + now["direct_tickets_used"]
        if outcomes + asked != now["requests"] or now["buffer_bytes"]:
            return None
        if now["log_records"] != outcomes + now["udp_visitors"]:
            return None
        return now if now["request_log_written"] >= now["log_records"] else None

    try:
        stats = wait_until(look, SETTLE)
    except AssertionError:
        raise AssertionError(f"the law is broken: {site.stats()}") from None
    assert stats is not None
    assert stats["log_dropped"] == stats["memory_errors"] == 0, stats
    wrong = {name: stats[name] for name in ("bad_responses", "link_protocol_errors")}
    assert not any(wrong.values()), wrong
    return stats


def links_down(site: Site) -> Counter[str]:
    """How often each side gave a link up for which reason."""
    found: Counter[str] = Counter()
    for process in site.processes:
        side = "server" if process is site.server else "agent"
        for line in process.err:
            entry = json.loads(line) if line.startswith("{") else {}
            if entry.get("message") in ("link down", "not connected, trying again"):
                found[f"{side}: {entry['reason']}"] += 1
    return found


def log_disagreements(site: Site, ledger: Ledger) -> list[str]:
    rows = {row["request_id"]: row for row in site.rows()}
    found = [
        f"complete with {status} for the visitor, in the log {rows.get(request)}"
        for request, status in ledger.complete.items()
        if request not in rows
        or rows[request]["status"] != status
        or (status == 200 and rows[request]["reason"])
    ]
    found += [
        f"cut for the visitor, in the log {rows.get(request)}"
        for request in ledger.cut
        if request not in rows or not rows[request]["reason"]
    ]
    return found


def soak(data_dir: Path, carrier: str, seconds: float, seed: int, interval: float) -> list[str]:
    """Run it; what it says goes to stdout. Returns what was wrong in the end, a line each.

    Raises: AssertionError for what makes going on pointless.
    """
    print(f"\nsoak {carrier}, seed {seed}, {seconds:.0f} s", flush=True)
    site = Site(data_dir, engine=ENGINE, server_args=["--tcp-ports", "1024-65535"])
    ledger = Ledger()
    faults = None
    try:
        with Target() as target, FaultProxy(site.port) as link, echo_datagrams() as udp:
            steady = site.connect(
                {"steady": target.port}, "--tcp", f"0=127.0.0.1:{target.port}",
                "--udp", f"0=127.0.0.1:{udp}", "--pool", str(POOL),
                transport=carrier, server_port=link.port, token=site.make_token("Steady"),
            )  # fmt: skip
            ports = Ports(site.port, *ports_of(steady, "tcp", "udp"))
            faults = Faults(site, link, seed, carrier)
            faults.tunnels = {"web": target.port, "other": faults.other.port}
            faults.connect()
            assert site.get("web", "/kib").status == site.get("steady", "/kib").status == 200
            wait_until(lambda: site.stats()["buffer_bytes"] == 0)
            wait_until(lambda: target.connections == 0)
            weights = [
                Weight("server", site.server, lambda: pooled(site.stats())),
                Weight("agent", steady),
            ]
            visitors = [
                SoakVisitor(f"v{number}", seed + 1 + number, ports, ledger)
                for number in range(VISITORS)
            ]
            with running(*weights, Report(site, weights, interval), faults, *visitors) as stop:
                stop.wait(seconds)
                stopped = time.monotonic()
            joined = time.monotonic() - stopped
            assert faults.error is None, faults.error
            faults.calm()
            # It may just have begun its longest wait for another try.
            wait_until(lambda: site.is_online("steady"), 2 * SETTLE)
            for name in ("web", "other", "steady"):
                assert site.get(name, "/kib").status == 200
            stats = assert_settled(site)
            settled = time.monotonic() - stopped - joined
            wait_until(lambda: target.connections == 0, SETTLE)
            for weight in weights:
                wait_until(weight.has_closed_all, SETTLE)
            print(
                f"{law(stats)}\n{dict(sorted(ledger.totals.items()))}\n"
                f"faults {dict(sorted(faults.totals.items()))}\n"
                f"links down {dict(sorted(links_down(site).items()))}\n"
                f"ended in {joined:.1f} s, settled in {settled:.1f} s; file descriptors as before"
            )
            for weight in weights:
                print(
                    f"{weight}: {weight.slope:+.2f} KiB/s over the second half,"
                    f" {weight.growth:+.0f} KiB in all, but for buffers"
                )
            return [
                *ledger.wrong[:10],
                *log_disagreements(site, ledger)[:5],
                *uploads_taken_twice(target),
                *([] if SANITIZED or seconds < RSS_SECONDS_MIN else leaks(weights)),
                *endings(site, steady, faults.killed),
            ]
    finally:
        site.close()
        if faults is not None:
            faults.other.__exit__(None, None, None)


def uploads_taken_twice(target: Target) -> list[str]:
    """Uploads that were not whole were never taken for whole ones, and none came twice."""
    uploads = Counter(line for line in target.complete if line.startswith("POST") and "?" in line)
    return [f"{line} came {count} times" for line, count in uploads.items() if count > 1]


def leaks(weights: list[Weight]) -> list[str]:
    return [
        f"the memory of {weight.name} grows: {weight.slope:+.2f} KiB/s"
        for weight in weights
        if weight.growth > RSS_GROWTH_MAX
    ]


def endings(site: Site, steady: Process, killed: list[Process]) -> list[str]:
    """Everybody ends when told to, and nobody has anything to complain of."""
    assert site.agent is not None
    found = []
    for process in (steady, site.agent, site.server):
        process.signal(signal.SIGTERM)
        if process.exit_code() != 0:
            found.append(f"ended with {process.popen.returncode}: {process.err[-5:]}")
    found += [
        f"a killed agent ended with {process.popen.returncode}: {process.err[-5:]}"
        for process in killed
        if process.popen.returncode not in (0, -signal.SIGKILL)
    ]
    output = site.output()
    return found + [f"{report} in the output" for report in REPORTS if report in output]


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/soak", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--seconds", type=float, default=600.0, help="for each carrier (600)")
    parser.add_argument("--carrier", choices=CARRIERS, help="one of them only")
    parser.add_argument("--seed", type=int, help="of a run to be repeated")
    parser.add_argument("--interval", type=float, default=10.0, help="seconds between lines (10)")
    words = parser.parse_args()
    seed = words.seed if words.seed is not None else random.SystemRandom().getrandbits(32)
    wrong = []
    for carrier in [words.carrier] if words.carrier else CARRIERS:
        with tempfile.TemporaryDirectory() as folder:
            wrong += soak(Path(folder) / "data", carrier, words.seconds, seed, words.interval)
    print("\n".join(["verdict: wrong", *wrong]) if wrong else "verdict: flat, and the law holds")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
