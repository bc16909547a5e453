"""How many links each run of an agent should have now, and telling it so.

What a turn of a worker sends for a device is one write for each link, so links cost: one
serves best until its worker has more to do than a core can well do. Only then does another
one pay, on another worker. Once a second:

    a run gets one more    if a worker it uses takes `busy_share` of a core, its own links
                           have at least half of that each, and there is a worker without a
                           link of it that takes less than half of that
    ... and one fewer      if for FEWER_AFTER seconds one fewer would carry all it has at
                           less than half of `busy_share` each

The agent makes the link, or drains the one with the highest number; it decides (it may want
fewer at most), and what counts here is the links that are there.

A worker's share of a core is its thread's CPU time. The engine tells who that was for by the
bytes of each link; a link with little is not told and counts as none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import msgspec

from proxy_engine import control, logs
from proxy_engine.links.table import Link, LinkTable

if TYPE_CHECKING:
    from proxy_engine_core.core import Engine

INTERVAL: Final = 1.0  # seconds between two looks
SMOOTHING: Final = 0.25  # of a second's figures in the running ones: a burst is no load yet
SETTLE: Final = 10.0  # seconds for visitors to spread before a run is told to make another
FEWER_AFTER: Final = 60.0  # seconds; a link costs less than to make it again and again
IDLE: Final = 0.02  # part of a core: below, nobody needs to be asked whose it was

_log = logs.get("links")


class _Run(msgspec.Struct):
    told: int  # this many links
    told_at: float
    low_since: float | None = None  # one link fewer would do


class LinkDemand:
    """Implements the above for one engine.

    Args:
        busy_share: percent of a core; 0: every run has all links that it may have, always.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        engine: Engine,
        links: LinkTable,
        *,
        busy_share: int,
        clock: Callable[[], float],
    ) -> None:
        self._engine = engine
        self._links = links
        self._clock = clock
        self.aim(busy_share)
        self._looked_at = clock()
        self._cpu_us = [0] * engine.workers
        self._shares: dict[int, float] = {}  # of its worker's bytes, by link, since the last tick
        self._loads: dict[int, float] = {}  # parts of a core, by link
        self._runs: dict[tuple[int, str | int], _Run] = {}  # who has, or had, several links

    def aim(self, busy_share: int) -> None:
        """Another share from now on."""
        self._high = busy_share / 100  # parts of a core
        self._low = self._high / 2

    def registered(self, link: Link) -> None:
        """A link serves."""
        if not link.may_have_more or self._links.links_max == 1:
            return
        if self._high == 0:
            self._tell(link, self._links.links_max)
        elif link.number > 1:
            self._runs.setdefault((link.device_id, link.run), _Run(link.number, self._clock()))

    def load(self, link_id: int, thousandths: int) -> None:
        """EVENT_LINK_LOAD."""
        self._shares[link_id] = thousandths / 1000

    def tick(self) -> None:
        """Look, if it is time to: the caller may come more often."""
        if self._high == 0 or self._links.links_max == 1:
            return
        now = self._clock()
        if now - self._looked_at < INTERVAL:
            return
        self._measure(now)
        found = [link for link_id in self._loads if (link := self._links.get(link_id))]
        for key in {(link.device_id, link.run) for link in found} | self._runs.keys():
            self._look(key, now)
        if any(busy > IDLE for busy in self._links.busy):
            self._engine.link_loads()

    def _measure(self, now: float) -> None:
        seconds, self._looked_at = now - self._looked_at, now
        busy = self._links.busy
        for worker, before in enumerate(self._cpu_us):
            used = self._engine.worker_stats(worker)["cpu_us"]
            self._cpu_us[worker] = used
            busy[worker] += SMOOTHING * ((used - before) / seconds / 1e6 - busy[worker])
        shares, self._shares = self._shares, {}
        for link_id in shares.keys() | self._loads.keys():
            link = self._links.get(link_id)
            before_load = self._loads.pop(link_id, 0.0)
            if link is None:
                continue
            load = shares.get(link_id, 0.0) * busy[link.worker]
            load = before_load + SMOOTHING * (load - before_load)
            if load > IDLE / 2:
                self._loads[link_id] = load

    def _look(self, key: tuple[int, str | int], now: float) -> None:
        links = self._links.of_run(*key)
        if not links or not links[0].may_have_more:
            self._runs.pop(key, None)
            return
        load = sum(self._loads.get(link.id, 0.0) for link in links)
        run = self._runs.get(key)
        if run is None:
            if self._needs_more(links, load):
                self._runs[key] = run = _Run(0, now)
                self._change(run, links, len(links) + 1, now)
            return
        # One that does not follow need not hear it again so soon.
        if now - run.told_at < (SETTLE if len(links) == run.told else FEWER_AFTER):
            return
        if self._needs_more(links, load):
            self._change(run, links, len(links) + 1, now)
        elif len(links) == 1:
            del self._runs[key]
        elif load >= (len(links) - 1) * self._low:
            run.low_since = None
        elif run.low_since is None:
            run.low_since = now
        elif now - run.low_since >= FEWER_AFTER:
            self._change(run, links, len(links) - 1, now)

    def _change(self, run: _Run, links: list[Link], wanted: int, now: float) -> None:
        run.told, run.told_at, run.low_since = wanted, now, None
        self._tell(links[0], wanted)

    def _needs_more(self, links: list[Link], load: float) -> bool:
        busy, used = self._links.busy, {link.worker for link in links}
        return (
            len(links) < self._links.links_max
            and load >= len(links) * self._low
            and max(busy[worker] for worker in used) >= self._high
            and any(busy[worker] < self._low for worker in range(len(busy)) if worker not in used)
        )

    def _tell(self, link: Link, wanted: int) -> None:
        self._engine.link_send(link.id, control.encode(control.Links(wanted)))
        _log.info("links wanted", device=link.device, link=link.id, wanted=wanted)
