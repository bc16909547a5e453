from __future__ import annotations

import itertools
from typing import Any

import pytest

from proxy_engine.handshake import Offer
from proxy_engine.links.demand import FEWER_AFTER, SETTLE, LinkDemand
from proxy_engine.links.table import Link, LinkTable
from tests.unit.proxy.fake_engine import FakeEngine
from tests.unit.proxy.test_link_table import token

WORKERS = 4


class Server:
    """Runs of agents that do as they are told, on workers as busy as the test says."""

    def __init__(self, *, busy_share: int = 60, links_max: int = WORKERS) -> None:
        self.engine = FakeEngine(WORKERS)
        self.now = 0.0
        self.table = LinkTable(links_max=links_max, workers=WORKERS)
        fake: Any = self.engine
        self.demand = LinkDemand(fake, self.table, busy_share=busy_share, clock=lambda: self.now)
        self.ids = itertools.count(1)

    def link(self, device: int = 1, number: int = 1, *, is_agent: bool = True) -> Link:
        link_id = next(self.ids)
        offer = Offer("raw", "", int(is_agent), 0, "i" if is_agent else "", number)
        peer = f"peer:{link_id}"
        self.table.accept(device, token(device), offer, peer, self.now)
        link = self.table.up(link_id, device, peer, self.now)
        assert link is not None
        self.demand.registered(link)
        return link

    def run(self, seconds: float, loads: dict[Link, float], *, others: float = 0.0) -> None:
        """Time in which these links take these parts of a core, and something else of each
        worker takes `others`."""
        for _ in range(round(seconds)):
            self.now += 1
            used = [others] * WORKERS
            for link, load in loads.items():
                used[link.worker] += load
            for worker, share in enumerate(used):
                self.engine.cpu_us[worker] += round(share * 1e6)
            for link, load in loads.items():
                if load and load * 16 >= used[link.worker]:
                    self.demand.load(link.id, round(1000 * load / used[link.worker]))
            self.demand.tick()

    def told(self) -> list[int]:
        """Numbers of links wanted, since the last time."""
        sent, self.engine.sent = self.engine.sent, []
        return [record["wanted"] for _, record in sent]


def test_a_link_that_makes_its_worker_busy_gets_another_on_the_least_busy_worker() -> None:
    server = Server()
    neighbour = server.link(device=2)
    first = server.link()
    server.run(20, {first: 0.8, neighbour: 0.2})
    assert server.told() == [2]
    second = server.link(number=2)
    assert second.worker not in (first.worker, neighbour.worker)


def test_a_burst_is_no_need() -> None:
    server = Server()
    first = server.link()
    server.run(2, {first: 1.0})
    server.run(20, {first: 0.0})
    assert server.told() == []


def test_a_run_gets_links_one_by_one_for_as_long_as_they_are_all_busy() -> None:
    server = Server()
    links = [server.link()]
    for wanted in (2, 3, 4):
        server.run(SETTLE + 5, dict.fromkeys(links, 0.9))
        assert server.told() == [wanted]
        links.append(server.link(number=wanted))
    server.run(200, dict.fromkeys(links, 0.9))
    assert server.told() == []
    assert {link.worker for link in links} == set(range(WORKERS))


def test_who_has_little_of_a_busy_worker_gets_nothing() -> None:
    server = Server()
    greedy, modest = server.link(device=2), server.link(device=1)
    modest.worker = greedy.worker
    server.run(30, {greedy: 0.85, modest: 0.1})
    [(told, _)] = server.engine.sent[:1]
    assert told == greedy.id
    assert {to for to, _ in server.engine.sent} == {greedy.id}


def test_without_a_worker_that_has_room_there_is_no_other_link() -> None:
    server = Server()
    first = server.link()
    server.run(60, {first: 0.4}, others=0.4)
    assert server.told() == []


def test_an_agent_that_does_not_follow_is_told_once_a_minute() -> None:
    server = Server()
    first = server.link()
    server.run(10 + 3 * FEWER_AFTER, {first: 0.9})
    assert server.told() == [2, 2, 2, 2]


def test_when_fewer_would_do_for_a_minute_they_become_fewer_one_by_one() -> None:
    server = Server()
    links = [server.link(number=number) for number in (1, 2, 3)]
    server.run(60, dict.fromkeys(links, 0.25))
    assert server.told() == []  # 0.75 are too much for two that are not to be busy
    server.run(30, dict.fromkeys(links, 0.05))
    server.run(30, dict.fromkeys(links, 0.5))
    assert server.told() == []
    server.run(FEWER_AFTER + 20, dict.fromkeys(links, 0.02))
    assert server.told() == [2]
    server.table.down(links.pop().id)
    server.run(FEWER_AFTER + SETTLE + 5, dict.fromkeys(links, 0.0))
    assert server.told() == [1]
    server.table.down(links.pop().id)
    server.run(300, dict.fromkeys(links, 0.0))
    assert server.told() == []


def test_a_busy_neighbour_keeps_no_link_of_an_idle_run() -> None:
    server = Server()
    links = [server.link(number=number) for number in (1, 2)]
    server.run(FEWER_AFTER + 20, {}, others=0.9)
    assert server.told() == [1]
    assert links


def test_links_that_drain_or_have_gone_are_not_counted() -> None:
    server = Server()
    first, second = server.link(), server.link(number=2)
    second.is_draining = True
    server.run(FEWER_AFTER + 5, {first: 0.9})
    assert server.told() == [2]
    server.table.down(first.id)
    server.table.down(second.id)
    server.run(100, {})
    assert server.told() == []
    assert server.demand._runs == {}


@pytest.mark.parametrize(("busy_share", "told"), [(0, [WORKERS]), (1, [])])
def test_with_a_share_of_nothing_all_links_are_wanted_at_once(
    busy_share: int, told: list[int]
) -> None:
    server = Server(busy_share=busy_share)
    server.link()
    assert server.told() == told
    server.run(100, {})
    assert server.engine.load_asks == 0


@pytest.mark.parametrize("busy_share", [0, 60])
def test_a_stock_peer_is_told_nothing(busy_share: int) -> None:
    server = Server(busy_share=busy_share)
    server.run(60, {server.link(is_agent=False): 0.9})
    assert server.told() == []


def test_where_one_link_is_all_nobody_is_asked() -> None:
    server = Server(links_max=1)
    server.run(60, {server.link(): 0.9})
    assert (server.told(), server.engine.load_asks) == ([], 0)


def test_it_looks_once_a_second_however_often_it_is_asked() -> None:
    server = Server()
    first = server.link()
    server.run(5, {first: 0.5})
    before = server.engine.load_asks
    for _ in range(20):
        server.now += 0.5
        server.engine.cpu_us[first.worker] += 250_000
        server.demand.tick()
    assert server.engine.load_asks - before == 10
