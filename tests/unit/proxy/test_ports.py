"""TCP tunnels register: ports given out, kept, refused, released and had again."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from proxy_engine.cache import AccessCache
from proxy_engine.grants import PortRange, parse_scopes
from proxy_engine.links.links import Links
from proxy_engine.links.login_guard import LoginGuard
from proxy_engine.storage.sqlite import SqliteStore
from proxy_engine.tokens import create
from proxy_engine.tunnels.ports import GRACE, Ports
from proxy_engine.tunnels.routes import TunnelTable
from tests.unit.proxy.fake_engine import FakeEngine, body, head, status

AGENT = {"Connection": "Upgrade", "Upgrade": "proxy-engine-yamux", "Proxy_Engine_Version": "1"}


class Site:
    """A server's links and ports over a real store and a fake engine."""

    def __init__(self, store: SqliteStore) -> None:
        fake: Any = FakeEngine()
        self.engine = fake
        self.store = store
        self.now = 1000.0
        self.table = TunnelTable(domain="localhost", port=8080)
        self.ports = Ports(
            fake,
            self.table,
            ranges=(PortRange(10000, 10009), PortRange(8080, 8081)),
            reserved=(8080,),
            monotonic=lambda: self.now,
            shuffle=lambda ports: None,
        )
        self.links = Links(
            fake, store, self.table, links_max=2, ports=self.ports,
            cache=AccessCache(store), guard=LoginGuard(3), clock=lambda: self.now,
        )  # fmt: skip
        self.ticket = 0

    async def token(self, name: str, *scopes: str) -> str:
        secret, _ = await create(self.store, name=name, now=self.now, scopes=parse_scopes(scopes))
        return secret

    async def link(self, number: int, secret: str, instance: str = "i") -> None:
        self.ticket += 1
        request = head(
            Authorization=f"Bearer {secret}",
            Proxy_Engine_Instance=instance,
            Proxy_Engine_Link=str(number % 10),
            **AGENT,
        )
        self.links.on_event((1, self.ticket, "1.2.3.4:5", request, ()))
        await self.links.settle()
        assert status(self.engine.replies[-1][1]) == 101
        device = self.engine.replies[-1][2]["device"]
        self.links.on_event((2, number, device, "1.2.3.4:5", b""))

    async def register(
        self, link: int, *tunnels: tuple[str, int | None], kind: str = "tcp"
    ) -> dict[str, str]:
        """What each tunnel got: a URL, or the code of its refusal."""
        specs = [{"name": name, "kind": kind, "port": port} for name, port in tunnels]
        record = json.dumps({"type": "register", "tunnels": specs}).encode()
        self.links.on_event((4, link, record))
        await self.links.settle()
        answer = next(sent for to, sent in reversed(self.engine.sent) if to == link)
        assert answer["type"] == "registered", answer
        granted = {tunnel["name"]: tunnel["url"] for tunnel in answer["tunnels"]}
        return granted | {item["name"]: item["code"] for item in answer["refused"]}

    def down(self, link: int) -> None:
        self.links.on_event((3, link, 1, "closed", 0, 0, 1.0))

    async def later(self, seconds: float) -> None:
        self.now += seconds
        self.links.tick()


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    store = await SqliteStore.open(tmp_path / "db")
    yield Site(store)
    await store.close()


async def test_a_tunnel_gets_the_port_it_asks_for(site: Site) -> None:
    await site.link(1, await site.token("pi"))
    assert await site.register(1, ("db", 10005)) == {"db": "tcp://localhost:10005"}
    assert site.engine.ports == {10005}
    assert site.engine.routes["tcp::10005"][1:] == ((1,), "db")
    assert site.engine.routes["tcp:db"][1:] == ((1,), "db")


async def test_any_port_stays_the_same(site: Site) -> None:
    secret = await site.token("pi")
    await site.link(1, secret)
    assert await site.register(1, ("db", 0), ("ssh", 0)) == {
        "db": "tcp://localhost:10000",
        "ssh": "tcp://localhost:10001",
    }
    site.down(1)
    await site.later(GRACE + 2)
    await site.later(1)
    assert site.engine.ports == set()
    await site.link(2, secret, "j")
    assert await site.register(2, ("ssh", 0)) == {"ssh": "tcp://localhost:10001"}
    again = Site(site.store)  # the server restarts
    again.table.load(await site.store.tunnels())
    await again.link(1, secret)
    assert await again.register(1, ("ssh", 0)) == {"ssh": "tcp://localhost:10001"}
    assert again.engine.ports == {10001}


async def test_a_port_outlives_a_short_absence(site: Site) -> None:
    secret = await site.token("pi")
    await site.link(1, secret)
    await site.register(1, ("db", 10005))
    await site.later(100)
    site.down(1)
    await site.later(GRACE - 1)
    assert site.engine.ports == {10005}
    await site.link(2, secret)
    await site.register(2, ("db", 10005))
    await site.later(GRACE)
    assert site.engine.ports == {10005}


