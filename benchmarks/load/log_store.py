"""The request log in SQLite: how fast it is written, and searched when it is large.

    python benchmarks/load/log_store.py [--rows 10000000] [--check]

A day of traffic from 1,000 devices in a database of its own, in batches as the server writes
and merges them, their keys live. Then, on that database: the last hour of one device, the page
of 1,000 newest, all failures of an hour, one request id among all rows, a summary of an hour.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import struct
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path[1:1] = [str(Path(__file__).resolve().parents[2] / name) for name in ("engine", "proxy")]

from benchmarks.parts.results import emit  # noqa: E402
from proxy_engine.storage import RequestQuery, Store  # noqa: E402
from proxy_engine.storage.sqlite import SqliteStore  # noqa: E402
from proxy_engine_core import log_batch  # noqa: E402
from proxy_engine_core.core import LogRecord  # noqa: E402

DEVICES = 1000
DAY_US = 86_400_000_000
HOUR_US = 3_600_000_000
START_US = 1_790_000_000_000_000
BATCH = 1472  # 64 batches of 0.2 s at 115 requests a second, merged
WRITE_BUDGET = 20_000  # rows a second, keys live
DEVICE_HOUR_BUDGET, PAGE_BUDGET = 10.0, 20.0  # ms
REPEATS = 15
EXIT_FAILED = 1


def template(source: random.Random, size: int) -> list[LogRecord]:
    return [
        LogRecord(
            0, number % 50 + 1, source.randrange(1, DEVICES + 1), f"{source.getrandbits(64):016x}",
            "198.51.100.7", "GET", "web.example.com",
            f"/api/items/{source.randrange(500)}?page={number % 7}",
            502 if source.random() < 0.01 else 200, "", 0, 350, 5000,
            int(source.lognormvariate(8, 1)), 900, 800,
        )
        for number in range(size)
    ]  # fmt: skip


async def fill(store: Store, rows: int) -> float:
    """Seconds that writing took."""
    source = random.Random(1)
    templates = []
    for _ in range(40):
        records = template(source, BATCH)
        offsets, offset = [], 0
        for record in records:
            offsets.append(offset)
            offset += len(log_batch.pack([record]))
        templates.append((bytearray(log_batch.pack(records)), offsets))
    spent = 0.0
    step = DAY_US / rows
    for number in range(rows // BATCH):
        batch, offsets = templates[number % len(templates)]
        for index, offset in enumerate(offsets):
            moment = START_US + int((number * BATCH + index) * step)
            struct.pack_into("<Q", batch, offset, moment)
        packed = bytes(batch)
        started = time.perf_counter()
        await store.requests_add(packed)
        spent += time.perf_counter() - started
    return spent


async def milliseconds(call: Callable[[], Awaitable[Any]]) -> tuple[float, Any]:
    """The best of REPEATS, after one to warm up: what it costs when nobody else needs the core."""
    result = await call()
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        await call()
        times.append((time.perf_counter() - started) * 1000)
    return min(times), result


async def measure(rows: int, folder: Path) -> dict[str, float]:
    store = await SqliteStore.open(folder / "db")
    for number in range(DEVICES):
        await store.token_add(
            name=f"t{number}", kind="device", digest=b"%032d" % number,
            device=f"device-{number}", now=1.0, expires_at=None,
        )  # fmt: skip
    spent = await fill(store, rows)
    written = rows // BATCH * BATCH
    print(f"  {written:,} rows written: {written / spent:,.0f} a second")
    since = START_US + DAY_US - HOUR_US
    [some] = (await store.requests_search(RequestQuery(), limit=1)).requests
    searches: dict[str, Callable[[], Awaitable[Any]]] = {
        "last hour of one device": lambda: store.requests_search(
            RequestQuery(device="device-7", since_us=since), limit=1000
        ),
        "page of 1,000": lambda: store.requests_search(RequestQuery(), limit=1000),
        "failures of the last hour": lambda: store.requests_search(
            RequestQuery(status=(500, 599), since_us=since), limit=1000
        ),
        "one request id": lambda: store.requests_search(
            RequestQuery(request_id=some.request_id, until_us=some.time_us), limit=1
        ),
        "a request id that is not there": lambda: store.requests_search(
            RequestQuery(request_id="nothing"), limit=1
        ),
        "summary of the last hour": lambda: store.requests_summary(RequestQuery(since_us=since)),
    }
    results = {"rows": written / spent}
    for name, call in searches.items():
        results[name], found = await milliseconds(call)
        count = found.count if hasattr(found, "count") else len(found.requests)
        print(f"  {name:34}{results[name]:>9.1f} ms{count:>10,} found")
    await store.close()
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description="The request log in SQLite.")
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--check", action="store_true", help="exit 1 when over the budget")
    parser.add_argument("--json", metavar="FILE", help="add samples to this file")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="proxy-engine-log-") as folder:
        results = asyncio.run(measure(chosen.rows, Path(folder)))
    figures = {name.replace(" ", "_"): value for name, value in results.items()}
    emit(chosen.json, "log-searches", "sqlite", [figures])
    is_over = (
        results["rows"] < WRITE_BUDGET
        or results["last hour of one device"] > DEVICE_HOUR_BUDGET
        or results["page of 1,000"] > PAGE_BUDGET
    )
    return EXIT_FAILED if chosen.check and is_over else 0


if __name__ == "__main__":
    sys.exit(main())
