from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from proxy_engine import control, grants, tokens
from proxy_engine.cache import AccessCache
from proxy_engine.errors import StorageError, UsageError
from proxy_engine.hooks import DeviceConnect, Hook, Refuse, TunnelOpen
from proxy_engine.hooks.manager import Manager
from proxy_engine.links.links import REPLACED_GRACE, SPENT_GRACE, Links
from proxy_engine.links.login_guard import LoginGuard
from proxy_engine.storage import Token
from proxy_engine.storage.sqlite import SqliteStore
from proxy_engine.tunnels.routes import TunnelTable
from proxy_engine_core.core import EVENT_LINK_LOAD, EVENT_LINK_SPENT
from tests.unit.proxy.fake_engine import FakeEngine, body, fields, head, status

RAW = {"Connection": "Upgrade", "Upgrade": "proxy-engine-yamux"}
AGENT = {**RAW, "Proxy_Engine_Version": "1", "Proxy_Engine_Window": "1048576"}


class Server:
    """Links over a real store and a fake engine, and the moves of a device."""

    def __init__(
        self,
        engine: FakeEngine,
        store: SqliteStore,
        *,
        links_max: int = 1,
        hooks: Manager | None = None,
    ) -> None:
        self.engine = engine
        self.store = store
        self.now = 1000.0
        self.wall_jump = 0.0
        self.table = TunnelTable(domain="localhost", port=8080)
        fake: Any = engine
        self.needs_certificate = False
        self.cache = AccessCache(store)
        self.guard = LoginGuard(3)
        self.links = Links(
            fake, store, self.table, links_max=links_max, cache=self.cache, guard=self.guard,
            needs_certificate=lambda: self.needs_certificate,
            hooks=hooks, clock=lambda: self.now + self.wall_jump, monotonic=lambda: self.now,
        )  # fmt: skip
        self._ticket = 0
        self.certificate: tuple[str, ...] = ()  # names of the one that devices show

    async def settle(self) -> None:
        await self.links.settle()

    async def ask(self, request: bytes, peer: str = "1.2.3.4:5") -> bytes:
        self._ticket += 1
        self.links.on_event((1, self._ticket, peer, request, self.certificate))
        await self.settle()
        ticket, response, _ = self.engine.replies[-1]
        assert ticket == self._ticket
        return response

    async def link(self, number: int, secret: str, *, instance: str = "i", **extra: str) -> None:
        peer = f"1.2.3.4:{number}"
        how = {**AGENT, **extra}
        request = head(Authorization=f"Bearer {secret}", Proxy_Engine_Instance=instance, **how)
        assert status(await self.ask(request, peer)) == 101
        device = self.engine.replies[-1][2]["device"]
        self.links.on_event((2, number, device, peer, b""))
        await self.settle()

    async def serve(self, link: int, secret: str, *, number: int, instance: str = "i") -> None:
        """A link of a run, registered with the tunnel web."""
        await self.link(link, secret, instance=instance, Proxy_Engine_Link=str(number))
        await self.register(link, "web")

    async def say(self, link: int, record: Any) -> None:
        data = record if isinstance(record, bytes) else json.dumps(record).encode()
        self.links.on_event((4, link, data))
        await self.settle()

    async def register(self, link: int, *names: str) -> dict[str, Any]:
        record = {"type": "register", "tunnels": [{"name": name} for name in names]}
        await self.say(link, record)
        return self.said(link)[-1]

    async def down(self, link: int) -> None:
        self.links.on_event((3, link, 0, "closed", 10, 20, 1.5))
        await self.settle()

    def said(self, link: int) -> list[dict[str, Any]]:
        return [record for to, record in self.engine.sent if to == link]

    def route(self, name: str) -> tuple[int, ...]:
        return self.engine.routes[f"name:{name}"][1]


@pytest.fixture
def server(engine: FakeEngine, store: SqliteStore) -> Server:
    return Server(engine, store)


@pytest.fixture
async def secret(store: SqliteStore) -> str:
    return (await tokens.create(store, name="pi", now=0.0))[0]


async def test_an_agent_is_let_in_with_what_was_agreed(server: Server, secret: str) -> None:
    response = await server.ask(head(Authorization=f"Bearer {secret}", **AGENT))
    assert status(response) == 101
    assert fields(response)["proxy-engine-window"] == "262144"
    _, _, options = server.engine.replies[0]
    assert options == {
        "accept": True,
        "device": 1,
        "carrier": "raw",
        "window": 262144,
        "streams_max": 65000,
        "preamble": True,
        "direct": 0,
        "worker": 0,
        "quota": 1,
        "limits": (0, 0, 0),
    }
    await server.links.registry.write()
    [token] = await server.store.tokens()
    assert token.last_used_at == 1000.0


async def test_a_stock_peer_is_let_in_with_stock_values(server: Server, secret: str) -> None:
    assert status(await server.ask(head(Authorization=f"Bearer {secret}", **RAW))) == 101
    _, _, options = server.engine.replies[0]
    assert (options["window"], options["streams_max"], options["preamble"]) == (262144, 500, False)


@pytest.mark.parametrize(
    ("credential", "code"),
    [
        ("", "no_token"),
        ("Basic eDp5", "no_token"),
        ("Bearer wrong", "unknown_token"),
        ("Bearer pe_" + "A" * 43, "unknown_token"),
    ],
)
async def test_without_a_good_token_the_answer_is_401(
    server: Server, secret: str, credential: str, code: str
) -> None:
    response = await server.ask(head(Authorization=credential, **AGENT))
    assert status(response) == 401
    assert fields(response)["www-authenticate"] == "Bearer"
    assert body(response)["error"] == code
    assert server.engine.replies[-1][2] == {"accept": False}


async def test_two_credentials_are_none(server: Server, secret: str) -> None:
    request = head(Authorization=f"Bearer {secret}", **AGENT)
    twice = request.replace(b"Host:", b"Authorization: Bearer x\r\nHost:")
    assert status(await server.ask(twice)) == 401