@pytest.mark.parametrize("port", [22, 9999, 10010, 8080])
async def test_a_port_the_server_does_not_give_out_is_refused(site: Site, port: int) -> None:
    await site.link(1, await site.token("pi"))
    assert await site.register(1, ("db", port)) == {"db": "port_forbidden"}
    assert await site.register(1, ("db", 8081)) == {"db": "tcp://localhost:8081"}


async def test_a_port_outside_the_tokens_scope_is_refused(site: Site) -> None:
    await site.link(1, await site.token("pi", "port=10003-10004"))
    assert await site.register(1, ("a", 10005), ("b", 10004), ("c", 0), ("d", 0)) == {
        "a": "port_forbidden",
        "b": "tcp://localhost:10004",
        "c": "tcp://localhost:10003",
        "d": "port_taken",
    }


async def test_a_port_belongs_to_its_tunnel_also_while_its_device_is_away(site: Site) -> None:
    await site.link(1, await site.token("one"))
    await site.register(1, ("db", 10005))
    site.down(1)
    await site.later(100)
    await site.link(2, await site.token("two"))
    assert await site.register(2, ("other", 10005)) == {"other": "port_taken"}


async def test_a_device_may_call_its_tunnel_something_else(site: Site) -> None:
    await site.link(1, await site.token("one"))
    await site.register(1, ("db", 10005))
    assert await site.register(1, ("postgres", 10005)) == {"postgres": "port_taken"}
    assert await site.register(1, ("postgres", 10005)) == {"postgres": "tcp://localhost:10005"}
    assert site.engine.routes["tcp::10005"][2] == "postgres"
    assert [t.port for t in await site.store.tunnels()] == [None, 10005]


async def test_a_port_that_another_program_has_is_refused(site: Site) -> None:
    site.engine.ports_in_use = {10000, 10005}
    await site.link(1, await site.token("one"))
    assert await site.register(1, ("db", 10005), ("any", 0)) == {
        "db": "port_taken",
        "any": "tcp://localhost:10001",
    }


async def test_a_private_tunnel_has_no_port(site: Site) -> None:
    await site.link(1, await site.token("pi"))
    assert await site.register(1, ("db", None)) == {"db": "private:pi/db"}
    assert site.engine.ports == set()
    assert list(site.engine.routes) == ["tcp:db"]


async def test_a_tunnel_may_change_its_port_and_become_private(site: Site) -> None:
    await site.link(1, await site.token("pi"))
    await site.register(1, ("db", 10005))
    assert await site.register(1, ("db", 10006)) == {"db": "tcp://localhost:10006"}
    assert "tcp::10005" not in site.engine.routes
    await site.later(1)
    assert site.engine.ports == {10006}
    assert await site.register(1, ("db", None)) == {"db": "private:pi/db"}
    await site.later(1)
    assert site.engine.ports == set()


async def test_several_links_share_a_port(site: Site) -> None:
    secret = await site.token("pi")
    await site.link(1, secret)
    await site.link(2, secret)
    for link in (1, 2):
        assert await site.register(link, ("db", 0)) == {"db": "tcp://localhost:10000"}
    assert site.engine.routes["tcp::10000"][1] == (1, 2)


@pytest.mark.parametrize("port", [-1, 65536])
async def test_a_number_that_is_no_port_is_refused(site: Site, port: int) -> None:
    await site.link(1, await site.token("pi"))
    assert await site.register(1, ("db", port)) == {"db": "bad_port"}


async def test_a_port_closed_a_moment_ago_is_opened_again_when_it_can_be(site: Site) -> None:
    await site.link(1, await site.token("pi"))
    await site.register(1, ("db", 10005))
    await site.register(1, ("db", 10006))
    await site.later(1)
    site.engine.ports_in_use = {10005}  # our own listeners are still there
    assert await site.register(1, ("db", 10005)) == {"db": "tcp://localhost:10005"}
    site.engine.ports_in_use = set()
    await site.later(1)
    assert site.engine.ports == {10005}


async def test_a_port_is_not_lost_to_a_tick_while_the_store_writes(site: Site) -> None:
    secret = await site.token("pi")
    await site.link(1, secret)
    write = site.store.tunnel_change

    async def slow(tunnel_id: int, *, kind: str, port: int | None) -> None:
        await site.later(1)
        await write(tunnel_id, kind=kind, port=port)

    site.store.tunnel_change = slow  # type: ignore[method-assign]
    await site.register(1, ("db", 10005))
    assert site.engine.ports == {10005}


# --- private access -------------------------------------------------------------------------

JOIN = {"Connection": "Upgrade", "Upgrade": "proxy-engine-tcp"}


async def join(site: Site, secret: str, target: str = "pi/db", **fields: str) -> tuple[int, str]:
    """(status, the tunnel joined or the code of the refusal)."""
    site.ticket += 1
    how = {**JOIN, **fields}
    request = head(f"/_proxy/tcp/{target}", Authorization=f"Bearer {secret}", **how)
    site.links.on_event((1, site.ticket, "1.2.3.4:5", request, ()))
    await site.links.settle()
    ticket, response, options = site.engine.replies[-1]
    assert ticket == site.ticket
    if options["accept"]:
        return status(response), options["tunnel"]
    return status(response), body(response)["error"]


