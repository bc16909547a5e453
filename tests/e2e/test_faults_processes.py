"""Processes that die, targets that misbehave, visitors that leave.

After each of them the law holds (settled()): every request that was accepted has been
completed, answered by the proxy, or aborted; and what it held is given back.
"""

from __future__ import annotations

import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.fixtures import own_target
from tests.e2e.harness import Truncated, Visitor, wait_until
from tests.e2e.processes import Process
from tests.e2e.site import Site
from tests.e2e.target import Target

MIB = 1 << 20
# Idle streams go soon, so that "everything is given back" is soon seen.
ENGINE = {"pool_idle_ms": 200}


target = own_target()


@pytest.fixture(params=["ws", "tcp"])
def site(tmp_path: Path, target: Target, request: pytest.FixtureRequest) -> Iterator[Site]:
    site = Site(tmp_path / "data", engine=ENGINE)
    site.transport = request.param  # type: ignore[attr-defined]
    connect(site, target)
    yield site
    site.close()


def connect(site: Site, target: Target) -> Process:
    return site.connect({"web": target.port}, transport=site.transport)  # type: ignore[attr-defined]


def assert_cut(visitor: Visitor, left: int) -> None:
    with pytest.raises(Truncated):
        visitor.take(left)
    visitor.socket.close()


def kill(process: Process) -> None:
    process.signal(signal.SIGKILL)
    process.exit_code()


# --- processes that die -------------------------------------------------------------------


@pytest.mark.parametrize("site", ["tcp"], indirect=True)
def test_a_killed_agent_cuts_downloads_and_its_successor_serves(site: Site, target: Target) -> None:
    assert site.agent is not None
    path = f"/bulk?n={256 * MIB}"
    visitor, _ = site.begin_download(path)
    kill(site.agent)
    assert_cut(visitor, 256 * MIB - 64 * 1024)
    [row] = site.wait_rows(path=path)
    assert (row["status"], row["reason"]) == (200, "link_lost")
    site.wait_online("web", False)
    assert site.get("web").json()["error"] == "device_offline"
    wait_until(lambda: target.connections == 0)
    connect(site, target)
    assert site.get("web", "/kib").status == 200
    site.settled()


@pytest.mark.parametrize("site", ["tcp"], indirect=True)
def test_a_killed_agent_ends_uploads_and_nothing_is_sent_twice(site: Site, target: Target) -> None:
    assert site.agent is not None
    visitor = site.begin("/sink", f"Content-Length: {64 * MIB}", body=b"x" * MIB, method="POST")
    wait_until(lambda: target.body_bytes > MIB // 2)
    kill(site.agent)
    response = visitor.response()
    assert (response.status, response.json()["error"]) == (502, "link_lost")
    assert response.values("connection") == ["close"]
    visitor.socket.close()
    assert site.row(response.id)["reason"] == "link_lost"
    connect(site, target)
    assert site.get("web", "/kib").status == 200
    # It arrived once and never as a whole.
    assert target.requests == ["POST /sink", "GET /kib"]
    assert target.complete == ["GET /kib"]
    site.settled()


@pytest.mark.parametrize("site", ["ws"], indirect=True)
def test_a_killed_server_comes_back_with_all_it_knew(site: Site, target: Target) -> None:
    assert site.agent is not None
    assert site.get("web", "/kib").status == 200
    site.wait_rows(path="/kib")
    visitor, _ = site.begin_download(f"/bulk?n={256 * MIB}")
    kill(site.server)
    assert_cut(visitor, 256 * MIB - 64 * 1024)
    wait_until(lambda: target.connections == 0)
    with sqlite3.connect(site.data_dir / "proxy-engine.sqlite") as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    database.close()
    site.restart_server()
    # No first run again, the same tokens, the agent comes by itself.
    assert site.server.out == []
    site.wait_online("web")
    assert site.get("web", "/kib?again").status == 200
    assert [row["path"] for row in site.wait_rows(2)] == ["/kib", "/kib?again"]
    assert site.agent.popen.poll() is None
    site.settled()


# --- targets ------------------------------------------------------------------------------


@pytest.mark.parametrize(("site", "how"), [("ws", "reset"), ("tcp", "close")], indirect=["site"])
def test_a_target_that_breaks_its_answer_off_is_seen(site: Site, target: Target, how: str) -> None:
    path = f"/{how}?n=5000&held=1"
    visitor = site.begin(path)
    assert visitor.head().status == 200
    target.release()
    with pytest.raises(Truncated):
        visitor.take(MIB)
    visitor.socket.close()
    [row] = site.wait_rows(path=path)
    assert (row["status"], row["reason"]) == (200, "target_lost")
    assert site.get("web", "/kib").status == 200
    assert site.settled()["requests_aborted"] == 1


@pytest.mark.parametrize("site", ["ws"], indirect=True)
def test_a_target_that_goes_down_is_502_and_up_again_is_200(site: Site) -> None:
    with Target() as second:
        port = second.port
        agent = site.connect({"other": port}, token=site.make_token("other"))
        assert site.get("other", "/kib").status == 200
    response = site.get("other", "/kib")
    assert (response.status, response.json()["error"]) == (502, "refused")
    assert agent.log("target can not be connected")["tunnel"] == "other"
    with Target(port):
        assert site.get("other", "/kib").status == 200
    site.settled()


@pytest.mark.parametrize("site", ["ws"], indirect=True)
def test_a_slow_target_slows_only_its_own_visitors(site: Site, target: Target) -> None:
    slow = [site.begin("/slow") for _ in range(20)]
    wait_until(lambda: target.requests.count("GET /slow") == 20)
    for number in range(20):
        assert site.get("web", f"/kib?{number}").status == 200
    target.release()
    assert [visitor.response().status for visitor in slow] == [200] * 20
    for visitor in slow:
        visitor.socket.close()
    assert site.settled()["requests_aborted"] == 0


# --- visitors that leave --------------------------------------------------------------------


def test_visitors_who_leave_give_everything_back(site: Site, target: Target) -> None:
    assert site.agent is not None
    assert site.get("web", "/kib").status == 200
    wait_until(lambda: target.connections == 0)

    def held() -> tuple[int, ...]:
        stats = site.stats()
        connections = stats["connections"] - (stats["links_opened"] - stats["links_closed"])
        return (*site.fds(), connections, stats["buffer_bytes"], target.connections)

    before = held()
    while (again := held()) != before:  # what came before may still be on its way out
        before = again

    def is_given_back() -> bool:
        return all(now <= then for now, then in zip(held(), before, strict=True))

    for how in (Visitor.reset, lambda visitor: visitor.socket.close()):
        for path in ("/endless", f"/bulk?n={256 * MIB}"):
            downloads = [site.begin_download(path)[0] for _ in range(5)]
            assert target.connections >= 5
            for visitor in downloads:
                how(visitor)
            # The target is not left writing to nobody.
            wait_until(is_given_back)
        uploads = [
            site.begin("/sink", f"Content-Length: {64 * MIB}", body=b"x" * 200_000, method="POST")
            for _ in range(5)
        ]
        wait_until(lambda: target.connections == 5)
        for visitor in uploads:
            how(visitor)
        wait_until(is_given_back)
    assert site.settled()["requests_aborted"] == 30
    aborted = site.wait_rows(30, reason="visitor_gone")
    assert {row["status"] for row in aborted} == {0, 200}
