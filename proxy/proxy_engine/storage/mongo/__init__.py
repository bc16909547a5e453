"""The store for those who have a MongoDB: database.py says how it is used."""

from __future__ import annotations

from proxy_engine.storage.mongo.access import MongoAccess
from proxy_engine.storage.mongo.history import MongoHistory
from proxy_engine.storage.mongo.metrics import MongoMetrics
from proxy_engine.storage.mongo.request_search import MongoRequestSearch
from proxy_engine.storage.mongo.requests import MongoRequests
from proxy_engine.storage.mongo.shared import MongoShared
from proxy_engine.storage.mongo.tunnels import MongoTunnels

__all__ = ["MongoStore"]


class MongoStore(
    MongoAccess,
    MongoHistory,
    MongoTunnels,
    MongoRequests,
    MongoMetrics,
    MongoRequestSearch,
    MongoShared,
):
    """Implements storage.Store. Open with `await MongoStore.open(uri)`."""