@pytest.fixture
async def private(site: Site) -> Site:
    await site.link(1, await site.token("pi"))
    await site.register(1, ("db", None), ("ssh", 10005))
    return site


@pytest.mark.parametrize(
    ("scopes", "answer"),
    [
        (["connect=pi/db"], (101, "db")),
        (["connect=*/*"], (101, "db")),
        (["connect=pi/ssh"], (403, "wrong_scope")),
        ([], (403, "wrong_scope")),
        (["tunnel=*"], (403, "wrong_scope")),
    ],
)
async def test_a_token_joins_what_its_scope_names(
    private: Site, scopes: list[str], answer: tuple[int, str]
) -> None:
    assert await join(private, await private.token("laptop", *scopes)) == answer


async def test_a_device_and_an_admin_may_join(private: Site) -> None:
    own, _ = await create(private.store, name="pi2", device="pi", now=private.now)
    assert await join(private, own) == (101, "db")
    assert await join(private, own, "pi/ssh") == (101, "ssh")
    for scopes, answer in (([], (101, "db")), (["read-only"], (403, "wrong_scope"))):
        admin, _ = await create(
            private.store, name=f"a{len(scopes)}", kind="admin", now=private.now,
            scopes=parse_scopes(scopes),
        )  # fmt: skip
        assert await join(private, admin) == answer


async def test_what_can_not_be_joined(private: Site) -> None:
    secret = await private.token("laptop", "connect=*/*")
    assert await join(private, "pe_" + "x" * 43) == (401, "unknown_token")
    assert await join(private, secret, "pi/none") == (404, "unknown_tunnel")
    assert await join(private, secret, "other/db") == (404, "unknown_tunnel")
    assert await join(private, secret, "pi") == (404, "not_found")
    assert await join(private, secret, Upgrade="websocket") == (426, "upgrade_required")
    assert await join(private, secret, Connection="close") == (400, "bad_upgrade")
    private.down(1)
    assert await join(private, secret) == (503, "device_offline")
    await private.store.token_revoke("laptop", private.now)
    await private.links.recheck()


async def test_a_stock_device_serves_the_tcp_tunnel_of_its_name(site: Site) -> None:
    secret = await site.token("pi")
    await site.link(1, secret)
    await site.register(1, ("pi", 10005))
    site.down(1)
    site.ticket += 1
    fields = {"Connection": "Upgrade", "Upgrade": "proxy-engine-yamux"}
    site.links.on_event(
        (1, site.ticket, "1.2.3.4:5", head(Authorization=f"Bearer {secret}", **fields), ())
    )
    await site.links.settle()
    site.links.on_event((2, 2, site.engine.replies[-1][2]["device"], "1.2.3.4:5", b""))
    await site.links.settle()
    assert site.engine.routes["tcp::10005"][1:] == ((2,), "pi")


async def test_a_udp_tunnel_has_a_port_beside_that_of_tcp(site: Site) -> None:
    await site.link(1, await site.token("pi"))
    assert await site.register(1, ("dns", 10005), kind="udp") == {"dns": "udp://localhost:10005"}
    assert (site.engine.udp_ports, site.engine.ports) == ({10005}, set())
    assert site.engine.routes["udp::10005"][1:] == ((1,), "dns")
    await site.link(2, await site.token("pi2"))
    assert await site.register(2, ("db", 10005)) == {"db": "tcp://localhost:10005"}
    assert (site.engine.udp_ports, site.engine.ports) == ({10005}, {10005})
    assert await site.register(2, ("other", 10005), kind="udp") == {"other": "port_taken"}
    await site.register(2, ("db", 10005))
    site.down(1)
    await site.later(GRACE + 2)
    await site.later(GRACE + 2)
    assert (site.engine.udp_ports, site.engine.ports) == (set(), {10005})


async def test_a_tunnel_that_becomes_udp_leaves_its_tcp_port(site: Site) -> None:
    await site.link(1, await site.token("pi"))
    await site.register(1, ("dns", 10005))
    assert await site.register(1, ("dns", 10005), kind="udp") == {"dns": "udp://localhost:10005"}
    assert (site.engine.udp_ports, site.engine.ports) == ({10005}, set())
    assert "tcp::10005" not in site.engine.routes
    assert await site.register(1, ("dns", 10005)) == {"dns": "tcp://localhost:10005"}
    assert (site.engine.udp_ports, site.engine.ports) == (set(), {10005})


async def test_ports_of_udp_are_subject_to_the_tokens_scope_too(site: Site) -> None:
    await site.link(1, await site.token("pi", "port=10003"))
    assert await site.register(1, ("dns", 10005), kind="udp") == {"dns": "port_forbidden"}
    assert await site.register(1, ("dns", 0), kind="udp") == {"dns": "udp://localhost:10003"}
    assert await site.register(1, ("dns", None), kind="udp") == {"dns": "bad_port"}
    site.engine.udp_ports_in_use.add(8080)
    await site.link(2, await site.token("pi2"))
    assert await site.register(2, ("own", 8080), kind="udp") == {"own": "port_taken"}
