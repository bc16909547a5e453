"""A look into a database that changes nothing, not even its age: for who checks a machine."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from proxy_engine.errors import StorageError

TIMEOUT = 3.0  # seconds for a lock


def tokens_in(path: Path) -> int:
    """How many tokens it has. Raises StorageError."""
    uri = f"{path.absolute().as_uri()}?mode=ro"
    try:
        with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=TIMEOUT)) as database:
            [count] = database.execute("SELECT count(*) FROM tokens").fetchone()
    except sqlite3.Error as error:
        raise StorageError(f"{path}: {error}") from None
    return int(count)