async def test_a_token_in_the_query_opens_nothing(server: Server, secret: str) -> None:
    assert status(await server.ask(head(f"/_proxy/link?token={secret}", **AGENT))) == 401


async def test_revoked_and_expired_tokens_are_401(server: Server, store: SqliteStore) -> None:
    revoked, _ = await tokens.create(store, name="a", now=0.0)
    await store.token_revoke("a", 1.0)
    expired, _ = await tokens.create(store, name="b", now=0.0, expires_in=999.0)
    for secret, code in ((revoked, "revoked_token"), (expired, "expired_token")):
        response = await server.ask(head(Authorization=f"Bearer {secret}", **AGENT))
        assert (status(response), body(response)["error"]) == (401, code)


async def test_an_admin_token_makes_no_link(server: Server, store: SqliteStore) -> None:
    admin, _ = await tokens.create(store, name="root", kind="admin", now=0.0)
    response = await server.ask(head(Authorization=f"Bearer {admin}", **AGENT))
    assert (status(response), body(response)["error"]) == (403, "wrong_kind")


async def block(store: SqliteStore, name: str = "pi") -> None:
    query = "UPDATE devices SET is_blocked = 1 WHERE name = ?"
    await store._write(lambda db: db.execute(query, (name,)))


async def test_a_blocked_device_is_403(server: Server, store: SqliteStore, secret: str) -> None:
    await block(store)
    response = await server.ask(head(Authorization=f"Bearer {secret}", **AGENT))
    assert (status(response), body(response)["error"]) == (403, "blocked_device")


async def test_who_is_not_authorised_learns_nothing_about_the_upgrade(server: Server) -> None:
    assert status(await server.ask(head("/_proxy/other"))) == 401


async def test_a_bad_upgrade_is_refused(server: Server, secret: str) -> None:
    assert status(await server.ask(head(Authorization=f"Bearer {secret}"))) == 426


async def test_a_bad_head_is_400(server: Server) -> None:
    assert status(await server.ask(b"nonsense\r\n\r\n")) == 400


async def test_while_draining_the_answer_is_503(server: Server, secret: str) -> None:
    server.links.drain()
    response = await server.ask(head(Authorization=f"Bearer {secret}", **AGENT))
    assert (status(response), body(response)["error"]) == (503, "draining")
    assert int(fields(response)["retry-after"]) > 0


