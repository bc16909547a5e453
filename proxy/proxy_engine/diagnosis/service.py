"""What a running server has for diagnosis, in one place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from proxy_engine.diagnosis.dump import Dumps
from proxy_engine.diagnosis.heap import Heap
from proxy_engine.diagnosis.watch import Watch
from proxy_engine_core.core import EVENT_DUMP, EVENT_SLOW_TURN

if TYPE_CHECKING:
    from proxy_engine.settings.config import Settings
    from proxy_engine_core.core import Engine, Event

SLOW_MS = 100  # what a turn may take, with `debug`


def engine_options(settings: Settings) -> dict[str, int]:
    """What the engine has to know from its start."""
    return {"slow_turn_ms": SLOW_MS} if settings.debug else {}


class Diagnosis:
    """
    Args:
        tunnels, devices: names by id, of those there are now.
    """

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        *,
        tunnels: Callable[[], Mapping[int, str]],
        devices: Callable[[], Mapping[int, str]],
    ) -> None:
        self.heap = Heap()
        self.dumps = Dumps(engine, tunnels=tunnels, devices=devices)
        self.slow_ms = settings.engine.get("slow_turn_ms", SLOW_MS if settings.debug else 0)
        self.watch = Watch(engine.inspector, stuck=settings.watchdog, slow_ms=self.slow_ms)

    def on_event(self, event: Event) -> None:
        if event[0] == EVENT_SLOW_TURN:
            self.watch.on_slow_turn(*event[1:])
        elif event[0] == EVENT_DUMP:
            self.dumps.on_event(*event[1:])

    def stop(self) -> None:
        self.watch.stop()
        self.heap.stop()
