"""The collections' indexes: what is looked for, and what MongoDB deletes by itself."""

from __future__ import annotations

from typing import Any

from pymongo import ASCENDING, DESCENDING, TEXT, IndexModel

TTL_INDEX = "ts"

# By collection. Names are those of the fields, so that hint("device_ts_id") reads well.
INDEXES: dict[str, list[IndexModel]] = {
    "tokens": [
        IndexModel("name", name="name", unique=True),
        IndexModel("digest", name="digest", unique=True),
        # Sparse: tokens that were never rotated do not have it.
        IndexModel("old_digest", name="old_digest", unique=True, sparse=True),
        IndexModel("id", name="id", unique=True),
    ],
    "devices": [
        IndexModel("name", name="name", unique=True),
        IndexModel([("id", ASCENDING), ("last_seen_at", DESCENDING)], name="id_last_seen_at"),
    ],
    "device_events": [
        IndexModel([("device_id", ASCENDING), ("id", DESCENDING)], name="device_id_id")
    ],
    "audit": [IndexModel([("id", DESCENDING)], name="id", unique=True)],
    "tunnels": [
        IndexModel("name", name="name", unique=True),
        # Only tunnels with a public port have one; one of TCP and the same of UDP are two.
        IndexModel(
            [("kind", ASCENDING), ("port", ASCENDING)],
            name="kind_port",
            unique=True,
            partialFilterExpression={"port": {"$exists": True}},
        ),
        # Sparse: only tunnels with domains have the field.
        IndexModel("domains.name", name="domains", unique=True, sparse=True),
    ],
    "metrics": [IndexModel([("ts", DESCENDING), ("type", ASCENDING)], name="ts_type")],
    "requests": [
        # Their ends put those of one millisecond in order, for pages.
        IndexModel(
            [("device", ASCENDING), ("ts", DESCENDING), ("_id", DESCENDING)], name="device_ts_id"
        ),
        IndexModel(
            [("status", ASCENDING), ("ts", DESCENDING), ("_id", DESCENDING)], name="status_ts_id"
        ),
        IndexModel([("path", TEXT), ("method", TEXT)], name="text", default_language="none"),
    ],
}


# Of versions before.
OBSOLETE = (("tunnels", "port"),)


def by_time(age: float) -> IndexModel:
    """requests {ts: -1}; with an age it is also what deletes those that are older."""
    expiry: dict[str, Any] = {"expireAfterSeconds": max(int(age), 1)} if age else {}
    return IndexModel([("ts", DESCENDING)], name=TTL_INDEX, **expiry)
