"""The contract of storage.tunnels."""

from __future__ import annotations

import asyncio

from proxy_engine.storage import Store


async def device(store: Store, name: str) -> int:
    token = await store.token_add(
        name=name, kind="device", digest=name.encode(), device=name, now=1.0, expires_at=None
    )
    return token.device_id or 0


async def test_a_tunnel_belongs_to_the_device_that_came_first(store: Store) -> None:
    one, two = await device(store, "one"), await device(store, "two")
    [first] = await store.tunnels_claim([("web", "http", one)], 1.0)
    assert (first.name, first.kind, first.device_id, first.created_at) == ("web", "http", one, 1.0)
    assert await store.tunnels_claim([("web", "http", one)], 2.0) == [first]
    both = await store.tunnels_claim([("web", "http", two), ("api", "http", two)], 3.0)
    assert {tunnel.name: tunnel.device_id for tunnel in both} == {"web": one, "api": two}
    assert await store.tunnels_claim([], 3.0) == []
    assert [tunnel.name for tunnel in await store.tunnels()] == ["web", "api"]


async def test_many_claims_of_one_name_at_once_have_one_winner(store: Store) -> None:
    devices = [await device(store, f"d{number}") for number in range(6)]
    answers = await asyncio.gather(
        *(store.tunnels_claim([("web", "http", each), (f"w{each}", "http", each)], 1.0)
          for each in devices)
    )  # fmt: skip
    assert len({next(t for t in found if t.name == "web") for found in answers}) == 1
    assert len(await store.tunnels()) == 7
    assert len({tunnel.id for tunnel in await store.tunnels()}) == 7


async def test_a_tunnel_keeps_its_kind_and_port(store: Store) -> None:
    one = await device(store, "one")
    db, web = await store.tunnels_claim([("db", "http", one), ("web", "http", one)], 1.0)
    assert (db.kind, db.port) == ("http", None)
    await store.tunnel_change(db.id, kind="tcp", port=15432)
    await store.tunnel_change(web.id, kind="tcp", port=None)
    [again, other] = await store.tunnels()
    assert (again.name, again.kind, again.port) == ("db", "tcp", 15432)
    assert (other.name, other.kind, other.port) == ("web", "tcp", None)


async def test_a_port_of_tcp_and_the_same_of_udp_are_two(store: Store) -> None:
    one = await device(store, "one")
    db, dns = await store.tunnels_claim([("db", "tcp", one), ("dns", "udp", one)], 1.0)
    await store.tunnel_change(db.id, kind="tcp", port=10053)
    await store.tunnel_change(dns.id, kind="udp", port=10053)
    assert [(each.kind, each.port) for each in await store.tunnels()] == [
        ("tcp", 10053),
        ("udp", 10053),
    ]


async def test_a_port_is_never_of_two_tunnels(store: Store) -> None:
    one = await device(store, "one")
    db, web = await store.tunnels_claim([("db", "tcp", one), ("web", "tcp", one)], 1.0)
    await store.tunnel_change(db.id, kind="tcp", port=15432)
    await store.tunnel_change(web.id, kind="tcp", port=15432)
    assert {tunnel.name: tunnel.port for tunnel in await store.tunnels()} == {
        "db": None,
        "web": 15432,
    }
