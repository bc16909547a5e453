"""A server whose request log stops half way: `log_server.py MODE run ...`, for log_cost.py.

refused   nobody empties the ring; once it is full, workers refuse and count every record
ring      batches are taken out of the ring and thrown away
stored    as shipped
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import proxy_engine.app
from proxy_engine.cli import main
from proxy_engine.runner import EngineRunner

if TYPE_CHECKING:
    from proxy_engine_core.core import Engine, Event


class Refusing(EngineRunner):
    def __init__(
        self, engine: Engine, on_event: Callable[[Event], None], on_logs: Callable[[bytes], None]
    ) -> None:
        super().__init__(engine, on_event)


class Discarding(EngineRunner):
    def __init__(
        self, engine: Engine, on_event: Callable[[Event], None], on_logs: Callable[[bytes], None]
    ) -> None:
        super().__init__(engine, on_event, lambda batch: None)


RUNNERS = {"refused": Refusing, "ring": Discarding, "stored": EngineRunner}

if __name__ == "__main__":
    setattr(proxy_engine.app, "EngineRunner", RUNNERS[sys.argv.pop(1)])  # noqa: B010
    sys.exit(main())
