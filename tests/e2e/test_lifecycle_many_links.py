"""Runs of an agent with several links: they serve together, and come and go one by one.

The server wants them all at once here; when it does not, test_lifecycle_link_demand.py.
"""

from __future__ import annotations

import signal
import threading
import time
from typing import Any

import pytest

from tests.e2e.faultproxy import FaultProxy
from tests.e2e.fixtures import own_site, own_target
from tests.e2e.harness import Truncated, Visitor, wait_until
from tests.e2e.processes import Process
from tests.e2e.rawlink import RawLink
from tests.e2e.site import Site
from tests.e2e.target import Target

LINKS = 2
RUN = ("--workers", str(LINKS), "--link-busy-share", "0")  # one link for each worker


target = own_target()
site = own_site(server_args=RUN)


def links(site: Site, device: str = "default") -> list[dict[str, Any]]:
    """A device's links, as the server lists them."""
    found = site.api("/api/v1/devices")["items"]
    return next(each["links"] for each in found if each["name"] == device)


def wait_links(site: Site, count: int, device: str = "default") -> list[dict[str, Any]]:
    def look() -> list[dict[str, Any]] | None:
        found = links(site, device)
        return found if len(found) == count else None

    found = wait_until(look)
    assert found is not None
    return found


def connect(site: Site, target: Target, *args: str, **keywords: Any) -> Process:
    agent = site.connect({"web": target.port}, *args, **keywords)
    agent.log("one more link", LINKS - 1)
    return agent


def begin_slow(site: Site, target: Target, count: int) -> list[Visitor]:
    """Visitors that wait for an answer, each on a stream of its own."""
    visitors = [site.begin("/slow") for _ in range(count)]
    wait_until(lambda: target.requests.count("GET /slow") == count)
    return visitors


def serves(site: Site, count: int = 40) -> None:
    """Each on a connection of its own, so over any of the links."""
    for _ in range(count):
        assert site.get("web", "/kib").status == 200


def ids(found: list[dict[str, Any]]) -> set[int]:
    return {link["id"] for link in found}


@pytest.mark.parametrize("transport", ["ws", "tcp"])
def test_an_agent_makes_the_links_it_is_offered_and_says_so_once(
    site: Site, target: Target, transport: str
) -> None:
    agent = connect(site, target, transport=transport)
    assert sorted(link["number"] for link in links(site)) == [1, 2]
    assert {link["worker"] for link in links(site)} == set(range(LINKS))
    serves(site)
    stats = site.stats()
    assert stats["links_opened"] == LINKS
    printed = [line for line in agent.out if '"connected"' in line]
    logged = [line for line in agent.err if '"message": "connected"' in line]
    assert (len(printed), len(logged)) == (1, 1)
    site.settled()


def test_an_agent_may_want_fewer(site: Site, target: Target) -> None:
    site.connect({"web": target.port}, "--links", "1")
    site.server.log("links wanted")
    serves(site)
    time.sleep(1.5)
    assert len(links(site)) == 1


@pytest.mark.parametrize("lost", [0, 1])
def test_one_lost_link_is_made_again_while_the_other_serves(
    site: Site, target: Target, lost: int
) -> None:
    with FaultProxy(site.port) as fault:
        agent = connect(site, target, server_port=fault.port)
        before = sorted(links(site), key=lambda link: link["number"])
        fault.reset_one(before[lost]["peer"])
        wait_until(lambda: before[lost]["id"] not in ids(links(site)))
        serves(site)
        after = wait_links(site, LINKS)
        assert sorted(link["number"] for link in after) == [1, 2]
        assert before[1 - lost]["id"] in ids(after)
        assert {link["worker"] for link in after} == set(range(LINKS))
        serves(site)
        assert agent.popen.poll() is None
        assert sum('"message": "connected"' in line for line in agent.err) == 1
        site.settled()


def test_a_lost_link_takes_no_visitor_of_the_others_with_it(site: Site, target: Target) -> None:
    with FaultProxy(site.port) as fault:
        connect(site, target, server_port=fault.port)
        # Slow answers on both links; those of one of them end with it.
        visitors = begin_slow(site, target, 20)
        lost = links(site)[0]
        fault.reset_one(lost["peer"])
        wait_until(lambda: lost["id"] not in ids(links(site)))  # it is soon made again
        target.release()
        statuses = [visitor.response().status for visitor in visitors]
        assert set(statuses) == {200, 502}
    site.settled()


