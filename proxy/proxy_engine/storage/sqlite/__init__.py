"""The default store: one SQLite file. database.py says how it is kept."""

from __future__ import annotations

from proxy_engine.storage.sqlite.access import SqliteAccess
from proxy_engine.storage.sqlite.database import create_data_dir, database_path
from proxy_engine.storage.sqlite.history import SqliteHistory
from proxy_engine.storage.sqlite.metrics import SqliteMetrics
from proxy_engine.storage.sqlite.request_search import SqliteRequestSearch
from proxy_engine.storage.sqlite.requests import SqliteRequests
from proxy_engine.storage.sqlite.shared import SqliteShared
from proxy_engine.storage.sqlite.tunnels import SqliteTunnels

__all__ = ["SqliteStore", "create_data_dir", "database_path"]


class SqliteStore(
    SqliteAccess,
    SqliteHistory,
    SqliteTunnels,
    SqliteRequests,
    SqliteMetrics,
    SqliteRequestSearch,
    SqliteShared,
):
    """Implements storage.Store. Open with `await SqliteStore.open(path)`."""
