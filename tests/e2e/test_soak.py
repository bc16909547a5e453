"""Everything at once for minutes: visitors of every habit, links that break, processes that die.

    PROXY_ENGINE_SOAK_SECONDS=120 PROXY_ENGINE_SOAK_SEED=7 pytest -s -m soak

At the end the law holds: every request that was accepted was completed, answered by the
proxy, or aborted; the log says the same as the visitors; all that was held is given back.
Under the sanitizers (scripts/test-asan tells how) a report of theirs fails the test.
"""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.e2e.faultproxy import FaultProxy, random_pieces, whole
from tests.e2e.harness import CARRIERS, wait_until
from tests.e2e.processes import Process
from tests.e2e.site import Site, rss_kib
from tests.e2e.soakvisitors import Ledger, SoakVisitor
from tests.e2e.target import Target, TargetProcess

SECONDS = float(os.environ.get("PROXY_ENGINE_SOAK_SECONDS", "60"))
SEED = int(os.environ.get("PROXY_ENGINE_SOAK_SEED", "0")) or random.SystemRandom().getrandbits(32)
VISITORS = 16
ENGINE = {"pool_idle_ms": 300, "ping_interval_ms": 300, "link_stall_ms": 1500}
SETTLE = 60.0  # seconds for the last visitor's last request, the slowest timeout included
# A leak of 1 KiB with every request would be some 200 KiB/s; allocators wander less than this.
RSS_SLOPE_MAX = 40.0  # KiB/s over the second half
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


class Weight:
    """Resident memory of a process, sample by sample."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.samples: list[tuple[float, int]] = []

    def run(self, stop: threading.Event) -> None:
        while not stop.wait(0.5):
            self.samples.append((time.monotonic(), rss_kib(self.pid)))

    def slope(self) -> float:
        """KiB per second over the second half, by least squares."""
        half = self.samples[len(self.samples) // 2 :]
        mean_time = sum(when for when, _ in half) / len(half)
        mean_size = sum(size for _, size in half) / len(half)
        above = sum((when - mean_time) * (size - mean_size) for when, size in half)
        return above / sum((when - mean_time) ** 2 for when, _ in half)


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
        if outcomes + now["auth_asked"] != now["requests"] or now["buffer_bytes"]:
            return None
        return now if now["request_log_written"] >= now["log_records"] else None

    try:
        stats = wait_until(look, SETTLE)
    except AssertionError:
        raise AssertionError(f"the law is broken: {site.stats()}") from None
    assert stats is not None
    assert stats["log_records"] == stats["requests"] - stats["auth_asked"], stats
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


def assert_log_agrees(site: Site, ledger: Ledger) -> None:
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
    assert not found, found[:5]


@pytest.mark.soak
@pytest.mark.timeout(SECONDS + 300)
@pytest.mark.parametrize("carrier", CARRIERS)
def test_a_long_time_of_everything_at_once(tmp_path: Path, carrier: str) -> None:
    print(f"\nsoak {carrier}, seed {SEED}, {SECONDS:.0f} s")
    site, ledger = Site(tmp_path / "data", engine=ENGINE), Ledger()
    with Target() as target, FaultProxy(site.port) as link:
        faults = Faults(site, link, SEED, carrier)
        faults.tunnels = {"web": target.port, "other": faults.other.port}
        try:
            faults.connect()
            assert site.get("web", "/kib").status == 200
            wait_until(lambda: site.stats()["buffer_bytes"] == 0)
            wait_until(lambda: target.connections == 0)
            assert site.agent is not None
            fds = site.fds()
            weight = Weight(site.server.popen.pid)
            visitors = [
                SoakVisitor(f"v{number}", SEED + 1 + number, site.port, ledger)
                for number in range(VISITORS)
            ]
            with running(weight, faults, *visitors) as stop:
                stop.wait(SECONDS)
                stopped = time.monotonic()
            joined = time.monotonic() - stopped
            assert faults.error is None, faults.error
            faults.calm()
            assert site.get("web", "/kib").status == site.get("other", "/kib").status == 200
            print(f"links down: {dict(sorted(links_down(site).items()))}")
            stats = assert_settled(site)
            settled = time.monotonic() - stopped - joined
            print(
                f"requests {stats['requests']} = {stats['responses']} complete"
                f" + {stats['responses_local']} local + {stats['requests_aborted']} aborted"
                f" + {stats['auth_asked']} links; {dict(sorted(ledger.totals.items()))};"
                f" faults {dict(sorted(faults.totals.items()))};"
                f" rss {weight.slope():+.1f} KiB/s, {weight.samples[-1][1]} KiB;"
                f" ended in {joined:.1f} s, settled in {settled:.1f} s"
            )
            assert not ledger.wrong, ledger.wrong[:10]
            assert_log_agrees(site, ledger)
            agent = site.agent
            wait_until(lambda: target.connections == 0, SETTLE)
            wait_until(
                lambda: all(now <= then for now, then in zip(site.fds(), fds, strict=True)), SETTLE
            )
            # Uploads that were not whole were never taken for whole ones, and none came twice.
            uploads = [line for line in target.complete if line.startswith("POST") and "?" in line]
            assert len(uploads) == len(set(uploads))
            assert SANITIZED or SECONDS < 60 or weight.slope() < RSS_SLOPE_MAX
            for process in (agent, site.server):
                assert process.popen.poll() is None
                process.signal(signal.SIGTERM)
                assert process.exit_code() == 0
            for process in faults.killed:
                assert process.popen.returncode in (0, -signal.SIGKILL), process.err
            output = site.output()
            assert not any(report in output for report in REPORTS), output[-4000:]
        finally:
            site.close()
            faults.other.__exit__(None, None, None)