async def test_while_the_store_fails_the_answer_is_503(
    server: Server, secret: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(digests: list[bytes]) -> None:
        raise StorageError("disk on fire")

    monkeypatch.setattr(server.store, "tokens_by_digest", fail)
    response = await server.ask(head(Authorization=f"Bearer {secret}", **AGENT))
    assert (status(response), body(response)["error"]) == (503, "store_failed")
    assert b"fire" not in response


async def test_registered_tunnels_are_routed_and_answered(server: Server, secret: str) -> None:
    await server.link(7, secret)
    assert len(server.links) == 1
    answer = await server.register(7, "web", "api")
    assert answer == {
        "type": "registered",
        "tunnels": [
            {"name": "web", "kind": "http", "url": "http://web.localhost:8080/"},
            {"name": "api", "kind": "http", "url": "http://api.localhost:8080/"},
        ],
        "refused": [],
        "more": False,
    }
    assert server.engine.routes["host:web.localhost"] == (1, (7,), "web")
    assert server.route("api") == (7,)


async def test_a_tunnel_of_another_device_is_refused(
    server: Server, store: SqliteStore, secret: str
) -> None:
    other, _ = await tokens.create(store, name="other", now=0.0)
    await server.link(7, secret)
    await server.register(7, "web")
    await server.link(8, other)
    answer = await server.register(8, "web", "api", "Not_A_Name")
    assert [tunnel["name"] for tunnel in answer["tunnels"]] == ["api"]
    assert {x["name"]: x["code"] for x in answer["refused"]} == {
        "web": "tunnel_taken",
        "Not_A_Name": "bad_name",
    }
    assert server.route("web") == (7,)


async def test_a_device_that_went_away_keeps_its_routes_without_links(
    server: Server, secret: str
) -> None:
    await server.link(7, secret)
    await server.register(7, "web")
    await server.down(7)
    assert server.route("web") == ()
    assert len(server.links) == 0
    await server.links.registry.write()
    [device] = await server.store.devices()
    assert device.last_seen_at == 1000.0


async def test_the_newest_link_wins_and_routes_move_before_the_old_one_is_closed(
    server: Server, secret: str
) -> None:
    await server.link(7, secret, instance="old")
    await server.register(7, "web")
    await server.link(8, secret, instance="new")
    assert server.route("web") == (7,)
    assert server.engine.closed == []
    server.engine.calls.clear()
    await server.register(8, "web")
    assert server.route("web") == (8,)
    assert server.engine.drained == [7]
    assert server.engine.calls[0][0] == "routes"
    assert server.said(7)[-1]["code"] == "replaced"
    await server.down(7)
    assert server.route("web") == (8,)


async def test_a_replaced_link_has_a_while_for_what_is_under_way(
    server: Server, secret: str
) -> None:
    for link, instance in ((7, "old"), (8, "new")):
        await server.link(link, secret, instance=instance)
        await server.register(link, "web")
    server.now += REPLACED_GRACE - 1
    await server.register(8, "web")
    server.links.tick()
    assert server.engine.drained == [7]
    assert server.engine.closed == []
    server.now += 1
    server.links.tick()
    assert server.engine.closed == [(7, "replaced")]


@pytest.mark.parametrize("instance", ["old", "new"])
async def test_a_replaced_link_can_not_take_its_tunnels_back(
    server: Server, secret: str, instance: str
) -> None:
    await server.link(7, secret, instance=instance)
    await server.link(8, secret, instance="new")
    await server.register(8, "web")
    await server.say(7, {"type": "register", "tunnels": [{"name": "web"}]})
    assert server.route("web") == (8,)


async def test_a_replaced_instance_is_refused_while_the_newer_one_is_here(
    server: Server, secret: str
) -> None:
    for number, instance in ((7, "old"), (8, "new")):
        await server.link(number, secret, instance=instance)
        await server.register(number, "web")
    await server.down(7)
    request = head(Authorization=f"Bearer {secret}", Proxy_Engine_Instance="old", **AGENT)
    answer = await server.ask(request)
    assert status(answer) == 409
    assert b'"replaced"' in answer
    await server.down(8)
    assert status(await server.ask(request)) == 101


async def test_a_newer_link_of_the_same_instance_forbids_nothing(
    server: Server, secret: str
) -> None:
    for number in (7, 8):
        await server.link(number, secret)
        await server.register(number, "web")
    await server.down(7)
    await server.link(9, secret)


async def test_a_spent_link_finishes_what_it_has_behind_a_new_one(
    server: Server, secret: str
) -> None:
    await server.link(7, secret)
    await server.register(7, "web")
    server.links.on_event((EVENT_LINK_SPENT, 7))
    assert server.said(7)[-1] == {"type": "drain"}
    assert server.route("web") == (7,)
    await server.link(8, secret)
    await server.register(8, "web")
    assert server.route("web") == (8,)
    assert ("drain", 7) in server.engine.calls
    assert server.engine.closed == []
    server.now += SPENT_GRACE
    server.links.tick()
    assert server.engine.closed == [(7, "replaced")]


async def test_a_spent_link_that_can_not_be_told_is_closed(server: Server, secret: str) -> None:
    await server.link(7, secret, Proxy_Engine_Version="", Proxy_Engine_Window="")
    server.links.on_event((EVENT_LINK_SPENT, 7))
    assert server.engine.closed == [(7, "spent")]


async def test_a_stock_link_serves_the_tunnel_named_like_its_device(
    server: Server, secret: str
) -> None:
    await server.link(7, secret, Proxy_Engine_Version="", Proxy_Engine_Window="")
    assert server.route("pi") == (7,)
    assert server.said(7) == []


async def test_a_device_that_drains_gets_nothing_new(server: Server, secret: str) -> None:
    await server.link(7, secret)
    await server.register(7, "web")
    await server.say(7, {"type": "drain"})
    assert server.route("web") == ()
    assert server.engine.calls[-1] == ("drain", 7)
    assert server.engine.drained == [7]
    assert server.engine.closed == []


async def test_a_link_made_again_leaves_the_one_of_its_number_that_drains_alone(
    engine: FakeEngine, store: SqliteStore, secret: str
) -> None:
    server = Server(engine, store, links_max=2)
    await server.serve(7, secret, number=1)
    await server.serve(8, secret, number=2)
    await server.say(8, {"type": "drain"})
    assert server.route("web") == (7,)
    await server.serve(9, secret, number=2)
    assert server.route("web") == (7, 9)
    server.now += 1000
    server.links.tick()
    assert engine.closed == []
    assert server.said(8)[1:] == []


async def test_a_busy_worker_makes_its_agent_make_another_link(
    store: SqliteStore, secret: str
) -> None:
    engine = FakeEngine(workers=2)
    server = Server(engine, store, links_max=2)
    await server.serve(7, secret, number=1)
    for _ in range(20):
        server.now += 1
        engine.cpu_us[server.engine.replies[-1][2]["worker"]] += 900_000
        server.links.on_event((EVENT_LINK_LOAD, 7, 1000))
        server.links.tick()
    assert server.said(7)[-1] == {"type": "links", "wanted": 2}
    await server.serve(8, secret, number=2)
    workers = [options["worker"] for _, _, options in engine.replies]
    assert sorted(workers) == [0, 1]


async def test_the_server_tells_its_links_that_it_drains(server: Server, secret: str) -> None:
    await server.link(7, secret)
    server.links.drain()
    assert server.said(7) == [{"type": "drain"}]


async def test_an_unknown_record_is_answered_and_forgiven(server: Server, secret: str) -> None:
    await server.link(7, secret)
    await server.say(7, {"type": "future"})
    assert server.said(7)[-1]["code"] == "unknown_record"
    assert server.engine.closed == []


async def test_broken_json_ends_the_link_with_a_reason(server: Server, secret: str) -> None:
    await server.link(7, secret)
    await server.say(7, b"{nope")
    assert server.said(7)[-1] == {
        "type": "error",
        "code": "bad_record",
        "message": server.said(7)[-1]["message"],
    }
    assert server.engine.closed == [(7, "bad_record")]


async def test_too_many_tunnels_at_once_are_a_bad_record(server: Server, secret: str) -> None:
    await server.link(7, secret)
    answer = await server.register(7, *(f"t{number}" for number in range(control.TUNNELS_MAX + 1)))
    assert answer["code"] == "bad_record"
    assert await server.store.tunnels() == []


async def test_many_tunnels_are_registered_and_answered_in_several_records(
    server: Server, secret: str
) -> None:
    await server.link(7, secret)
    names = {f"t{number}" for number in range(300)}
    asked = control.Register([control.TunnelSpec(name) for name in [*names, "Not-A-Name"]])
    for part in control.encode_register(asked):
        assert server.said(7) == []
        await server.say(7, part)
    answers = server.said(7)
    assert [answer["more"] for answer in answers] == [True, True, False]
    assert {each["name"] for answer in answers for each in answer["tunnels"]} == names
    assert answers[2]["refused"][0]["name"] == "Not-A-Name"
    await server.say(7, control.encode(control.Register([control.TunnelSpec("web")])))
    assert server.route("web") == (7,)
    assert server.route("t0") == ()


async def test_a_list_of_tunnels_that_never_ends_is_not_kept(server: Server, secret: str) -> None:
    await server.link(7, secret)
    part = control.encode(control.Register([control.TunnelSpec("t")] * 128, more=True))
    for _ in range(100):
        await server.say(7, part)
    link = server.links.get(7)
    assert link is not None and len(link.registering or ()) == control.TUNNELS_MAX + 1
    answer = await server.register(7, "web")
    assert answer["code"] == "bad_record"
    assert (await server.register(7, "web"))["type"] == "registered"


async def test_a_link_that_was_never_let_in_is_closed(server: Server) -> None:
    server.links.on_event((2, 9, 1, "6.6.6.6:6", b""))
    assert server.engine.closed == [(9, "unknown")]


async def test_revoking_a_token_closes_its_links(server: Server, secret: str) -> None:
    await server.link(7, secret)
    await server.register(7, "web")
    await server.links.recheck()
    assert server.engine.closed == []
    await server.store.token_revoke("pi", 1.0)
    await server.links.recheck()
    assert server.engine.closed == [(7, "revoked_token")]
    assert server.route("web") == ()


async def test_other_limits_reach_the_engine_and_the_links(server: Server, secret: str) -> None:
    await server.link(7, secret)
    limits = {"tunnels": 1, "connections": 9, "bandwidth": 10**7}
    await tokens.change(server.store, "pi", limits=limits, now=1.0)
    await server.links.recheck()
    assert server.engine.limits == {1: (9, 0, 10**7)}
    link = server.links.get(7)
    assert link is not None and link.limits.tunnels == 1
    assert await tokens.change(server.store, "nobody", limits=limits, now=1.0) is None
    await tokens.create(server.store, name="root", kind="admin", now=0.0)
    with pytest.raises(UsageError):
        await tokens.change(server.store, "root", limits=limits, now=1.0)


async def test_blocking_a_device_closes_its_links(server: Server, secret: str) -> None:
    await server.link(7, secret)
    await block(server.store)
    await server.links.recheck()
    assert server.engine.closed == [(7, "blocked_device")]


async def test_a_device_has_to_show_its_own_certificate(server: Server, secret: str) -> None:
    async def answer(*certificate: str) -> Any:
        server.certificate = certificate
        response = await server.ask(head(Authorization=f"Bearer {secret}", **AGENT))
        return 101 if status(response) == 101 else body(response)["error"]

    assert await answer() == 101
    assert await answer("cn:pi") == 101
    assert await answer("cn:po") == "wrong_certificate"
    server.needs_certificate = True
    assert await answer() == "certificate_required"
    assert await answer("dns:pi") == 101
    await server.store.device_change("pi", certificate_names=["cn:serial 7"])
    server.cache.clear()
    server.needs_certificate = False
    assert await answer("cn:pi") == "wrong_certificate"
    assert await answer() == "certificate_required"
    assert await answer("cn:serial 7", "dns:x") == 101


async def test_so_has_a_device_of_a_fleet(server: Server) -> None:
    secret = await fleet(server, "device=sensor-*")
    server.certificate = ("cn:sensor-1",)
    for name, wanted in (("sensor-1", 101), ("sensor-2", 403)):
        request = head(Authorization=f"Bearer {secret}", Proxy_Engine_Device=name, **AGENT)
        assert status(await server.ask(request)) == wanted


async def test_links_end_whose_certificate_does_not_fit_any_more(
    server: Server, secret: str
) -> None:
    server.certificate = ("cn:pi", "dns:pi.example")
    await server.link(7, secret)
    await server.store.device_change("pi", certificate_names=["dns:pi.example"])
    await server.links.recheck()
    assert server.engine.closed == []
    await server.store.device_change("pi", certificate_names=["dns:other"])
    await server.links.recheck()
    assert server.engine.closed == [(7, "wrong_certificate")]


async def test_a_link_made_with_a_secret_that_was_replaced_ends_with_the_overlap(
    server: Server, secret: str
) -> None:
    await server.link(7, secret)
    made = await tokens.rotate(server.store, "pi", now=server.now, overlap=60.0)
    assert made is not None
    await server.links.recheck()
    server.links.tick()
    assert server.engine.closed == []
    server.now += 60
    server.links.tick()
    assert server.engine.closed == [(7, "expired_token")]


async def test_a_secret_replaced_twice_ends_its_links_at_once(server: Server, secret: str) -> None:
    await server.link(7, secret)
    for _ in range(2):
        await tokens.rotate(server.store, "pi", now=server.now)
    await server.links.recheck()
    assert server.engine.closed == [(7, "unknown_token")]


async def fleet(server: Server, *scopes: str, limits: str = "") -> str:
    secret, _ = await tokens.create(
        server.store, name="fleet", now=0.0, scopes=grants.parse_scopes(scopes),
        limits=grants.parse_limits([limits]), device=None,
    )  # fmt: skip
    return secret


async def test_devices_of_one_token_register_themselves(server: Server) -> None:
    secret = await fleet(server, "device=sensor-*")
    await server.link(7, secret, Proxy_Engine_Device="sensor-1")
    await server.link(8, secret, Proxy_Engine_Device="sensor-2")
    await server.link(9, secret, Proxy_Engine_Device="sensor-1")
    assert [device.name for device in await server.store.devices()] == ["sensor-1", "sensor-2"]
    first, second = (await server.store.devices())[:2]
    assert [link.id for link in server.links.of_device(first.id)] == [7, 9]
    assert [link.device for link in server.links.of_device(second.id)] == ["sensor-2"]
    for name, code in [
        ("", "no_device"),
        ("camera-1", "wrong_device"),
        ("sensor- 1", "wrong_device"),
    ]:
        request = head(Authorization=f"Bearer {secret}", Proxy_Engine_Device=name, **AGENT)
        response = await server.ask(request)
        assert (status(response), body(response)["error"]) == (403, code)
    assert len(await server.store.devices()) == 2


async def test_a_device_of_many_that_is_blocked_stays_out(server: Server) -> None:
    secret = await fleet(server, "device=*")
    await server.link(7, secret, Proxy_Engine_Device="pi")
    await server.link(8, secret, Proxy_Engine_Device="po")
    await block(server.store)
    server.cache.clear()
    await server.links.recheck()
    assert server.engine.closed == [(7, "blocked_device")]
    request = head(Authorization=f"Bearer {secret}", Proxy_Engine_Device="pi", **AGENT)
    response = await server.ask(request)
    assert (status(response), body(response)["error"]) == (403, "blocked_device")


async def test_the_token_of_one_device_is_no_other_ones(server: Server, secret: str) -> None:
    await server.link(7, secret, Proxy_Engine_Device="pi")
    request = head(Authorization=f"Bearer {secret}", Proxy_Engine_Device="po", **AGENT)
    assert body(await server.ask(request))["error"] == "wrong_device"


async def test_each_tunnel_needs_the_tokens_permission(server: Server) -> None:
    secret = await fleet(server, "tunnel=web-*")
    await server.link(7, secret)
    said = await server.register(7, "web-1", "api")
    assert [tunnel["name"] for tunnel in said["tunnels"]] == ["web-1"]
    assert [(item["name"], item["code"]) for item in said["refused"]] == [
        ("api", "tunnel_forbidden")
    ]
    assert [tunnel.name for tunnel in await server.store.tunnels()] == ["web-1"]  # nor claimed


async def test_a_stock_device_needs_permission_for_its_tunnel_too(server: Server) -> None:
    secret = await fleet(server, "tunnel=web-*")
    peer = "1.2.3.4:9"
    await server.ask(head(Authorization=f"Bearer {secret}", **RAW), peer)
    server.links.on_event((2, 9, server.engine.replies[-1][2]["device"], peer, b""))
    await server.settle()
    assert "name:fleet" not in server.engine.routes


async def test_a_token_has_no_more_tunnels_at_once_than_it_may(server: Server) -> None:
    secret = await fleet(server, "device=*", limits="tunnels=2")
    await server.link(7, secret, Proxy_Engine_Device="a")
    await server.link(8, secret, Proxy_Engine_Device="b")
    await server.register(7, "one")
    said = await server.register(8, "two", "three")
    assert [tunnel["name"] for tunnel in said["tunnels"]] == ["two"]
    assert [(item["name"], item["code"]) for item in said["refused"]] == [
        ("three", "too_many_tunnels")
    ]
    assert [tunnel.name for tunnel in await server.store.tunnels()] == ["one", "two"]
    await server.down(7)
    said = await server.register(8, "two", "three")
    assert [tunnel["name"] for tunnel in said["tunnels"]] == ["two", "three"]


async def test_who_takes_over_inherits_the_tunnels_that_count(server: Server) -> None:
    secret = await fleet(server, limits="tunnels=1")
    await server.link(7, secret, instance="i")
    await server.register(7, "one")
    await server.link(8, secret, instance="j")
    said = await server.register(8, "two")
    assert [tunnel["name"] for tunnel in said["tunnels"]] == ["two"]


async def test_an_address_that_fails_too_often_waits_but_not_who_is_known(
    server: Server, secret: str
) -> None:
    good = head(Authorization=f"Bearer {secret}", **AGENT)
    assert status(await server.ask(good)) == 101
    for digit in "abc":
        wrong = head(Authorization="Bearer pe_" + digit * 43, **AGENT)
        assert status(await server.ask(wrong)) == 401
    response = await server.ask(wrong)
    assert (status(response), body(response)["error"]) == (429, "too_many_logins")
    assert int(fields(response)["retry-after"]) > 0
    assert (server.guard.failed, server.guard.limited) == (3, 1)
    assert status(await server.ask(good)) == 101
    assert status(await server.ask(wrong, "1.2.3.5:1")) == 401
    server.now += 20
    assert status(await server.ask(wrong)) == 401


async def test_a_clock_that_is_set_back_makes_nobody_wait(server: Server, secret: str) -> None:
    wrong = head(Authorization="Bearer pe_" + "a" * 43, **AGENT)
    assert status(await server.ask(wrong)) == 401
    server.wall_jump = -3600
    assert status(await server.ask(wrong)) == 401
    assert status(await server.ask(head(Authorization=f"Bearer {secret}", **AGENT))) == 101


async def test_known_devices_come_in_while_the_store_fails(
    server: Server, secret: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = await fleet(server, "device=*")
    await server.link(7, secret)
    await server.link(8, many, Proxy_Engine_Device="a")

    async def fail(*_: object) -> None:
        raise StorageError("disk on fire")

    monkeypatch.setattr(server.store, "tokens_by_digest", fail)
    monkeypatch.setattr(server.store, "devices_claim", fail)
    await server.link(9, secret)
    await server.link(10, many, Proxy_Engine_Device="a")
    request = head(Authorization=f"Bearer {many}", Proxy_Engine_Device="new", **AGENT)
    assert status(await server.ask(request)) == 503


async def test_an_expiring_token_closes_its_links(server: Server, store: SqliteStore) -> None:
    secret, _ = await tokens.create(store, name="a", now=0.0, expires_in=1010.0)
    await server.link(7, secret)
    server.links.tick()
    assert server.engine.closed == []
    server.now = 1010.0
    server.links.tick()
    server.links.tick()
    assert server.engine.closed == [(7, "expired_token")]


async def test_a_device_that_never_came_is_forgotten(server: Server, secret: str) -> None:
    await server.ask(head(Authorization=f"Bearer {secret}", **AGENT), "1.2.3.4:7")
    server.now += 31
    server.links.tick()
    server.links.on_event((2, 7, 1, "1.2.3.4:7", b""))
    assert server.engine.closed == [(7, "unknown")]


async def test_many_devices_at_once_need_few_looks_into_the_store(
    server: Server, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets = [(await tokens.create(store, name=f"d{n}", now=0.0))[0] for n in range(300)]
    looks = []
    original = store.tokens_by_digest

    async def count(digests: Any) -> Any:
        looks.append(len(digests))
        return await original(digests)

    monkeypatch.setattr(store, "tokens_by_digest", count)
    for number, secret in enumerate(secrets):
        request = head(Authorization=f"Bearer {secret}", **AGENT)
        server.links.on_event((1, number, f"1.2.3.4:{number}", request, ()))
    await server.settle()
    assert looks == [64, 64, 64, 64, 44]
    devices = [options["device"] for _, _, options in server.engine.replies]
    assert devices == list(range(1, 301))


async def test_a_failing_store_refuses_tunnels_but_keeps_the_link(
    server: Server, secret: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*args: Any) -> None:
        raise StorageError("disk on fire")

    await server.link(7, secret)
    monkeypatch.setattr(server.store, "tunnels_claim", fail)
    answer = await server.register(7, "web")
    assert [item["code"] for item in answer["refused"]] == ["store_failed"]
    assert server.engine.closed == []


async def test_a_name_given_twice_is_answered_once(server: Server, secret: str) -> None:
    await server.link(7, secret)
    answer = await server.register(7, "web", "web")
    assert [tunnel["name"] for tunnel in answer["tunnels"]] == ["web"]


# --- several links of a run ---------------------------------------------------------------


@pytest.fixture
def many(engine: FakeEngine, store: SqliteStore) -> Server:
    return Server(engine, store, links_max=3)


def request(secret: str, *, number: int = 1, instance: str = "i") -> bytes:
    return head(
        Authorization=f"Bearer {secret}",
        Proxy_Engine_Instance=instance,
        Proxy_Engine_Link=str(number),
        **AGENT,
    )


async def test_an_agent_is_told_how_many_links_it_may_have(many: Server, secret: str) -> None:
    assert fields(await many.ask(request(secret)))["proxy-engine-links"] == "3"


async def test_a_stock_peer_is_told_nothing_and_has_one_link(many: Server, secret: str) -> None:
    response = await many.ask(head(Authorization=f"Bearer {secret}", **RAW))
    assert "proxy-engine-links" not in fields(response)
    for link in (7, 8):
        await many.link(link, secret, instance="", Proxy_Engine_Version="", Proxy_Engine_Link="2")
    assert many.engine.drained == [7]
    assert many.route("pi") == (8,)


async def test_the_links_of_a_run_serve_together(many: Server, secret: str) -> None:
    for number in (1, 2, 3):
        await many.serve(6 + number, secret, number=number)
    assert many.route("web") == (7, 8, 9)
    assert many.engine.closed == []
    await many.down(8)
    assert many.route("web") == (7, 9)
    await many.serve(10, secret, number=2)
    assert many.route("web") == (7, 9, 10)
    assert many.engine.closed == []


async def test_an_agent_that_counts_no_links_has_one(many: Server, secret: str) -> None:
    for link in (7, 8):
        await many.link(link, secret)
        await many.register(link, "web")
    assert many.route("web") == (8,)
    assert many.engine.closed == [(7, "replaced")]


async def test_a_newer_link_of_the_same_number_replaces_only_that_one(
    many: Server, secret: str
) -> None:
    for number in (1, 2):
        await many.serve(6 + number, secret, number=number)
    many.engine.calls.clear()
    await many.serve(9, secret, number=1)
    assert many.route("web") == (8, 9)
    assert many.engine.closed == [(7, "replaced")]
    assert many.engine.calls[0][0] == "routes"
    assert "newer link of this agent" in many.said(7)[-1]["message"]


async def test_the_first_link_of_a_new_run_replaces_all_of_the_old_one(
    many: Server, secret: str
) -> None:
    for number in (1, 2):
        await many.serve(6 + number, secret, number=number, instance="old")
    await many.link(9, secret, instance="new")
    assert many.route("web") == (7, 8)
    await many.register(9, "web")
    assert many.route("web") == (9,)
    assert many.engine.drained == [7, 8]
    assert status(await many.ask(request(secret, number=3, instance="old"))) == 409
    await many.serve(10, secret, number=2, instance="new")
    assert many.route("web") == (9, 10)


async def test_a_run_is_as_old_as_its_first_link(many: Server, secret: str) -> None:
    await many.serve(7, secret, number=1, instance="old")
    await many.link(8, secret, instance="new")
    await many.serve(9, secret, number=2, instance="old")  # is late, takes nothing over
    assert many.route("web") == (7, 9)
    assert many.engine.closed == []
    await many.register(8, "web")
    assert many.route("web") == (8,)
    assert many.engine.drained == [7, 9]


async def test_a_link_that_comes_up_after_its_run_was_replaced_is_closed(
    many: Server, secret: str
) -> None:
    await many.serve(7, secret, number=1, instance="old")
    assert status(await many.ask(request(secret, number=2, instance="old"), "1.2.3.4:9")) == 101
    await many.serve(8, secret, number=1, instance="new")
    await many.down(7)
    many.links.on_event((2, 9, 1, "1.2.3.4:9", b""))
    assert many.engine.closed[-1] == (9, "replaced")
    await many.say(9, {"type": "register", "tunnels": [{"name": "web"}]})
    assert many.route("web") == (8,)


async def test_one_link_that_drains_leaves_the_others_serving(many: Server, secret: str) -> None:
    for number in (1, 2):
        await many.serve(6 + number, secret, number=number)
    await many.say(7, {"type": "drain"})
    assert many.route("web") == (8,)
    assert many.engine.calls[-1] == ("drain", 7)


@pytest.mark.parametrize("number", [4, 4_000_000_000])
async def test_a_number_beyond_what_is_allowed_is_refused(
    many: Server, secret: str, number: int
) -> None:
    response = await many.ask(request(secret, number=number))
    assert (status(response), body(response)["error"]) == (409, "bad_link_number")


async def test_a_device_that_piles_up_links_is_refused(many: Server, secret: str) -> None:
    for link in range(8):
        await many.link(link + 1, secret)
    response = await many.ask(request(secret))
    assert (status(response), body(response)["error"]) == (429, "too_many_links")
    assert int(fields(response)["retry-after"]) > 0
    await many.down(1)
    assert status(await many.ask(request(secret))) == 101


async def test_a_device_that_never_came_leaves_room_for_others(many: Server, secret: str) -> None:
    for port in range(8):
        assert status(await many.ask(request(secret), f"1.2.3.4:{port}")) == 101
    assert status(await many.ask(request(secret))) == 429
    many.now += 31
    many.links.tick()
    for _ in range(9):  # one address again and again is one device that gave up
        assert status(await many.ask(request(secret))) == 101


# --- many records at once -----------------------------------------------------------------


def register_all(server: Server, links: range, names: str = "web") -> None:
    for link in links:
        record = {"type": "register", "tunnels": [{"name": f"{names}{link}"}]}
        server.links.on_event((4, link, json.dumps(record).encode()))


async def test_many_registers_need_few_writes_and_known_names_none(
    server: Server, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    links = range(1, 301)
    for link in links:
        await server.link(link, (await tokens.create(store, name=f"d{link}", now=0.0))[0])
    writes = []
    original = store.tunnels_claim

    async def count(claims: Any, now: float) -> Any:
        writes.append(len(claims))
        return await original(claims, now)

    monkeypatch.setattr(store, "tunnels_claim", count)
    register_all(server, links)
    await server.settle()
    assert writes == [64, 64, 64, 64, 44]
    assert all(server.route(f"web{link}") == (link,) for link in links)
    assert [to for to, _ in server.engine.sent] == list(links)
    register_all(server, links)
    assert [to for to, _ in server.engine.sent] == [*links, *links]  # at once
    assert writes == [64, 64, 64, 64, 44]


async def test_of_two_devices_that_want_a_name_at_once_the_first_gets_it(
    server: Server, store: SqliteStore
) -> None:
    for link in (1, 2):
        await server.link(link, (await tokens.create(store, name=f"d{link}", now=0.0))[0])
    for link in (1, 2):
        data = b'{"type": "register", "tunnels": [{"name": "web"}]}'
        server.links.on_event((4, link, data))
    await server.settle()
    assert server.route("web") == (1,)
    assert server.said(2)[-1]["refused"][0]["code"] == "tunnel_taken"


async def test_records_are_answered_in_order_though_some_wait_for_the_store(
    server: Server, secret: str
) -> None:
    await server.link(7, secret)
    await server.register(7, "web")
    for names in (["new"], ["web"], ["web", "new"]):
        record = {"type": "register", "tunnels": [{"name": name} for name in names]}
        server.links.on_event((4, 7, json.dumps(record).encode()))
    await server.settle()
    answers = [[tunnel["name"] for tunnel in each["tunnels"]] for each in server.said(7)[1:]]
    assert answers == [["new"], ["web"], ["web", "new"]]


async def test_a_link_that_ends_while_the_store_works_serves_nothing(
    server: Server, secret: str
) -> None:
    await server.link(7, secret)
    server.links.on_event((4, 7, b'{"type": "register", "tunnels": [{"name": "web"}]}'))
    await server.down(7)
    assert server.engine.sent == []
    assert server.table.links(next(iter(server.table))) == ()


async def test_known_devices_come_back_while_the_store_hangs_or_fails(
    server: Server, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret, _ = await tokens.create(store, name="known", now=1.0)
    other, _ = await tokens.create(store, name="other", now=1.0)
    await server.link(1, secret)
    answers = asyncio.Event()

    async def hangs(digests: object) -> dict[bytes, Token]:
        await answers.wait()
        raise StorageError("disk on fire")

    monkeypatch.setattr(store, "tokens_by_digest", hangs)
    for ticket, each in enumerate((other, secret, secret), 101):
        request = head(Authorization=f"Bearer {each}", Proxy_Engine_Instance="i", **AGENT)
        server.links.on_event((1, ticket, "1.2.3.4:9", request, ()))
    for _ in range(20):
        await asyncio.sleep(0)
    told = {ticket: status(response) for ticket, response, _ in server.engine.replies}
    assert (told.get(101), told[102]) == (None, 101)
    assert 103 in told
    answers.set()
    await server.settle()
    assert server.engine.replies[-1][0] == 101
    assert status(server.engine.replies[-1][1]) == 503


async def test_a_link_that_comes_up_after_a_write_is_looked_at_again(
    engine: FakeEngine, store: SqliteStore
) -> None:
    server = Server(engine, store)
    secret, token = await tokens.create(store, name="pi", now=1.0)
    request = head(Authorization=f"Bearer {secret}", Proxy_Engine_Instance="i", **AGENT)
    assert status(await server.ask(request, "1.2.3.4:7")) == 101
    await store.token_revoke("pi", 2.0)  # while the link is made
    server.cache.clear()
    await server.links.recheck()  # ... which is not there yet
    server.links.on_event((2, 7, token.device_id or 0, "1.2.3.4:7", b""))
    await server.settle()
    assert server.links.must_recheck
    await server.links.recheck()
    assert not server.links.must_recheck
    assert engine.closed == [(7, "revoked_token")]


# Hooks


class Gate(Hook):
    """Refuses what it is told to, or waits."""

    def __init__(self) -> None:
        self.asked: list[DeviceConnect | TunnelOpen] = []
        self.error: Exception | None = None
        self.waits: dict[str, asyncio.Event] = {}  # by device or tunnel

    async def on_device_connect(self, event: DeviceConnect) -> None:
        await self._answer(event, event.device)

    async def on_tunnel_open(self, event: TunnelOpen) -> None:
        await self._answer(event, event.tunnel)

    async def _answer(self, event: DeviceConnect | TunnelOpen, name: str) -> None:
        self.asked.append(event)
        if name in self.waits:
            await self.waits[name].wait()
        if self.error is not None:
            raise self.error


class Guarded(Server):
    def __init__(self, engine: FakeEngine, store: SqliteStore) -> None:
        self.gate = Gate()
        super().__init__(engine, store, hooks=Manager([self.gate]))


@pytest.fixture
def guarded(engine: FakeEngine, store: SqliteStore) -> Guarded:
    return Guarded(engine, store)


async def test_hooks_are_asked_about_a_device_that_is_otherwise_welcome(
    guarded: Guarded, secret: str
) -> None:
    guarded.certificate = ("cn:pi",)
    await guarded.link(1, secret)
    await guarded.ask(head(Authorization="Bearer pe_unknown", **AGENT))
    [event] = guarded.gate.asked
    assert event == DeviceConnect(
        at=1000.0, device="pi", device_id=1, token="pi", token_id=1, peer="1.2.3.4:1",
        address="1.2.3.4", certificate=("cn:pi",), number=1, links=0,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("error", "code", "name", "retry", "message"),
    [
        (Refuse("not on Sundays"), 403, "hook_refused", None, "not on Sundays"),
        (Refuse("full", retry_after=1.5), 503, "hook_later", "2", "full"),
        (
            ValueError("secret"), 503, "hook_failed", "2",
            "the server can not tell now whether this device may connect",
        ),
    ],
)  # fmt: skip
async def test_what_hooks_say_of_a_device_is_its_answer(
    guarded: Guarded, secret: str, error: Exception, code: int, name: str, retry: str, message: str
) -> None:
    guarded.gate.error = error
    answer = await guarded.ask(head(Authorization=f"Bearer {secret}", **AGENT))
    assert status(answer) == code
    assert (body(answer)["error"], body(answer)["message"]) == (name, message)
    assert fields(answer).get("retry-after") == retry


async def test_a_server_that_drains_while_hooks_think_lets_nobody_in(
    guarded: Guarded, secret: str
) -> None:
    guarded.gate.waits["pi"] = asyncio.Event()
    asking = asyncio.create_task(guarded.ask(head(Authorization=f"Bearer {secret}", **AGENT)))
    while not guarded.gate.asked:  # noqa: ASYNC110
        await asyncio.sleep(0)
    guarded.links.drain()
    guarded.gate.waits["pi"].set()
    assert body(await asking)["error"] == "draining"


async def test_one_device_need_not_wait_for_the_hooks_of_another(
    guarded: Guarded, secret: str
) -> None:
    other, _ = await tokens.create(guarded.store, name="po", now=0.0)
    guarded.gate.waits["pi"] = asyncio.Event()
    for number, each in ((1, secret), (2, other)):
        request = head(Authorization=f"Bearer {each}", **AGENT)
        guarded.links.on_event((1, number, "1.2.3.4:5", request, ()))
    async with asyncio.timeout(10):
        while not guarded.engine.replies:  # noqa: ASYNC110
            await asyncio.sleep(0)
    assert [(number, status(answer)) for number, answer, _ in guarded.engine.replies] == [(2, 101)]
    guarded.gate.waits["pi"].set()
    await guarded.settle()
    assert len(guarded.engine.replies) == 2


@pytest.mark.parametrize(
    ("error", "refusal"),
    [
        (Refuse("too many"), {"code": "hook_refused", "message": "too many"}),
        (Refuse("busy", retry_after=1), {"code": "hook_later", "message": "busy"}),
        (
            OSError("x"),
            {
                "code": "hook_failed",
                "message": "the server can not tell now whether this tunnel may be",
            },
        ),
    ],
)
async def test_what_hooks_say_of_a_tunnel_is_its_answer(
    guarded: Guarded, secret: str, error: Exception, refusal: dict[str, str]
) -> None:
    await guarded.link(1, secret)
    guarded.gate.error = error
    answer = await guarded.register(1, "web")
    assert answer["refused"] == [{"name": "web", **refusal}]
    assert not answer.get("tunnels")
    guarded.gate.error = None
    answer = await guarded.register(1, "web")
    assert [tunnel["name"] for tunnel in answer["tunnels"]] == ["web"]


async def test_records_of_a_link_are_answered_in_order_whatever_hooks_take(
    guarded: Guarded, secret: str
) -> None:
    other, _ = await tokens.create(guarded.store, name="po", now=0.0)
    await guarded.link(1, secret)
    await guarded.link(2, other)
    guarded.gate.waits["slow"] = asyncio.Event()

    def say(link: int, name: str) -> None:
        record = {"type": "register", "tunnels": [{"name": name}]}
        guarded.links.on_event((4, link, json.dumps(record).encode()))

    say(1, "slow")
    say(1, "web")
    say(2, "other")
    async with asyncio.timeout(10):
        while not guarded.said(2):  # noqa: ASYNC110
            await asyncio.sleep(0)
    assert guarded.said(1) == []
    guarded.gate.waits["slow"].set()
    await guarded.settle()
    names = [answer["tunnels"][0]["name"] for answer in guarded.said(1)]
    assert names == ["slow", "web"]


async def test_hooks_are_not_asked_about_what_can_not_be(guarded: Guarded, secret: str) -> None:
    await guarded.link(1, secret)
    guarded.gate.asked.clear()
    await guarded.register(1, "Not A Name")
    assert guarded.gate.asked == []


async def test_a_link_that_ends_while_hooks_think_serves_nothing(
    guarded: Guarded, secret: str
) -> None:
    await guarded.link(1, secret)
    guarded.gate.waits["web"] = asyncio.Event()
    record = {"type": "register", "tunnels": [{"name": "web"}]}
    guarded.links.on_event((4, 1, json.dumps(record).encode()))
    guarded.links.on_event((3, 1, 0, "closed", 10, 20, 1.5))
    guarded.gate.waits["web"].set()
    await guarded.settle()
    assert guarded.said(1) == []
    assert not [tunnel for tunnel in guarded.table if guarded.table.links(tunnel)]
