"""A thousand readers that stall on one link: bounded memory, and nobody else waits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.harness import wait_until
from tests.e2e.site import Growth, Site
from tests.e2e.slowreader import SlowReader, no_longer_moving
from tests.e2e.target import TargetProcess
from tests.e2e.test_load_fairness import latencies, quantiles

MIB = 1 << 20
READERS = 1000
# docs/operations.md: 256 KiB a stream and 64 MiB a link. Windows double, so blocks fit them; only
# the last that grew, up to what was left of the link's 64 MiB, may be in a block twice as large.
HELD_MIB = READERS // 4 + 64
BLOCK_MIB = 16
RSS_MORE_MIB = 32  # connections, and what everything else needs
SERIES = 3  # of requests, the best counts: somebody else on the machine may disturb one
PATIENT = {"reader_timeout_ms": 600_000}
LATENCY_FACTOR = 2
LATENCY_FLOOR = 40.0  # milliseconds; below it the machine's own noise is larger


@pytest.fixture
def targets() -> Iterator[tuple[TargetProcess, TargetProcess]]:
    """One for the readers, and one for the others that is not busy with them."""
    with TargetProcess() as bulk, TargetProcess() as small:
        yield bulk, small


def p99(values: list[float]) -> float:
    return values[len(values) * 99 // 100]


def best(site: Site) -> list[float]:
    return min((latencies(site.port, 300, "small") for _ in range(SERIES)), key=p99)


@pytest.mark.timeout(300)
def test_a_thousand_stalled_readers(
    targets: tuple[TargetProcess, TargetProcess], tmp_path: Path
) -> None:
    bulk, small = targets
    site = Site(tmp_path / "data", engine=PATIENT)
    try:
        agent = site.connect({"web": bulk.port, "small": small.port}, transport="tcp")
        alone = best(site)
        growth = Growth([site.server.popen.pid, agent.popen.pid])
        readers = [SlowReader(site.port, 64 * MIB) for _ in range(READERS)]
        wait_until(lambda: site.stats()["buffer_bytes"] > READERS * MIB // 5, 90)
        wait_until(no_longer_moving(site, READERS * MIB // 5), 60)
        beside = best(site)
        growth.look()
        stats = site.stats()
        print(
            f"server +{growth.mib[0]:.0f} MiB, agent +{growth.mib[1]:.0f} MiB, of {HELD_MIB} MiB"
            f" in windows; {stats['buffer_bytes'] / MIB:.0f} MiB in buffers;"
            f" alone {quantiles(alone)}; beside {quantiles(beside)}"
        )
        assert stats["buffer_bytes"] < (HELD_MIB + BLOCK_MIB) * MIB
        assert growth.mib[0] < HELD_MIB + BLOCK_MIB + RSS_MORE_MIB
        assert p99(beside) < max(LATENCY_FACTOR * p99(alone), LATENCY_FLOOR)
        for reader in readers:
            reader.socket.close()
        wait_until(lambda: site.stats()["buffer_bytes"] < MIB, 60)
        site.settled()
    finally:
        site.close()
