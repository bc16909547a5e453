"""The store stops, stalls, is locked or full: visitors and known devices notice nothing.

What has to be written then is answered with 503 and Retry-After, request logs wait, and all is
well again without a restart.
"""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from proxy_engine.storage.sqlite import database_path
from tests.e2e.faultproxy import FaultProxy
from tests.e2e.fixtures import own_target
from tests.e2e.harness import wait_until
from tests.e2e.processes import ENVIRON, TIMEOUT, run
from tests.e2e.site import Site
from tests.e2e.target import Target
from tests.storage.mongo_server import MongoServer, mongo_server

ANSWER_MAX = 12.0  # seconds until a call to a store that is away has its 503, on a busy machine


target = own_target()


@pytest.fixture
def mongo(tmp_path: Path) -> Iterator[MongoServer]:
    yield from mongo_server(tmp_path / "mongo.sqlite")


@contextmanager
def site_with(data_dir: Path, target: Target, *server_args: str) -> Iterator[Site]:
    site = Site(data_dir, server_args=server_args)
    try:
        site.connect({"web": target.port})
        yield site
    finally:
        site.close()


def ask(site: Site, path: str, body: str | None = None) -> tuple[int, dict[str, str]]:
    """Status and fields of the API's answer; with a body it is a POST."""
    client = http.client.HTTPConnection("127.0.0.1", site.admin_port, timeout=TIMEOUT)
    headers = {"Authorization": f"Bearer {site.admin_token}"}
    if body is not None:
        headers["Content-Type"] = "application/json"
    try:
        client.request("GET" if body is None else "POST", path, body, headers)
        response = client.getresponse()
        response.read()
        return response.status, dict(response.getheaders())
    finally:
        client.close()


def make_token(site: Site) -> tuple[int, dict[str, str]]:
    return ask(site, "/api/v1/tokens", '{"name": "late"}')


def assert_write_is_put_off(site: Site) -> None:
    started = time.monotonic()
    status, fields = make_token(site)
    assert time.monotonic() - started < ANSWER_MAX
    assert status == 503 and int(fields["Retry-After"]) > 0, (status, fields)


def visit(site: Site, count: int) -> None:
    for number in range(count):
        started = time.monotonic()
        assert site.get("web", f"/{number}").status == 200
        assert time.monotonic() - started < 2


def reconnect(site: Site, target: Target) -> None:
    """The device's agent dies and another run of it comes."""
    assert site.agent is not None
    site.agent.end()
    site.connect({"web": target.port})


def logged(site: Site) -> int:
    return len(site.api("/api/v1/requests?limit=500")["items"])


@pytest.mark.parametrize("driver", ["motor", "pymongo"])
@pytest.mark.parametrize("fault", ["stopped", "stalled"])
def test_mongodb_away(
    tmp_path: Path, target: Target, mongo: MongoServer, driver: str, fault: str
) -> None:
    options = ("--mongodb-uri", f"{mongo.uri}/e2e?timeoutMS=2000", "--mongodb-driver", driver)
    with site_with(tmp_path / "data", target, *options) as site:
        visit(site, 3)
        if fault == "stopped":
            mongo.stop()
        else:
            os.kill(mongo.pid, signal.SIGSTOP)
        visit(site, 3)
        reconnect(site, target)
        visit(site, 3)
        assert_write_is_put_off(site)
        assert ask(site, "/api/v1/tunnels")[0] == 503
        assert ask(site, "/readyz")[0] == 503
        if fault == "stopped":
            mongo.start()
        else:
            os.kill(mongo.pid, signal.SIGCONT)
        wait_until(lambda: ask(site, "/readyz")[0] == 200)
        visit(site, 1)
        wait_until(lambda: logged(site) >= 10)
        assert logged(site) == 10
        assert make_token(site)[0] == 201
        assert site.server.popen.poll() is None


