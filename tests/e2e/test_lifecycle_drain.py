"""How server and agent end: what is in flight finishes, nothing new is taken, in time."""

from __future__ import annotations

import signal
import socket
import time

import pytest

from tests.e2e.fixtures import own_site, own_target
from tests.e2e.harness import Truncated, wait_until
from tests.e2e.processes import TIMEOUT
from tests.e2e.site import Site
from tests.e2e.slowreader import SlowReader, owed_size
from tests.e2e.target import Target, pattern_sha256

MIB = 1 << 20
LONG = ("--grace", "20s")
SHORT = ("--grace", "500ms")
KEPT = ("--engine", "pool_idle_ms=60000")


target = own_target()
site = own_site(server_args=LONG)


def refuses_connections(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT).close()
    except ConnectionRefusedError:
        return True
    return False


def api_status(site: Site, path: str) -> int:
    with socket.create_connection(("127.0.0.1", site.admin_port), timeout=TIMEOUT) as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        return int(client.recv(4096)[9:12])


# --- the server ---------------------------------------------------------------------------


def test_the_server_finishes_what_it_began_and_takes_nothing_new(
    site: Site, target: Target
) -> None:
    site.connect({"web": target.port})
    idle = site.begin("/kib")
    assert idle.response().status == 200
    slow = site.begin("/slow")
    assert target.entered.wait(TIMEOUT)
    site.server.signal()
    site.server.log("draining")
    wait_until(lambda: refuses_connections(site.port))
    assert idle.is_closed()
    assert (api_status(site, "/readyz"), api_status(site, "/livez")) == (503, 200)
    assert site.server.popen.poll() is None
    target.release()
    response = slow.response()
    assert (response.status, response.body) == (200, b"/slow")
    assert response.values("connection") == ["close"]
    assert slow.is_closed()
    assert site.server.exit_code() == 0
    assert site.server.log("stopped")
    assert [row["status"] for row in site.wait_rows(path="/slow")] == [200]


@pytest.mark.parametrize("site", [SHORT], indirect=True)
def test_the_server_ends_when_the_grace_is_over(site: Site, target: Target) -> None:
    site.connect({"web": target.port})
    slow = site.begin("/hang")
    cut = site.begin(f"/bulk?n={512 * MIB}")
    assert cut.head().status == 200
    assert target.entered.wait(TIMEOUT)
    started = time.monotonic()
    site.server.signal()
    assert site.server.exit_code() == 0
    assert 0.4 < time.monotonic() - started < 15  # by default it is 30
    # What nothing was sent of gets an answer, what has begun is cut.
    response = slow.response()
    assert (response.status, response.json()["error"]) == (502, "link_lost")
    with pytest.raises(Truncated):
        cut.take(512 * MIB)
    assert {row["path"] for row in site.wait_rows(2)} == {"/hang", f"/bulk?n={512 * MIB}"}


def test_draining_waits_for_slow_readers_of_finished_answers(site: Site, target: Target) -> None:
    site.connect({"web": target.port})
    size = owed_size(site)
    reader = SlowReader(site.port, size)
    wait_until(lambda: site.stats()["responses"] == 1)
    assert site.stats()["buffer_bytes"] > 0
    site.server.signal()
    wait_until(lambda: refuses_connections(site.port))
    assert reader.read_all() == pattern_sha256(size)
    assert site.server.exit_code() == 0


def test_a_second_signal_ends_the_server_at_once(site: Site, target: Target) -> None:
    site.connect({"web": target.port})
    slow = site.begin("/hang")
    assert target.entered.wait(TIMEOUT)
    site.server.signal(signal.SIGINT)
    site.server.log("draining")
    started = time.monotonic()
    site.server.signal(signal.SIGTERM)
    assert site.server.exit_code() == 1
    assert time.monotonic() - started < 15  # the grace is 20
    assert slow.response().status == 502


def test_an_agent_goes_over_to_the_next_server_when_one_drains(site: Site, target: Target) -> None:
    agent = site.connect({"web": target.port})
    site.server.signal()
    assert site.server.exit_code() == 0
    site.restart_server()
    site.wait_online("web")
    assert site.get("web", "/kib").status == 200
    assert agent.popen.poll() is None


# --- the agent ----------------------------------------------------------------------------


@pytest.mark.parametrize("transport", ["ws", "tcp"])
def test_the_agent_finishes_what_it_began(site: Site, target: Target, transport: str) -> None:
    agent = site.connect({"web": target.port}, *LONG, transport=transport)
    slow = site.begin("/slow")
    assert target.entered.wait(TIMEOUT)
    agent.signal()
    site.server.log("device drains")
    wait_until(lambda: not site.is_online("web"))
    # Nothing new goes to it.
    response = site.get("web", "/kib")
    assert (response.status, response.json()["error"]) == (503, "device_offline")
    assert agent.popen.poll() is None
    target.release()
    response = slow.response()
    assert (response.status, response.body) == (200, b"/slow")
    assert agent.exit_code() == 0
    assert target.requests == ["GET /slow"]
    site.settled()


@pytest.mark.parametrize("site", [(*LONG, *KEPT)], indirect=True)
def test_an_agent_without_work_ends_at_once(site: Site, target: Target) -> None:
    agent = site.connect({"web": target.port}, *LONG, *KEPT)
    # Streams and connections that are only kept for the next request are no work.
    assert site.get("web", "/kib").status == 200
    started = time.monotonic()
    agent.signal()
    assert agent.exit_code() == 0
    assert time.monotonic() - started < 15


def test_the_agent_ends_when_the_grace_is_over(site: Site, target: Target) -> None:
    agent = site.connect({"web": target.port}, *SHORT)
    slow = site.begin("/hang")
    assert target.entered.wait(TIMEOUT)
    started = time.monotonic()
    agent.signal()
    assert agent.exit_code() == 0
    assert 0.4 < time.monotonic() - started < 15  # by default it is 30
    response = slow.response()
    assert (response.status, response.json()["error"]) == (502, "link_lost")
    site.settled()


def test_a_second_signal_ends_the_agent_at_once(site: Site, target: Target) -> None:
    agent = site.connect({"web": target.port}, *LONG)
    slow = site.begin("/hang")
    assert target.entered.wait(TIMEOUT)
    agent.signal()
    site.server.log("device drains")
    started = time.monotonic()
    agent.signal()
    assert agent.exit_code() == 1
    assert time.monotonic() - started < 15  # the grace is 20
    assert slow.response().status == 502
