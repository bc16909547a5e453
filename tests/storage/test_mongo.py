"""What is MongoDB's own: documents and indexes, drivers, what it says when it is away."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pymongo
import pytest
from pymongo.database import Database

from proxy_engine.errors import StorageError
from proxy_engine.storage import Retention, Sighting
from proxy_engine.storage.mongo import MongoStore
from proxy_engine.storage.mongo.client import OPTIONS, Client, Driver, place
from proxy_engine_core.core import LOG_ABORTED
from tests.storage.records import packed, record

DOCS = Path(__file__).resolve().parents[2] / "docs" / "mongodb.md"
DRIVERS: tuple[Driver, ...] = ("motor", "pymongo")
Documents = Database[dict[str, Any]]


@pytest.fixture
async def store(mongo_uri: str) -> AsyncIterator[MongoStore]:
    opened = await MongoStore.open(mongo_uri)
    yield opened
    await opened.close()


@pytest.fixture
def db(mongo_uri: str, store: MongoStore) -> Documents:
    """The same database as somebody else sees it."""
    client: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(mongo_uri, tz_aware=True)
    return client.get_default_database()


@pytest.fixture
def closed_port() -> Iterator[int]:
    with socket.socket() as probe:  # bound, that nobody else is given it, and not listening
        probe.bind(("127.0.0.1", 0))
        yield probe.getsockname()[1]


async def device(store: MongoStore, name: str, tunnel: str) -> tuple[int, int]:
    token = await store.token_add(
        name=name, kind="device", digest=name.encode(), device=name, now=1.0, expires_at=None
    )
    [claimed] = await store.tunnels_claim([(tunnel, "http", token.device_id or 0)], 1.0)
    return token.device_id or 0, claimed.id


def keys(db: Documents, collection: str) -> dict[str, Any]:
    found = db[collection].index_information()
    return {name: [tuple(key) for key in index["key"]] for name, index in found.items()}


async def test_indexes_are_what_is_searched_for(db: Documents, store: MongoStore) -> None:
    await store.requests_add(packed(record(1)))
    await store.requests_trim(Retention(age=3600), time.time())
    requests = keys(db, "requests")
    assert requests["device_ts_id"] == [("device", 1), ("ts", -1), ("_id", -1)]
    assert requests["status_ts_id"] == [("status", 1), ("ts", -1), ("_id", -1)]
    assert requests["ts"] == [("ts", -1)]
    assert "text" in requests
    assert db.requests.index_information()["ts"]["expireAfterSeconds"] == 3600
    assert keys(db, "devices")["id_last_seen_at"] == [("id", 1), ("last_seen_at", -1)]
    assert keys(db, "metrics")["ts_type"] == [("ts", -1), ("type", 1)]
    for collection in ("tokens", "devices", "tunnels"):
        assert db[collection].index_information()["name"]["unique"]


async def test_a_new_age_is_a_new_expiry(db: Documents, store: MongoStore) -> None:
    for age in (60.0, 7200.0):
        await store.requests_trim(Retention(age=age), time.time())
        assert db.requests.index_information()["ts"]["expireAfterSeconds"] == age
    await store.requests_trim(Retention(), time.time())
    assert "expireAfterSeconds" not in db.requests.index_information()["ts"]


async def test_every_query_of_the_documentation_runs(db: Documents, store: MongoStore) -> None:
    pi, web = await device(store, "pi", "web")
    now, basket = int(time.time() * 1e6), "/checkout/basket?x=1"
    await store.requests_add(
        packed(
            record(now, web, pi, path=basket, bytes_out=100, total_us=10),
            record(now + 1000, web, pi, path=basket, total_us=30),
            record(now + 2000, web, pi, path="/", status=502, flags=LOG_ABORTED),
            record(now - 8_000_000_000, device=0, path="/old", status=500),
        )
    )
    await store.seen({}, {pi: Sighting(at=time.time() - 8 * 86400)})
    blocks = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert len(blocks) == 5
    names: dict[str, Any] = {"db": db, "datetime": datetime, "timedelta": timedelta, "UTC": UTC}
    for block in blocks:
        exec(block, names)
    latest = list(names["latest"])
    assert [item["status"] for item in latest] == [502, 200, 200]
    assert latest[0]["ts"].timestamp() == pytest.approx(time.time(), abs=60)
    assert [item["status"] for item in names["failed"]] == [502]
    assert [item["path"] for item in names["checkouts"]] == [basket] * 2
    assert names["aborted"] == 1
    by_status = list(names["by_status"])
    assert [(item["_id"], item["requests"]) for item in by_status] == [(200, 2), (502, 1)]
    assert (by_status[0]["mean_us"], by_status[0]["bytes"]) == (20, 102)
    assert sum(item["requests"] for item in names["per_minute"]) == 3
    top, *_ = names["top_paths"]
    assert top == {"_id": basket, "requests": 2, "slowest_us": 30}
    assert [item["name"] for item in names["gone"]] == ["pi"]


async def test_a_batch_that_failed_halfway_is_not_there_twice(
    db: Documents, store: MongoStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = packed(*(record(number) for number in range(5)))
    insert = MongoStore._insert
    monkeypatch.setattr("proxy_engine.storage.mongo.requests.INSERT_MAX", 2)

    async def breaks_off(self: MongoStore, documents: list[dict[str, Any]]) -> None:
        await insert(self, documents[:3])
        raise StorageError("the line is cut")

    monkeypatch.setattr(MongoStore, "_insert", breaks_off)
    with pytest.raises(StorageError):
        await store.requests_add(batch)
    assert db.requests.count_documents({}) == 3
    monkeypatch.setattr(MongoStore, "_insert", insert)
    # More has come meanwhile, and goes along.
    assert await store.requests_add(batch + packed(record(5), record(6))) == 7
    assert [item.time_us for item in await store.requests_last(100)] == list(range(7))
    assert [item.id for item in await store.requests_last(100)] == list(range(1, 8))


async def test_a_newer_database_is_refused(
    mongo_uri: str, db: Documents, store: MongoStore
) -> None:
    db.state.update_one({"_id": "schema"}, {"$set": {"version": 999}})
    with pytest.raises(StorageError, match="newer proxy-engine"):
        await MongoStore.open(mongo_uri)


@pytest.mark.parametrize("driver", DRIVERS)
async def test_nobody_there_is_one_clear_line_without_the_password(
    driver: Driver, closed_port: int
) -> None:
    uri = f"mongodb://me:hunter2@127.0.0.1:{closed_port}/?timeoutMS=300"
    started = time.monotonic()
    with pytest.raises(
        StorageError, match=rf"MongoDB 127\.0\.0\.1:{closed_port}.*(refused|call failed)"
    ) as caught:
        await MongoStore.open(uri, driver)
    assert time.monotonic() - started < 20  # drivers would try for half a minute
    text = str(caught.value)
    assert "\n" not in text and "hunter2" not in text and "Topology" not in text


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("uri", ["mongodb://", "mongodb://me:hunter2@h:99999"])
async def test_a_wrong_uri_is_one_clear_line_without_the_password(driver: Driver, uri: str) -> None:
    with pytest.raises(StorageError, match="mongodb_uri") as caught:
        await MongoStore.open(uri, driver)
    assert "\n" not in str(caught.value) and "hunter2" not in str(caught.value)


@pytest.mark.parametrize("driver", DRIVERS)
async def test_the_uri_has_the_last_word_on_options(driver: Driver) -> None:
    client = Client("mongodb://h1,h2/mine?maxpoolsize=7&replicaSet=r", driver)
    options = client.database.client.options.pool_options
    assert (options.max_pool_size, options.min_pool_size) == (7, OPTIONS["minPoolSize"])
    assert client.database.name == "mine"
    await client.close()
    client = Client("mongodb://h1", driver)
    assert client.database.name == "proxy_engine"
    assert client.database.client.options.pool_options.max_pool_size == 20
    await client.close()


def test_places_have_no_passwords() -> None:
    assert place("mongodb://me:p%40ss@h1:1,h2/db") == "h1:1,h2"
    assert place("mongodb+srv://cluster.example.com") == "cluster.example.com"
