"""All metrics, as they are when somebody asks. Nothing is counted here: the engine's workers and
the parts of the control plane have counters of their own, and this reads them."""

from __future__ import annotations

import asyncio
import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import proxy_engine
from proxy_engine.metrics import process
from proxy_engine.metrics.catalogue import STATS, WORKER_STATS
from proxy_engine.metrics.routes import RouteCounts, route_counts
from proxy_engine.metrics.store import BOUNDS as STORE_BOUNDS
from proxy_engine.metrics.store import MeasuredStore
from proxy_engine.metrics.text import Buckets, Numbers, family, histogram, render
from proxy_engine.metrics.tunnels import BOUNDS, TunnelSeries
from proxy_engine_core.core import TLS_LIBRARY

if TYPE_CHECKING:
    from collections.abc import Sized

    from proxy_engine.settings.config import Settings
    from proxy_engine.storage import Store
    from proxy_engine.tunnels.routes import TunnelTable
    from proxy_engine_core.core import Engine

LOOK_STEP = 0.001  # seconds between looks whether the workers have looked at their links
LOOK_STEPS = 50  # at most: a turn takes far less
PREFIX = "proxy_engine_"


class Exporter:
    """
    Args:
        stats: what /api/v1/stats shows.
        settings, is_draining: as they are now.
    """

    def __init__(
        self,
        engine: Engine,
        store: Store,
        table: TunnelTable,
        links: Sized,
        *,
        stats: Callable[[], Mapping[str, int]],
        settings: Callable[[], Settings],
        is_draining: Callable[[], bool],
        started_at: float,
    ) -> None:
        self._engine = engine
        self._store = store
        self._table = table
        self._links = links
        self._stats = stats
        self._settings = settings
        self._is_draining = is_draining
        self._started_at = started_at
        self._tunnels = TunnelSeries()
        self._took = 0.0

    async def scrape(self, media_type: str) -> bytes:
        """All of it as text. Several at once are no problem."""
        await self._look()
        began = time.perf_counter()
        tunnels = self._tunnels.families(*self._routes())
        text = render([*tunnels, *self._numbers()], media_type)
        self._took = time.perf_counter() - began
        return text

    async def numbers(self) -> list[Numbers | Buckets]:
        """All of it as numbers."""
        await self._look()
        return [*self._tunnels.numbers(*self._routes()), *self._numbers()]

    async def _look(self) -> None:
        """Let the workers look at their links; what they saw before will do if they are busy."""
        try:
            wanted = self._engine.links_look()
        except RuntimeError:
            return  # the engine has stopped
        for _ in range(LOOK_STEPS):
            if self._engine.links_seen()[0] >= wanted:
                return
            await asyncio.sleep(LOOK_STEP)

    def _routes(self) -> tuple[Iterable[RouteCounts], dict[int, str], int]:
        """What TunnelSeries asks for."""
        return (
            route_counts(self._engine.route_stats()),
            {tunnel.id: tunnel.name for tunnel in self._table},
            self._settings().metrics_tunnels,
        )

    def _numbers(self) -> list[Numbers | Buckets]:
        """All but the counts of tunnels."""
        return [
            *self._server(),
            *self._tunnel_families(),
            *self._link_families(),
            *self._counted(),
            *self._workers(),
            *self._store_families(),
            *process.families(),
        ]

    def _server(self) -> Iterable[Numbers]:
        build = (proxy_engine.__version__, platform.python_version(), TLS_LIBRARY)
        yield family(PREFIX + "build_info", [(build, 1)])
        yield family(PREFIX + "start_time_seconds", [((), self._started_at)])
        yield family(PREFIX + "draining", [((), int(self._is_draining()))])
        yield family(PREFIX + "scrape_duration_seconds", [((), self._took)])

    def _tunnel_families(self) -> Iterable[Numbers]:
        yield family(PREFIX + "tunnels", [((), len(self._table))])
        yield family(PREFIX + "tunnels_without_series", [((), self._tunnels.without)])
        shown = [tunnel for tunnel in self._table if self._tunnels.has(tunnel.id)]
        yield family(
            PREFIX + "tunnel_online",
            [((tunnel.name,), int(bool(self._table.links(tunnel)))) for tunnel in shown],
        )

    def _link_families(self) -> Iterable[Numbers | Buckets]:
        _, seen, trips = self._engine.links_seen()
        yield family(PREFIX + "links", [((), len(self._links))])
        for name, key, scale in (
            ("link_streams", "streams", 1.0),
            ("link_requests_waiting", "streams_waiting", 1.0),
            ("link_queue_bytes", "queue_bytes", 1.0),
            ("link_round_trip_max_seconds", "round_trip_us_max", 1e-6),
            ("link_window_extra_bytes", "window_extra_bytes", 1.0),
            ("link_windows_grown_total", "windows_grown", 1.0),
            ("link_window_withheld_bytes_total", "window_withheld_bytes", 1.0),
        ):
            yield family(PREFIX + name, [((), seen[key] * scale)])
        yield histogram(
            PREFIX + "link_round_trip_seconds", BOUNDS, [((), trips[1:], trips[0] / 1e6)]
        )

    def _counted(self) -> Iterable[Numbers]:
        samples: dict[str, list[tuple[Sequence[str], float]]] = {}
        for stat, value in self._stats().items():
            source = STATS.get(stat)
            if source is not None:
                samples.setdefault(source.metric, []).append((source.values, value * source.scale))
        return [family(name, values) for name, values in samples.items()]

    def _workers(self) -> Iterable[Numbers]:
        workers = [self._engine.worker_stats(index) for index in range(self._engine.workers)]
        for stat, source in WORKER_STATS.items():
            yield family(
                source.metric,
                [((str(i),), stats[stat] * source.scale) for i, stats in enumerate(workers)],
            )

    def _store_families(self) -> Iterable[Numbers | Buckets]:
        if not isinstance(self._store, MeasuredStore):
            return
        timings = sorted(self._store.timings.items())
        yield histogram(
            PREFIX + "store_duration_seconds",
            STORE_BOUNDS,
            [((name,), timing.counts, timing.total) for name, timing in timings],
        )
        yield family(
            PREFIX + "store_errors_total",
            [((name,), timing.errors) for name, timing in timings],
        )
