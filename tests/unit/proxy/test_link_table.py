from __future__ import annotations

from collections import Counter

import pytest

from proxy_engine.handshake import Offer, Refusal
from proxy_engine.links.table import Link, LinkTable
from proxy_engine.storage import Token


def token(device: int) -> Token:
    return Token(
        id=device, name=f"d{device}", kind="device", digest=b"", device_id=device,
        device=f"d{device}", is_blocked=False, created_at=0.0, expires_at=None, revoked_at=None,
        last_used_at=None,
    )  # fmt: skip


class Table(LinkTable):
    """A table in which links come up as soon as they are accepted."""

    links_made = 0

    def add(self, device: int, number: int = 1, *, instance: str = "i") -> Link:
        self.links_made += 1
        peer = f"1.2.3.4:{self.links_made}"
        offer = Offer("raw", "", 1, 1 << 20, instance, number)
        accepted = self.accept(device, token(device), offer, peer, 0.0)
        link = self.up(self.links_made, device, peer, 0.0)
        assert link is accepted
        return link


def test_the_links_of_a_run_get_a_worker_each() -> None:
    table = Table(links_max=4, workers=4)
    for device in range(1, 9):
        assert {table.add(device, number).worker for number in (1, 2, 3, 4)} == {0, 1, 2, 3}


def test_a_link_goes_to_the_least_loaded_worker_its_run_is_not_on() -> None:
    table = Table(links_max=2, workers=3)
    assert [table.add(1, number).worker for number in (1, 2)] == [0, 1]
    assert [table.add(2, number).worker for number in (1, 2)] == [2, 0]
    assert table.add(3, instance="").worker == 1
    table.down(1)  # was on 0, which has one left; 1 has two and 2 has one
    assert table.add(4).worker == 0


def test_devices_with_one_link_share_the_workers_evenly() -> None:
    table = Table(links_max=1, workers=4)
    assert Counter(table.add(device).worker for device in range(100)) == dict.fromkeys(range(4), 25)


def test_links_that_are_only_accepted_count_as_well() -> None:
    table = LinkTable(links_max=2, workers=2)
    offers = [Offer("raw", "", 1, 1 << 20, "i", number) for number in (1, 2)]
    made = [table.accept(1, token(1), each, f"1.2.3.4:{each.number}", 0.0) for each in offers]
    assert [link.worker for link in made] == [0, 1]
    table.expire(31.0)
    assert table.accept(1, token(1), offers[0], "1.2.3.4:9", 31.0).worker == 0


def test_with_more_links_than_workers_they_double_up_evenly() -> None:
    table = Table(links_max=4, workers=2)
    assert sorted(table.add(1, number).worker for number in (1, 2, 3, 4)) == [0, 0, 1, 1]


def test_a_link_made_again_may_go_where_the_old_one_was() -> None:
    table = Table(links_max=2, workers=2)
    assert [table.add(1, number).worker for number in (1, 2)] == [0, 1]
    assert table.add(1, 2).worker == 1


def test_a_table_without_links_keeps_nothing() -> None:
    table = Table(links_max=2, workers=2)
    for device in (1, 2):
        for number in (1, 2):
            table.add(device, number)
    for link in list(table):
        table.down(link.id)
    assert len(table) == 0
    assert table._loads == [0, 0]
    assert not table._by_device
    assert not table._accepted


def test_numbers_begin_at_one_and_end_at_the_limit() -> None:
    table = Table(links_max=2, workers=2)
    with pytest.raises(Refusal, match="bad_link_number"):
        table.add(1, 3)