def test_a_new_run_replaces_all_links_of_the_old_one_and_no_visitor_notices(
    site: Site, target: Target
) -> None:
    first = connect(site, target)
    old = links(site)
    failed: list[object] = []
    stop = threading.Event()

    def visit() -> None:
        while not stop.is_set():
            try:
                answer = site.get("web", "/kib")
            except (OSError, Truncated) as error:
                failed.append(error)
                continue
            if answer.status != 200:
                failed.append(answer.head)

    visitor = threading.Thread(target=visit)
    visitor.start()
    try:
        second = connect(site, target, transport="tcp")
        assert first.exit_code() == 1
        wait_until(lambda: not ids(old) & ids(links(site)))
    finally:
        stop.set()
        visitor.join()
    assert failed == []
    [line] = [line for line in first.err if line.startswith("proxy-engine: error:")]
    assert "replaced by another agent run" in line
    serves(site)
    assert second.popen.poll() is None
    site.settled()


def test_what_is_under_way_on_a_replaced_run_is_answered(site: Site, target: Target) -> None:
    first = connect(site, target, "--grace", "20s")
    visitors = begin_slow(site, target, 10)
    second = site.connect({"web": target.port})
    serves(site)
    target.release()
    assert [visitor.response().status for visitor in visitors] == [200] * len(visitors)
    assert first.exit_code() == 1
    wait_links(site, LINKS)
    assert second.popen.poll() is None
    site.settled()


def test_an_agent_drains_on_all_its_links(site: Site, target: Target) -> None:
    agent = connect(site, target, "--grace", "20s")
    visitors = begin_slow(site, target, 10)
    agent.signal()
    site.server.log("device drains", LINKS)
    wait_until(lambda: not site.is_online("web"))
    target.release()
    assert [visitor.response().status for visitor in visitors] == [200] * len(visitors)
    assert agent.exit_code() == 0
    site.settled()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_all_links_are_made_again_with_the_next_server(
    site: Site, target: Target, number: signal.Signals
) -> None:
    agents = [connect(site, target)]
    other = site.make_token("other")
    agents.append(site.connect({"api": target.port}, token=other, transport="tcp"))
    site.server.signal(number)
    site.server.exit_code()
    site.restart_server()
    for device in ("default", "other"):
        wait_links(site, LINKS, device)
    for name in ("web", "api"):
        site.wait_online(name)
        for _ in range(10):
            assert site.get(name, "/kib").status == 200
    for agent in agents:
        assert agent.popen.poll() is None
        assert sum('"connected"' in line for line in agent.out) == 1


def test_links_beyond_the_limit_are_refused_and_harm_nothing(site: Site, target: Target) -> None:
    connect(site, target)
    token = site.make_token("greedy")
    with pytest.raises(ConnectionError, match=r"(?s)409.*bad_link_number"):
        RawLink(site.port, token, number=LINKS + 1)
    made = [RawLink(site.port, token, instance=f"run{number}") for number in range(6)]
    with pytest.raises(ConnectionError, match=r"(?s)429.*too_many_links"):
        RawLink(site.port, token, instance="run7")
    for link in made:
        link.close()
    serves(site)


def test_a_stock_peer_has_one_link(site: Site) -> None:
    token = site.make_token("stock")
    with RawLink(site.port, token, agent=False) as first:
        assert b"Proxy-Engine" not in first.head
        site.wait_online("stock")
        with RawLink(site.port, token, agent=False):
            first.ended()
            wait_links(site, 1, "stock")


def test_an_agent_that_knows_nothing_of_several_links_has_one(site: Site) -> None:
    token = site.make_token("old")
    with RawLink(site.port, token, number=None) as first:
        first.register("old")
        with RawLink(site.port, token, number=None) as second:
            second.register("old")
            assert [each["code"] for each in first.records()] == ["replaced"]
            wait_links(site, 1, "old")
