"""A scrape of /metrics by the number of tunnels: what the control plane's thread spends on it."""

from __future__ import annotations

import pytest

from proxy_engine.metrics.routes import route_counts
from proxy_engine.metrics.text import PLAIN, render
from proxy_engine.metrics.tunnels import TunnelSeries
from proxy_engine_core.core import Engine

TUNNELS = [10, 1_000, 10_000]
WORKERS = 4
OWN = 1_000  # with series of their own, as by default


def engine_with(tunnels: int) -> Engine:
    engine = Engine("server", workers=WORKERS)
    engine.routes_apply([("set", f"host:t{each}.x", each, [], "t") for each in range(1, tunnels)])
    return engine


@pytest.mark.parametrize("tunnels", TUNNELS)
def test_a_scrape(benchmark, tunnels):
    engine = engine_with(tunnels)
    series = TunnelSeries()
    names = {each: f"tunnel-{each}" for each in range(1, tunnels)}

    def scrape() -> bytes:
        return render(series.families(route_counts(engine.route_stats()), names, OWN), PLAIN)

    text = benchmark.pedantic(scrape, rounds=20, warmup_rounds=2)
    benchmark.extra_info["bytes"] = len(text)
    benchmark.extra_info["ms"] = round(benchmark.stats.stats.min * 1e3, 3)


@pytest.mark.parametrize("tunnels", TUNNELS)
def test_the_counts_alone(benchmark, tunnels):
    engine = engine_with(tunnels)
    assert len(benchmark.pedantic(engine.route_stats, rounds=20, warmup_rounds=2))
