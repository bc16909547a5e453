"""The contract of storage.tunnels."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from proxy_engine.storage import DomainTaken, NameTaken, PortTaken, Store, Tunnel
from proxy_engine.tunnels.options import (
    NONE,
    BasicAuth,
    Domain,
    Headers,
    Maintenance,
    Options,
    User,
)
from tests.storage.conftest import Backend

DOMAIN = Domain(name="www.example")
OPTIONS = Options(
    allow=("10.0.0.0/8", "::1/128"),
    deny=(),
    basic_auth=BasicAuth(salt="ab" * 8, users=(User(name="ann", digest="c" * 64),)),
    request_headers=Headers(remove=("Cookie",), set={"X-From": "proxy"}, add={"X-Via": "1.1 p"}),
    response_headers=Headers(set={"X-Frame-Options": "DENY"}),
    strip_prefix="/api",
    host_header="",
)


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


async def test_a_tunnel_has_what_operators_want_of_it(store: Store) -> None:
    one = await device(store, "one")
    [claimed] = await store.tunnels_claim([("web", "http", one)], 1.0)
    assert (claimed.version, claimed.is_enabled, claimed.options) == (1, True, NONE)
    wanted = msgspec.structs.replace(
        claimed,
        updated_at=2.0,
        is_enabled=False,
        target="127.0.0.1:80",
        maintenance=Maintenance(page="<p>soon", retry_after=60),
        options=OPTIONS,
        domains=(DOMAIN, Domain(name="a.example", is_agents=True)),
    )
    changed = await store.tunnel_update(wanted)
    assert changed is not None
    by_name = (Domain(name="a.example", is_agents=True), DOMAIN)
    assert changed == msgspec.structs.replace(wanted, version=2, domains=by_name)
    assert await store.tunnel("web") == changed
    assert await store.tunnels() == [changed]
    assert await store.tunnels_claim([("web", "http", one)], 3.0) == [changed]
    assert await store.tunnel("other") is None
    plain = msgspec.structs.replace(
        changed, is_enabled=True, target="", maintenance=None, options=NONE, domains=()
    )
    assert await store.tunnel_update(plain) == msgspec.structs.replace(plain, version=3)


async def test_of_two_changes_at_once_one_is_made(store: Store) -> None:
    one = await device(store, "one")
    [read] = await store.tunnels_claim([("web", "http", one)], 1.0)
    first = msgspec.structs.replace(read, target="first:1")
    assert await store.tunnel_update(first) is not None
    assert await store.tunnel_update(msgspec.structs.replace(read, target="second:1")) is None
    found = await store.tunnel("web")
    assert found is not None
    assert (found.target, found.version) == ("first:1", 2)
    changed = await store.tunnel_change(read.id, kind="tcp", port=15432)
    assert changed is not None
    assert (changed.version, changed.target, changed.port) == (3, "first:1", 15432)
    assert await store.tunnel_update(msgspec.structs.replace(read, id=99)) is None
    assert await store.tunnel_change(99, kind="http", port=None) is None


async def test_a_domain_is_of_one_tunnel(store: Store) -> None:
    one = await device(store, "one")
    await store.tunnels_claim([("web", "http", one), ("api", "http", one)], 1.0)
    web, api = sorted(await store.tunnels(), key=lambda tunnel: tunnel.name, reverse=True)
    domains = (DOMAIN, Domain(name="z.example"))
    web = await store.tunnel_update(msgspec.structs.replace(web, domains=domains)) or web
    theirs = (Domain(name="b.example"), Domain(name="www.example", is_agents=True))
    wanted = msgspec.structs.replace(api, domains=theirs, target="x:1")
    with pytest.raises(DomainTaken, match=r"www\.example"):
        await store.tunnel_update(wanted)
    assert await store.tunnel("api") == api  # all of it or nothing
    ahead = msgspec.structs.replace(api, name="new", domains=(DOMAIN,))
    with pytest.raises(DomainTaken, match=r"www\.example"):
        await store.tunnel_add(ahead)
    assert await store.tunnel("new") is None
    assert await store.tunnel_update(msgspec.structs.replace(web, target="y:1"))  # its own
    assert await store.tunnel_delete("web")
    assert not await store.tunnel_delete("web")
    assert await store.tunnel_update(wanted)


async def test_a_tunnel_is_made_ahead(store: Store) -> None:
    one = await device(store, "one")
    wanted = Tunnel(
        id=0, name="db", kind="tcp", device_id=one, created_at=1.0, port=15432, updated_at=1.0,
        options=Options(allow=("10.0.0.0/8",)),
    )  # fmt: skip
    made = await store.tunnel_add(wanted)
    assert made == msgspec.structs.replace(wanted, id=made.id)
    with pytest.raises(NameTaken):
        await store.tunnel_add(wanted)
    with pytest.raises(PortTaken, match="15432"):
        await store.tunnel_add(msgspec.structs.replace(wanted, name="db2"))
    assert await store.tunnels_claim([("db", "http", one)], 2.0) == [made]
    assert made.id > 0
    assert await store.device_delete("one")
    assert await store.tunnels() == []


async def test_what_others_change_of_tunnels_is_noticed(backend: Backend) -> None:
    store, other = await backend.open(), await backend.open()
    try:
        one = await device(other, "one")
        await store.changed_elsewhere()
        [web] = await other.tunnels_claim([("web", "http", one)], 1.0)
        assert await store.changed_elsewhere()
        web = await other.tunnel_update(msgspec.structs.replace(web, target="x:1")) or web
        assert await store.changed_elsewhere()
        await other.tunnel_change(web.id, kind="tcp", port=None)
        assert await store.changed_elsewhere()
        await other.tunnel_delete("web")
        assert await store.changed_elsewhere()
        assert not await store.changed_elsewhere()
    finally:
        await store.close()
        await other.close()
