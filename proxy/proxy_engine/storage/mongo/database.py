"""One MongoDB database: connected, indexed, and how calls to it fail.

No transactions and no change streams, so a single server will do as well as a replica set.
Every operation ends within its timeout (client.OPTIONS); what MongoDB can not do now is a
StorageError of that one call, and the driver finds the way back by itself.

Numbers that the engine needs (of tokens, devices, tunnels, requests) come from `state`, one
document for each kind: {_id: "ids.tokens", last: 7}.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Iterable, Mapping
from typing import Any, Self, TypeVar

from pymongo import ReturnDocument, UpdateOne
from pymongo.errors import BulkWriteError, DuplicateKeyError, PyMongoError

from proxy_engine.errors import StorageError
from proxy_engine.storage.mongo.client import Client, Driver, place
from proxy_engine.storage.mongo.indexes import INDEXES, OBSOLETE

SCHEMA = 1  # of the documents; a change that older versions can not read is a new number
# Beyond what the driver promises, for a driver that does not keep it: an opening socket may
# hang in a name server.
CALL_TIMEOUT = 15.0
DUPLICATE_KEY = 11000  # the code of E11000
INDEX_TIMEOUT = 600.0  # seconds: an index over millions of requests takes its time
_T = TypeVar("_T")


class Database:
    """What the parts of the store have in common."""

    def __init__(self, uri: str, driver: Driver = "motor") -> None:
        self._client = Client(uri, driver)
        self._db = self._client.database
        self._place = place(uri)
        self._writes = 0  # of ours, among those that `state` counts
        self._writes_of_others = -1
        self._counting = asyncio.Lock()  # of the two: nobody looks between a write and its count

    @classmethod
    async def open(cls, uri: str, driver: Driver = "motor") -> Self:
        """Connect, and make what indexes are missing. Raises StorageError with one clear line."""
        store = cls(uri, driver)
        try:
            await store._prepare()
        except BaseException:
            await store.close()
            raise
        return store

    async def _prepare(self) -> None:
        found = await self._state("schema", {"$setOnInsert": {"version": SCHEMA}})
        if found["version"] > SCHEMA:
            raise StorageError(
                f"MongoDB {self._place}, {self._db.name}: of a newer proxy-engine (schema "
                f"{found['version']}, this version knows {SCHEMA}); upgrade proxy-engine"
            )
        for collection, name in OBSOLETE:
            if name in await self._call(self._db[collection].index_information()):
                await self._call(self._db[collection].drop_index(name), INDEX_TIMEOUT)
        for collection, indexes in INDEXES.items():
            await self._call(self._db[collection].create_indexes(indexes), INDEX_TIMEOUT)

    async def close(self) -> None:
        await self._client.close()

    async def ping(self) -> None:
        await self._state("ping", {"$currentDate": {"at": True}})

    async def changed_elsewhere(self) -> bool:
        async with self._counting:
            found = await self._call(self._db.state.find_one({"_id": "access"}))
            others = (found["writes"] if found else 0) - self._writes
            changed, self._writes_of_others = others != self._writes_of_others, others
            return changed

    async def _call(self, awaitable: Awaitable[_T], seconds: float = CALL_TIMEOUT) -> _T:
        """Raises StorageError; DuplicateKeyError stays what it is, for it is an answer."""
        try:
            async with asyncio.timeout(seconds):
                return await awaitable
        except DuplicateKeyError:
            raise
        except PyMongoError as error:
            raise StorageError(f"MongoDB {_text(error, self._place)}") from error
        except TimeoutError:
            raise StorageError(f"MongoDB {self._place}: no answer within {seconds:g} s") from None

    async def _wrote(self, *, access: bool = True) -> None:
        """Tell other servers that tokens, devices or tunnels have changed.

        Args:
            access: also what is cached of tokens and devices is old now (storage/shared.py).
        """
        # Counted first: if this fails we take it for somebody else's, which costs a look.
        async with self._counting:
            self._writes += 1
            change: dict[str, Any] = {"$inc": {"writes": 1}}
            if access:
                change["$set"] = {"generation": secrets.token_bytes(16)}
            await self._state("access", change)

    async def _new_ids(self, kind: str, count: int = 1) -> range:
        """Numbers that nobody had before and nobody else gets."""
        last: int = (await self._state(f"ids.{kind}", {"$inc": {"last": count}}))["last"]
        return range(last - count + 1, last + 1)

    async def _named(self, collection: str, names: Iterable[str]) -> dict[str, dict[str, Any]]:
        cursor = self._db[collection].find({"name": {"$in": list(names)}})
        return {item["name"]: item for item in await self._call(cursor.to_list(None))}

    async def _claim(
        self, collection: str, wanted: Mapping[str, Mapping[str, Any]]
    ) -> dict[str, dict[str, Any]]:
        """The documents of these names, by name; those that are nobody's yet are made, of these
        fields and a number."""
        found = await self._named(collection, wanted)
        new = [name for name in wanted if name not in found]
        if not new:
            return found
        updates = [
            UpdateOne({"name": name}, {"$setOnInsert": {"id": number, **wanted[name]}}, upsert=True)
            for number, name in zip(await self._new_ids(collection, len(new)), new, strict=True)
        ]

        async def make() -> None:
            try:
                await self._db[collection].bulk_write(updates, ordered=False)
            except BulkWriteError as error:
                raise_unless_there(error)  # two made one name at once: the first has it

        await self._call(make())
        await self._wrote(access=False)
        return await self._named(collection, wanted)

    async def _state(self, name: str, change: dict[str, Any]) -> dict[str, Any]:
        """Change a document of `state`, made if it is new; what it is then."""

        def update() -> Awaitable[dict[str, Any]]:
            return self._call(
                self._db.state.find_one_and_update(
                    {"_id": name}, change, upsert=True, return_document=ReturnDocument.AFTER
                )
            )

        try:
            return await update()
        except DuplicateKeyError:  # two made it at once: now it is there
            return await update()


def raise_unless_there(error: BulkWriteError) -> None:
    """That a document is there already is no error of who wants it to be there."""
    if any(item["code"] != DUPLICATE_KEY for item in error.details["writeErrors"]):
        raise error


def _text(error: PyMongoError, place: str) -> str:
    """Where and what went wrong, without the driver's view of the whole cluster behind it."""
    text = str(error).partition(" (configured timeouts")[0].partition(", Timeout:")[0][:300]
    return text if text.startswith(place) else f"{place}: {text}"
