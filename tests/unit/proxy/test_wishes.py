"""What agents want of their tunnels when they register, and what the server asks of agents."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import msgspec
import pytest

from proxy_engine import control, grants, tokens
from proxy_engine.links.pushes import NotPushed
from proxy_engine.storage import Tunnel
from proxy_engine.storage.sqlite import SqliteStore
from proxy_engine.tunnels.options import Domain, Options
from tests.unit.proxy.fake_engine import FakeEngine
from tests.unit.proxy.test_links import Server, server

__all__ = ["server"]  # a fixture
DENY = {"deny": ["10.0.0.0/8"]}


@pytest.fixture
async def secret(store: SqliteStore) -> str:
    scopes = grants.parse_scopes(["domain=*.example.com,domain=example.org"])
    return (await tokens.create(store, name="pi", now=0.0, scopes=scopes))[0]


async def register(server: Server, link: int, *specs: dict[str, Any]) -> dict[str, Any]:
    await server.say(link, {"type": "register", "tunnels": list(specs)})
    return [record for record in server.said(link) if record["type"] == "registered"][-1]


async def test_options_of_the_agent_count(server: Server, secret: str) -> None:
    await server.link(7, secret)
    answer = await register(server, 7, {"name": "web", "options": DENY}, {"name": "api"})
    assert [each["name"] for each in answer["tunnels"]] == ["web", "api"]
    assert server.engine.policies == {
        "host:web.localhost": {"deny": ("10.0.0.0/8",)},
        "name:web": {"deny": ("10.0.0.0/8",)},
    }
    await register(server, 7, {"name": "web"}, {"name": "api", "options": {}})
    assert server.engine.policies == {}


async def test_the_operators_word_wins_option_by_option(
    server: Server, secret: str, store: SqliteStore
) -> None:
    await server.link(7, secret)
    await register(server, 7, {"name": "web", "options": {**DENY, "strip_prefix": "/a"}})
    web = await store.tunnel("web")
    assert web is not None

    async def say(options: Options) -> dict[str, Any]:
        nonlocal web
        assert web is not None
        web = await store.tunnel_update(msgspec.structs.replace(web, options=options))
        assert web is not None
        server.links.put_tunnel(web)
        return server.engine.policies.get("name:web", {})

    assert await say(Options(deny=("::/0",))) == {"deny": ("::/0",), "strip_prefix": "/a"}
    assert await say(Options(deny=(), strip_prefix="")) == {}
    assert await say(Options()) == {"deny": ("10.0.0.0/8",), "strip_prefix": "/a"}


@pytest.mark.parametrize(
    ("spec", "code"),
    [
        ({"options": {"deny": ["x"]}}, "bad_option"),
        ({"options": {"dny": []}}, "bad_option"),
        ({"options": {"basic_auth": {"salt": "zz", "users": [{"name": "a", "digest": "1"}]}}},
         "bad_option"),
        ({"options": {"request_headers": {"set": {"Host": "x"}}}}, "bad_option"),
        ({"kind": "tcp", "options": {"strip_prefix": "/a"}}, "bad_option"),
        ({"kind": "tcp", "domains": ["a.example.com"]}, "bad_option"),
        ({"domains": ["a b"]}, "bad_option"),
        ({"domains": ["other.localhost"]}, "bad_option"),
        ({"domains": ["www.elsewhere.com"]}, "domain_forbidden"),
        ({"domains": ["*.example.org"]}, "domain_forbidden"),
    ],
)  # fmt: skip
async def test_what_can_not_be_is_refused_and_nothing_is_claimed(
    server: Server, secret: str, spec: dict[str, Any], code: str
) -> None:
    await server.link(7, secret)
    answer = await register(server, 7, {"name": "web", **spec}, {"name": "api"})
    assert [each["name"] for each in answer["tunnels"]] == ["api"]
    assert [(each["name"], each["code"]) for each in answer["refused"]] == [("web", code)]
    assert server.table.get("web") is None


async def test_an_agent_has_the_domains_its_token_allows(
    server: Server, secret: str, store: SqliteStore
) -> None:
    await server.link(7, secret)
    wanted = ["WWW.example.com", "*.example.com", "example.org"]
    answer = await register(server, 7, {"name": "web", "domains": wanted})
    names = ["*.example.com", "example.org", "www.example.com"]
    assert answer["tunnels"][0]["domains"] == [f"http://{name}:8080/" for name in names]
    assert all(server.engine.routes[f"host:{name}"][1] == (7,) for name in names)
    await register(server, 7, {"name": "web", "domains": ["example.org"]})
    assert [key for key in server.engine.routes if "example" in key] == ["host:example.org"]
    found = await store.tunnel("web")
    assert found is not None
    assert found.domains == (Domain(name="example.org", is_agents=True),)


async def test_a_token_without_the_scope_has_no_domains(server: Server, store: SqliteStore) -> None:
    plain, _ = await tokens.create(store, name="po", now=0.0)
    await server.link(7, plain)
    answer = await register(server, 7, {"name": "web", "domains": ["www.example.com"]})
    assert answer["refused"][0]["code"] == "domain_forbidden"


def test_a_wildcard_needs_a_pattern_that_is_one() -> None:
    def allows(pattern: str, name: str) -> bool:
        return grants.Scopes(domains=(pattern,)).allows_domain(name)

    assert allows("*.example.com", "www.example.com")
    assert allows("*.Example.com", "*.example.com")
    assert allows("?.example.com", "a.example.com")
    assert not allows("?.example.com", "*.example.com")
    assert not allows("*.example.com", "example.com")
    assert not grants.ANY.allows_domain("example.com")


async def test_nobody_takes_anothers_domain(
    server: Server, secret: str, store: SqliteStore
) -> None:
    await server.link(7, secret)
    await register(server, 7, {"name": "web", "domains": ["example.org"]})
    other, _ = await tokens.create(
        store, name="po", now=0.0, scopes=grants.parse_scopes(["domain=*"])
    )
    await server.link(8, other)
    answer = await register(server, 8, {"name": "mine", "domains": ["example.org"]})
    assert [each["code"] for each in answer["refused"]] == ["domain_taken"]
    assert server.engine.routes["host:example.org"][2] == "web"


async def test_the_operators_domains_stay_when_the_agent_registers(
    server: Server, secret: str, store: SqliteStore
) -> None:
    await server.link(7, secret)
    await register(server, 7, {"name": "web"})
    web = await store.tunnel("web")
    assert web is not None
    made = await store.tunnel_update(
        msgspec.structs.replace(web, domains=(Domain(name="www.site.com"),))
    )
    assert made is not None  # and the table does not know yet, as if another server had done it
    await register(server, 7, {"name": "web", "domains": ["example.org"]})
    found = await store.tunnel("web")
    assert found is not None
    assert [domain.name for domain in found.domains] == ["example.org", "www.site.com"]
    assert {"host:example.org", "host:www.site.com"} <= server.engine.routes.keys()


async def test_a_disabled_tunnel_is_registered_and_its_agent_told(
    server: Server, secret: str, store: SqliteStore
) -> None:
    await server.link(7, secret)
    await register(server, 7, {"name": "web"})
    web = await store.tunnel("web")
    assert web is not None
    off = await store.tunnel_update(msgspec.structs.replace(web, is_enabled=False))
    assert off is not None
    server.links.put_tunnel(off)
    answer = await register(server, 7, {"name": "web"})
    assert answer["tunnels"][0]["disabled"] is True
    assert server.engine.routes["name:web"][1] == (7,)


async def test_many_words_are_several_records_and_too_many_end_the_link(
    server: Server, secret: str
) -> None:
    networks = [f"10.{a}.{b}.0/24" for a in range(4) for b in range(16)]
    specs = [control.TunnelSpec(f"t{n}", options={"deny": networks}) for n in range(200)]
    parts = control.encode_register(control.Register(specs))
    assert len(parts) > 3
    assert all(len(part) <= 65536 for part in parts)
    await server.link(7, secret)
    for part in parts:
        await server.say(7, part)
    answers = [record for record in server.said(7) if record["type"] == "registered"]
    assert sum(len(answer["tunnels"]) for answer in answers) == 200
    for _ in range(20):
        await server.say(7, json.dumps({**json.loads(parts[0]), "more": True}).encode())
    assert server.engine.closed == [(7, "bad_record")]


# The server asks


async def pushed(server: Server, **answer: Any) -> tuple[dict[str, Any], asyncio.Task[None]]:
    """The record that asks the agent for another target, and who waits for its answer."""
    web = server.table.get("web")
    assert web is not None
    work = asyncio.create_task(server.links.pushes.set_target(web, "10.0.0.1:80", within=5))
    await asyncio.sleep(0)
    record = server.said(7)[-1]
    assert (record["type"], record["tunnel"], record["target"]) == (
        "configure", "web", "10.0.0.1:80",
    )  # fmt: skip
    if answer:
        await server.say(7, {"type": "configured", "id": record["id"], **answer})
    return record, work


async def test_an_agent_takes_another_target(server: Server, secret: str) -> None:
    await server.link(7, secret)
    await register(server, 7, {"name": "web"})
    _, work = await pushed(server, code="")
    await work


async def test_an_agent_says_why_not(server: Server, secret: str) -> None:
    await server.link(7, secret)
    await register(server, 7, {"name": "web"})
    _, work = await pushed(server, code="target_forbidden", message="no")
    with pytest.raises(NotPushed, match="no") as caught:
        await work
    assert caught.value.code == "target_forbidden"


async def test_only_the_link_that_was_asked_answers(server: Server, secret: str) -> None:
    await server.link(7, secret)
    await register(server, 7, {"name": "web"})
    record, work = await pushed(server)
    other, _ = await tokens.create(server.store, name="po", now=0.0)
    await server.link(8, other)
    await server.say(8, {"type": "configured", "id": record["id"]})
    await server.say(7, {"type": "configured", "id": record["id"] + 1})
    assert not work.done()
    await server.down(7)
    with pytest.raises(NotPushed) as caught:
        await work
    assert caught.value.code == "device_offline"


async def test_an_old_agent_and_a_silent_one(server: Server, secret: str) -> None:
    await server.link(7, secret)
    await register(server, 7, {"name": "web"})
    _, work = await pushed(server)
    await server.say(7, {"type": "error", "code": "unknown_record"})
    with pytest.raises(NotPushed) as caught:
        await work
    assert caught.value.code == "no_agent"
    web = server.table.get("web")
    assert web is not None
    with pytest.raises(NotPushed) as caught:
        await server.links.pushes.set_target(web, "", within=0.01)
    assert caught.value.code == "agent_timeout"


async def test_a_stock_device_is_asked_nothing(server: Server, secret: str) -> None:
    await server.link(7, secret, Proxy_Engine_Version="")
    pi = server.table.get("pi")
    assert pi is not None
    assert server.table.links(pi) == (7,)
    with pytest.raises(NotPushed) as caught:
        await server.links.pushes.set_target(pi, "10.0.0.1:80")
    assert caught.value.code == "no_agent"
    assert server.said(7) == []


async def test_a_run_that_registers_is_told_again(
    server: Server, secret: str, store: SqliteStore
) -> None:
    await server.link(7, secret)
    await register(server, 7, {"name": "web"}, {"name": "api"})
    web: Tunnel | None = await store.tunnel("web")
    assert web is not None
    made = await store.tunnel_update(msgspec.structs.replace(web, target="10.0.0.1:80"))
    assert made is not None
    server.links.put_tunnel(made)
    await server.link(8, secret, instance="another")
    await register(server, 8, {"name": "web"}, {"name": "api"})
    last = server.said(8)[-1]
    assert last == {"type": "configure", "id": 0, "tunnel": "web", "target": "10.0.0.1:80"}
    await server.say(8, {"type": "configured", "id": 0, "code": "config_forbidden"})


async def test_who_serves_a_deleted_tunnel_is_told(server: Server, secret: str) -> None:
    await server.link(7, secret)
    await register(server, 7, {"name": "web"}, {"name": "api"})
    web = server.table.get("web")
    assert web is not None
    assert await server.store.tunnel_delete("web")
    server.links.drop_tunnel(web)
    assert server.said(7)[-1]["code"] == "deleted_tunnel"
    assert "name:web" not in server.engine.routes
    answer = await register(server, 7, {"name": "web"}, {"name": "api"})
    assert len(answer["tunnels"]) == 2
    assert server.route("web") == (7,)


def test_a_flush_names_the_links_of_the_tunnel(server: Server, engine: FakeEngine) -> None:
    web = Tunnel(id=3, name="web", kind="http", device_id=1, created_at=0.0)
    server.table.serve(7, [web])
    server.links.flush(web)
    assert engine.calls[-1] == ("flush", 7, 3)