def test_a_locked_database_delays_writes_and_nothing_else(tmp_path: Path, target: Target) -> None:
    with site_with(tmp_path / "data", target) as site:
        visit(site, 3)
        other = sqlite3.connect(database_path(site.data_dir), isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        visit(site, 3)
        reconnect(site, target)
        visit(site, 3)
        made = run("token", "create", "--name", "late", "--data-dir", str(site.data_dir))
        assert (made.returncode, made.stdout) == (1, "")
        assert "database is locked" in made.stderr and made.stderr.count("\n") == 1
        assert_write_is_put_off(site)
        assert ask(site, "/api/v1/tunnels")[0] == 200  # reads go on
        assert ask(site, "/readyz")[0] == 503
        other.execute("ROLLBACK")
        other.close()
        wait_until(lambda: ask(site, "/readyz")[0] == 200)
        visit(site, 1)
        wait_until(lambda: len(site.rows()) >= 10)
        assert len(site.rows()) == 10
        assert make_token(site)[0] == 201


@contextmanager
def small_disk(place: Path, size: str) -> Iterator[Path]:
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no tmpfs may be mounted here")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(file: Path) -> None:
    with file.open("wb", buffering=0) as stream:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while True:
                    stream.write(b"x" * size)
            except OSError:
                pass


def test_a_full_disk_delays_writes_and_nothing_else(tmp_path: Path, target: Target) -> None:
    with small_disk(tmp_path / "disk", "4m") as disk:
        with site_with(disk / "data", target) as site:
            visit(site, 3)
            wait_until(lambda: len(site.rows()) == 3)
            fill(disk / "filler")
            for _ in range(40):  # more than what is left of pages already there
                visit(site, 10)
            wait_until(lambda: ask(site, "/readyz")[0] == 503)
            visit(site, 3)
            reconnect(site, target)
            visit(site, 3)
            made = run("token", "create", "--name", "late", "--data-dir", str(site.data_dir))
            assert made.returncode == 1, made
            assert made.stderr.count("\n") == 1 and "full" in made.stderr, made.stderr
            assert_write_is_put_off(site)
            (disk / "filler").unlink()
            wait_until(lambda: ask(site, "/readyz")[0] == 200)
            visit(site, 1)
            wait_until(lambda: len(site.rows()) >= 410)
            assert len(site.rows()) == 410
            assert make_token(site)[0] == 201
        with sqlite3.connect(database_path(disk / "data")) as db:
            assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        db.close()


FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)


@pytest.mark.skipif(FAKETIME is None, reason="no libfaketime")
def test_clock_jumps_change_nothing_for_those_who_are_there(
    tmp_path: Path, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = tmp_path / "clock"
    clock.write_text("+0")
    fake: dict[str, Any] = {
        "LD_PRELOAD": str(FAKETIME),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    for name, value in fake.items():
        monkeypatch.setitem(ENVIRON, name, value)
    with site_with(tmp_path / "data", target) as site:
        for name in fake:
            monkeypatch.delitem(ENVIRON, name)
        visit(site, 2)
        site.wait_rows(2)  # of two workers: records keep this order only if they are written
        short = site.make_token("short", "--expires", "2h")
        for number, jump in enumerate(("+10d", "-10d", "+0"), 1):
            clock.write_text(jump)
            visit(site, 2)
            reconnect(site, target)
            visit(site, 2)
            wait_until(lambda: ask(site, "/readyz")[0] == 200)
            site.wait_rows(2 + 4 * number)
        site.connect({"other": target.port}, token=short)
        clock.write_text("+1d")  # and a token that expires does
        wait_until(lambda: not site.is_online("other"))
        rows = site.rows()
        assert [row["id"] for row in rows] == list(range(1, 15))
        days = [round((row["time_us"] / 1e6 - time.time()) / 86400) for row in rows]
        assert days == [0] * 2 + [10] * 4 + [-10] * 4 + [0] * 4


@pytest.mark.parametrize("driver", ["motor", "pymongo"])
def test_a_slow_mongodb_is_slow_for_admins_only(
    tmp_path: Path, target: Target, mongo: MongoServer, driver: str
) -> None:
    """Every answer takes half a second, as over a bad line."""
    with FaultProxy(int(mongo.uri.rpartition(":")[2])) as line:
        uri = f"mongodb://127.0.0.1:{line.port}/e2e"
        options = ("--mongodb-uri", uri, "--mongodb-driver", driver)
        with site_with(tmp_path / "data", target, *options) as site:
            visit(site, 3)
            line.delay = 0.25  # each way
            visit(site, 20)
            reconnect(site, target)
            visit(site, 3)
            assert make_token(site)[0] == 201
            assert ask(site, "/readyz")[0] == 200
            line.delay = 0
            wait_until(lambda: logged(site) >= 26)
            assert logged(site) == 26
            assert site.stats()["request_log_dropped"] == 0
