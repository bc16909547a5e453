"""The metrics of an agent: those of a server that mean something here, under the same names."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

import proxy_engine
from proxy_engine.metrics import process
from proxy_engine.metrics.catalogue import STATS, WORKER_STATS
from proxy_engine.metrics.text import Numbers, family, render
from proxy_engine_core.core import TLS_LIBRARY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from proxy_engine_core.core import Engine

PREFIX = "proxy_engine_"
# Beginnings of the names of what an agent's engine counts; the rest is about visitors and routes.
COUNTED = (
    *("link", "stream", "target", "direct_", "udp_datagrams", "tls_", "connections", "control_"),
    *("buffer_", "memory_", "pings_", "spliced_", "pipes_", "files_", "slow_turns"),
)


def text(engine: Engine, *, links: int, tunnels: int, started_at: float, media_type: str) -> bytes:
    """
    Args:
        links, tunnels: that serve, and that the server has registered, now.
        started_at: seconds since the epoch.
    """
    build = (proxy_engine.__version__, platform.python_version(), TLS_LIBRARY)
    families = [
        family(f"{PREFIX}build_info", [(build, 1)]),
        family(f"{PREFIX}start_time_seconds", [((), started_at)]),
        family(f"{PREFIX}links", [((), links)]),
        family(f"{PREFIX}tunnels", [((), tunnels)]),
        *_counted(engine),
        *_workers(engine),
        *process.families(),
    ]
    return render(families, media_type)


def _counted(engine: Engine) -> list[Numbers]:
    samples: dict[str, list[tuple[Sequence[str], float]]] = {}
    for stat, value in engine.stats().items():
        source = STATS.get(stat)
        if source is not None and stat.startswith(COUNTED):
            samples.setdefault(source.metric, []).append((source.values, value * source.scale))
    return [family(name, values) for name, values in samples.items()]


def _workers(engine: Engine) -> list[Numbers]:
    workers = [engine.worker_stats(index) for index in range(engine.workers)]
    return [
        family(
            source.metric,
            [((str(i),), stats[stat] * source.scale) for i, stats in enumerate(workers)],
        )
        for stat, source in WORKER_STATS.items()
    ]
