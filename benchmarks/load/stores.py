"""How many requests a second a store takes, and what they cost.

    python benchmarks/load/stores.py                     all of it, a minute
    python benchmarks/load/stores.py --only sqlite --records 2000000

Records are handed over as the server does: packed, in batches of some 512 KiB. SQLite
is a file on this disk. MongoDB is a sink that answers at once (mongo_sink.py), so that the figure
is ours and the driver's. Budget: 50,000 a second on SQLite, 5,000 through motor.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.parts.results import emit
from proxy_engine.storage import Store
from proxy_engine.storage.sqlite import SqliteStore
from proxy_engine_core import log_batch
from proxy_engine_core.core import LogRecord

BUDGET = {"sqlite": 50_000, "motor": 5_000, "pymongo": 5_000}
PATHS = ("/", "/index.html", "/api/v1/items?page=2&per_page=50", "/static/app.8f3c1d.js", "/login")
DEVICES = 200
BATCH = 3500  # records


def records(count: int, first: int) -> bytes:
    """What that many requests leave, packed; no two of one millisecond."""
    now = int(time.time() * 1e6)
    return log_batch.pack(
        LogRecord(
            now + number * 1000, number % DEVICES + 1, number % DEVICES + 1, f"{number:032x}",
            "203.0.113.7", "GET", f"web-{number % DEVICES}.example.com", PATHS[number % 5],
            200 if number % 50 else 502, "", 1, 420, 1650, 1800, 1500, 1200,
        )
        for number in range(first, first + count)
    )  # fmt: skip


@asynccontextmanager
async def opened(kind: str) -> AsyncIterator[Store]:
    if kind == "sqlite":
        with tempfile.TemporaryDirectory() as folder:
            store: Store = await SqliteStore.open(Path(folder) / "db")
            yield store
            await store.close()
        return
    from proxy_engine.storage.mongo import MongoStore

    sink = subprocess.Popen(  # noqa: ASYNC220 - nothing is measured yet
        [sys.executable, Path(__file__).parent / "mongo_sink.py"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert sink.stdout is not None
        port = int(sink.stdout.readline())
        driver = "motor" if kind == "motor" else "pymongo"
        store = await MongoStore.open(f"mongodb://127.0.0.1:{port}/bench", driver)  # type: ignore[arg-type]
        yield store
        await store.close()
    finally:
        sink.kill()
        sink.communicate()


async def worst_pause(stop: asyncio.Event) -> float:
    """How long the event loop was away at worst, in seconds."""
    worst, last = 0.0, time.monotonic()
    while not stop.is_set():
        await asyncio.sleep(0.001)
        now = time.monotonic()
        worst, last = max(worst, now - last - 0.001), now
    return worst


async def measure(kind: str, count: int) -> dict[str, float]:
    batches = [records(BATCH, first) for first in range(0, count, BATCH)]
    async with opened(kind) as store:
        stop = asyncio.Event()
        watch = asyncio.create_task(worst_pause(stop))
        started, cpu = time.monotonic(), time.process_time()
        written = sum([await store.requests_add(batch) for batch in batches])
        seconds, cpu = time.monotonic() - started, time.process_time() - cpu
        stop.set()
        assert written == len(batches) * BATCH
        rate = written / seconds
        print(
            f"{kind:8} {written:9,} records, {len(batches[0]) >> 10} KiB a batch: "
            f"{rate:9,.0f} a second, {cpu / written * 1e6:5.2f} us CPU each, event loop away "
            f"{await watch * 1000:.0f} ms at worst; budget {BUDGET[kind]:,}",
            flush=True,
        )
    return {"records_per_second": rate, "cpu_us_a_record": cpu / written * 1e6}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", choices=sorted(BUDGET), action="append")
    parser.add_argument("--records", type=int, default=0, help="[500000, MongoDB 100000]")
    parser.add_argument("--check", action="store_true", help="exit 1 below the budget")
    parser.add_argument("--json", metavar="FILE", help="add samples to this file")
    args = parser.parse_args()
    missed = []
    for kind in args.only or BUDGET:
        count = args.records or (500_000 if kind == "sqlite" else 100_000)
        figures = asyncio.run(measure(kind, count))
        emit(args.json, "stores", kind, [figures])
        if figures["records_per_second"] < BUDGET[kind]:
            missed.append(kind)
    if args.check and missed:
        print("below the budget:", ", ".join(missed))
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
