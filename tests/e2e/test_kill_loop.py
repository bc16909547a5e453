"""kill -9, fifty times: the database is whole each time, and holds what was acknowledged."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import random
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy_engine.errors import StorageError
from proxy_engine.storage.sqlite import SqliteStore, database_path
from tests.e2e.processes import TIMEOUT, Process

ROUNDS = 50
SEED = 20261122


@contextlib.contextmanager
def visiting(port: int) -> Iterator[None]:
    """A visitor who asks for what is not there, again and again: each is a record."""
    has_ended = threading.Event()

    def visit() -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            client = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
            while not has_ended.is_set():
                client.request("GET", "/")
                client.getresponse().read()

    thread = threading.Thread(target=visit)
    thread.start()
    yield
    has_ended.set()
    thread.join()


async def make_tokens(data_dir: Path, seconds: float, first: int) -> list[str]:
    """Names of tokens that another program made meanwhile, and was told they are kept."""
    made: list[str] = []
    store = await SqliteStore.open(database_path(data_dir))
    deadline = time.monotonic() + seconds
    with contextlib.suppress(StorageError):
        while time.monotonic() < deadline:
            name = f"t{first + len(made)}"
            await store.token_add(
                name=name,
                kind="device",
                digest=name.encode().ljust(32),
                device=name,
                now=1.0,
                expires_at=None,
            )
            made.append(name)
    await store.close()
    return made


@pytest.mark.timeout(600)
def test_a_killed_server_leaves_a_whole_database(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    kept: list[str] = []
    requests = 0
    for _ in range(ROUNDS):
        server = Process(
            "run", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--data-dir",
            str(tmp_path), "--log-format", "json", "--keep-requests", "500", "--workers", "1",
        )  # fmt: skip
        try:
            port = int(server.log("listening")["listen"].rpartition(":")[2])
            with visiting(port):
                kept += asyncio.run(make_tokens(tmp_path, chance.uniform(0, 0.5), len(kept)))
                server.signal(signal.SIGKILL)
                server.exit_code()
        finally:
            server.end()
        db = sqlite3.connect(database_path(tmp_path))
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert {name for (name,) in db.execute("SELECT name FROM tokens")} >= set(kept)
        found = db.execute("SELECT coalesce(max(id), 0) FROM request_batches").fetchone()[0]
        db.close()
        assert found >= requests  # ids go on
        requests = found
    assert requests > ROUNDS and len(kept) > ROUNDS
