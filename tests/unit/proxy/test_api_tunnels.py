"""Tunnels over HTTP."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from aiohttp.test_utils import TestClient

from proxy_engine.storage.sqlite import SqliteStore
from proxy_engine.tunnels.options import digest_of
from tests.unit.proxy.fake_engine import FakeEngine
from tests.unit.proxy.test_api import Service, admin, client, service
from tests.unit.proxy.test_api_access import Caller, call

__all__ = ["admin", "call", "client", "service"]  # fixtures
WEB = "/tunnels/web"


@pytest.fixture
async def web(store: SqliteStore, call: Caller) -> dict[str, Any]:
    """A tunnel made ahead."""
    await store.device_add("pi", {}, 1.0)
    status, made = await call("POST", "/tunnels", {"name": "web", "device": "pi"})
    assert status == 201
    found: dict[str, Any] = made
    return found


async def test_a_tunnel_is_made_ahead_and_routed(web: dict[str, Any], engine: FakeEngine) -> None:
    assert (web["name"], web["kind"], web["device"], web["is_online"]) == (
        "web",
        "http",
        "pi",
        False,
    )
    assert (web["url"], web["is_enabled"], web["target"]) == (
        "http://web.localhost:8080/",
        True,
        None,
    )
    assert engine.routes["host:web.localhost"] == (web["id"], (), "web")
    assert engine.policies == {}


async def test_one_of_a_taken_name_port_or_domain_is_409(web: Any, call: Caller) -> None:
    first = {"name": "db", "device": "pi", "kind": "tcp", "port": 10000}
    assert (await call("POST", "/tunnels", first))[0] == 201
    site = {"name": "site", "device": "pi", "domains": ["WWW.Example.com."]}
    assert (await call("POST", "/tunnels", site))[1]["domains"] == ["www.example.com"]
    for body, code in [
        ({"name": "web", "device": "pi"}, "name_taken"),
        ({**first, "name": "db2"}, "port_taken"),
        ({**site, "name": "site2"}, "domain_taken"),
    ]:
        status, problem = await call("POST", "/tunnels", body)
        assert (status, problem["code"]) == (409, code)
    assert (await call("PATCH", WEB, {"domains": ["www.example.com"]}))[0] == 409
    assert (await call("PUT", f"{WEB}/domains/www.example.com"))[0] == 409


@pytest.mark.parametrize(
    "body",
    [
        {"name": "Web", "device": "pi"},
        {"name": "web-", "device": "pi"},
        {"name": "new"},
        {"name": "new", "device": "nobody"},
        {"name": "new", "device": "pi", "kind": "udp"},
        {"name": "new", "device": "pi", "port": 10000},
        {"name": "new", "device": "pi", "kind": "tcp", "port": 80},
        {"name": "new", "device": "pi", "kind": "tcp", "domains": ["a.example"]},
        {"name": "new", "device": "pi", "kind": "tcp", "options": {"strip_prefix": "/a"}},
        {"name": "new", "device": "pi", "colour": "red"},
    ],
)
async def test_a_tunnel_that_can_not_be_is_refused(web: Any, call: Caller, body: Any) -> None:
    assert (await call("POST", "/tunnels", body))[0] == 422


async def test_what_is_left_out_stays_and_null_takes_it_back(
    web: Any, call: Caller, engine: FakeEngine
) -> None:
    options = {
        "allow": ["10.0.0.1/8", "::1"],
        "deny": ["10.1.2.3"],
        "strip_prefix": "/api/",
        "host_header": "app.internal:80",
        "profile": "latency",
        "request_headers": {"set": {"X-A": "b"}, "remove": ["Cookie"], "add": {"X-B": "x"}},
        "response_headers": {"remove": ["Server"]},
    }
    status, changed = await call("PATCH", WEB, {"options": options})
    assert status == 200, changed
    assert changed["options"]["allow"] == ["10.0.0.0/8", "::1/128"]
    assert changed["options"]["strip_prefix"] == "/api"
    assert changed["updated_at"] > web["updated_at"]
    assert engine.policies["host:web.localhost"] == {
        "allow": ("10.0.0.0/8", "::1/128"),
        "deny": ("10.1.2.3/32",),
        "strip_prefix": "/api",
        "host": "app.internal:80",
        "profile": "latency",
        "request_headers": [("remove", "Cookie"), ("set", "X-A", "b"), ("add", "X-B", "x")],
        "response_headers": [("remove", "Server")],
    }
    assert changed["options"]["profile"] == "latency"
    nulls = dict.fromkeys(("allow", "strip_prefix", "host_header", "profile", "request_headers"))
    _, changed = await call("PATCH", WEB, {"options": {**nulls, "response_headers": None}})
    assert changed["options"]["deny"] == ["10.1.2.3/32"]
    assert engine.policies["name:web"] == {"deny": ("10.1.2.3/32",)}
    assert (await call("PATCH", WEB, {}))[1] == changed  # nothing to change, nothing changed


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"allow": ["10.0.0.0/33"]}, "10.0.0.0/33"),
        ({"alow": []}, 'did you mean "allow"?'),
        ({"strip_prefix": "api"}, "strip_prefix"),
        ({"profile": "fast"}, "profile"),
        ({"strip_prefix": "/a b"}, "strip_prefix"),
        ({"host_header": "a b"}, "host"),
        ({"request_headers": {"set": {"Host": "x"}}}, "Host"),
        ({"request_headers": {"set": {"X": "a\r\nb"}}}, "header value"),
        ({"request_headers": {"st": {}}}, 'did you mean "set"?'),
        ({"basic_auth": {"users": [{"name": "ann"}]}}, "needs a password"),
        ({"basic_auth": {"users": [{"name": "a:b", "password": "x"}]}}, "not a user name"),
        ({"basic_auth": {"users": [{"name": "a", "password": "x\n"}]}}, "visible"),
        ({"basic_auth": {"users": [], "realm": 'a"b'}}, "realm"),
    ],
)
async def test_options_that_make_no_sense_say_so(
    web: Any, call: Caller, options: Any, said: str
) -> None:
    status, problem = await call("PATCH", WEB, {"options": options})
    assert status == 422, problem
    assert said in problem["detail"]
    assert (await call("GET", WEB))[1] == web


async def test_passwords_are_hashed_kept_and_never_shown(
    web: Any, call: Caller, engine: FakeEngine, store: SqliteStore
) -> None:
    users = [{"name": "ann", "password": "secret-1"}, {"name": "bob", "password": "secret-2"}]
    change = {"options": {"basic_auth": {"users": users, "realm": "Office"}}}
    status, changed = await call("PATCH", WEB, change)
    assert status == 200, changed
    shown = {"users": [{"name": "ann"}, {"name": "bob"}], "realm": "Office"}
    assert changed["options"]["basic_auth"] == shown
    policy = engine.policies["host:web.localhost"]["basic_auth"]
    ann = bytes.fromhex(digest_of(policy["salt"], "ann", "secret-1"))
    assert policy["realm"] == "Office"
    assert ann in policy["digests"]
    # What was shown can be sent back, with one more.
    news = {**shown, "users": [*shown["users"], {"name": "eve", "password": "secret-3"}]}
    assert (await call("PATCH", WEB, {"options": {"basic_auth": news}}))[0] == 200
    policy = engine.policies["host:web.localhost"]["basic_auth"]
    assert ann in policy["digests"]
    assert len(policy["digests"]) == 3
    everything = json.dumps(
        [await call("GET", WEB), await call("GET", "/tunnels"), await call("GET", "/audit")]
    )
    assert "secret-" not in everything
    assert ann.hex() not in everything
    assert "secret-" not in repr(await store.tunnels())
    assert "options.basic_auth" in (await call("GET", "/audit"))[1]["items"][0]["detail"]
    _, changed = await call("PATCH", WEB, {"options": {"basic_auth": {"users": []}}})
    assert engine.policies == {}


async def test_a_tunnel_is_disabled_and_shows_a_page(
    web: Any, call: Caller, engine: FakeEngine
) -> None:
    assert (await call("PATCH", WEB, {"is_enabled": False}))[1]["is_enabled"] is False
    assert engine.policies["name:web"] == {"disabled": True}
    page = {"page": "<p>soon", "kind": "html", "retry_after": 60}
    _, changed = await call("PATCH", WEB, {"is_enabled": True, "maintenance": page})
    assert changed["maintenance"] == page
    assert engine.policies["name:web"] == {
        "maintenance": {"retry_after": 60, "kind": "html", "body": b"<p>soon"}
    }
    assert (await call("PATCH", WEB, {"maintenance": {"page": "é" * 20000}}))[0] == 422
    assert (await call("PATCH", WEB, {"maintenance": None}))[1]["maintenance"] is None
    assert engine.policies == {}
    tcp = {"name": "db", "device": "pi", "kind": "tcp", "maintenance": {}}
    assert (await call("POST", "/tunnels", tcp))[0] == 201
    assert engine.policies["tcp:db"] == {"disabled": True}


async def test_domains_are_routed_at_once(web: Any, call: Caller, engine: FakeEngine) -> None:
    for domain in ("www.example.com", "*.Example.com"):
        assert (await call("PUT", f"{WEB}/domains/{domain}"))[0] == 200
    assert (await call("GET", WEB))[1]["domains"] == ["*.example.com", "www.example.com"]
    for domain in ("*.example.com", "www.example.com"):
        assert engine.routes[f"host:{domain}"] == (web["id"], (), "web")
    status, changed = await call("DELETE", f"{WEB}/domains/www.example.com")
    assert (status, changed["domains"]) == (200, ["*.example.com"])
    assert "host:www.example.com" not in engine.routes
    assert (await call("DELETE", f"{WEB}/domains/www.example.com"))[1]["code"] == "unknown_domain"
    assert (await call("PATCH", WEB, {"domains": []}))[1]["domains"] == []
    assert [key for key in engine.routes if "example" in key] == []
    many = [f"d{number}.example" for number in range(33)]
    assert (await call("PATCH", WEB, {"domains": many}))[0] == 422


@pytest.mark.parametrize(
    "domain",
    [
        "a..b",
        "a_b.example",
        "*.com",
        "a.*.example",
        "10.0.0.1",
        "api.localhost",
        "a" * 64 + ".b",
        "*",
    ],
)
async def test_what_is_no_domain_is_refused(web: Any, call: Caller, domain: str) -> None:
    assert (await call("PUT", f"{WEB}/domains/{domain}"))[0] == 422


async def test_a_change_heeds_what_the_client_has_seen(
    web: Any, client: TestClient[Any, Any], admin: dict[str, str]
) -> None:
    path = "/api/v1/tunnels/web"
    tag = (await client.get(path, headers=admin)).headers["ETag"]
    seen = {**admin, "If-Match": tag}
    change = {"is_enabled": False}
    assert (await client.patch(path, headers=seen, json=change)).status == 200
    answer = await client.patch(path, headers=seen, json=change)
    assert (answer.status, (await answer.json())["code"]) == (412, "changed_meanwhile")
    assert (await client.delete(path, headers=seen)).status == 412
    assert (await client.get(path, headers={**admin, "If-None-Match": tag})).status == 200


async def test_changes_at_once_are_all_made(web: Any, call: Caller) -> None:
    await asyncio.gather(
        *(call("PUT", f"{WEB}/domains/d{number}.example") for number in range(3)),
        call("PATCH", WEB, {"options": {"strip_prefix": "/a"}}),
    )
    found = (await call("GET", WEB))[1]
    assert found["domains"] == ["d0.example", "d1.example", "d2.example"]
    assert found["options"]["strip_prefix"] == "/a"


async def test_a_tunnel_is_deleted(web: Any, call: Caller, engine: FakeEngine) -> None:
    await call("PUT", f"{WEB}/domains/www.example.com")
    assert await call("DELETE", WEB) == (204, None)
    assert engine.routes == {}
    assert (await call("DELETE", WEB))[1]["code"] == "unknown_tunnel"
    for method, below in (("GET", ""), ("PUT", "/domains/a.b"), ("DELETE", "/domains/a.b")):
        assert (await call(method, WEB + below))[0] == 404
    assert (await call("PATCH", WEB, {}))[0] == 404
    assert (await call("PUT", f"{WEB}/target", {"target": "h:1"}))[0] == 404


async def test_a_target_needs_a_device_that_is_there(web: Any, call: Caller) -> None:
    status, problem = await call("PUT", f"{WEB}/target", {"target": "127.0.0.1:80"})
    assert (status, problem["code"]) == (409, "device_offline")
    for body in ({}, {"target": "127.0.0.1"}, {"target": "h:0"}, {"target": 1}):
        assert (await call("PUT", f"{WEB}/target", body))[0] == 422


async def test_tunnels_are_filtered(web: Any, call: Caller, store: SqliteStore) -> None:
    await store.device_add("po", {}, 1.0)
    await call("POST", "/tunnels", {"name": "api", "device": "po", "is_enabled": False})
    for query, names in [
        ("", ["api", "web"]), ("?device=po", ["api"]), ("?enabled=true", ["web"]),
        ("?online=true", []), ("?online=false&device=pi", ["web"]), ("?device=x", []),
    ]:  # fmt: skip
        page = (await call("GET", f"/tunnels{query}"))[1]
        assert [item["name"] for item in page["items"]] == names, query


async def test_who_watches_sees_changes(web: Any, call: Caller, service: Service) -> None:
    changes: list[tuple[str, str]] = []
    service.table._notify = lambda change, tunnel: changes.append((change, tunnel.name))
    await call("PATCH", WEB, {"is_enabled": False})
    await call("PATCH", WEB, {"is_enabled": False})
    await call("POST", "/tunnels", {"name": "api", "device": "pi"})
    await call("DELETE", WEB)
    assert changes == [("changed", "web"), ("created", "api"), ("deleted", "web")]


async def test_what_another_server_changed_is_picked_up(
    web: Any, service: Service, store: SqliteStore, engine: FakeEngine, call: Caller
) -> None:
    """One domain goes from one tunnel to another, a third tunnel comes, a fourth goes."""
    await call("POST", "/tunnels", {"name": "api", "device": "pi"})
    await call("POST", "/tunnels", {"name": "gone", "device": "pi"})
    await call("PUT", f"{WEB}/domains/a.example")
    elsewhere = await SqliteStore.open(store._path)
    try:
        import msgspec

        from proxy_engine.tunnels.options import Domain

        tunnels = {tunnel.name: tunnel for tunnel in await elsewhere.tunnels()}
        domains = (Domain(name="a.example"),)
        for name, change in (("web", ()), ("api", domains)):
            wanted = msgspec.structs.replace(tunnels[name], domains=change)
            assert await elsewhere.tunnel_update(wanted)
        await elsewhere.tunnels_claim([("new", "http", tunnels["web"].device_id)], 2.0)
        await elsewhere.tunnel_delete("gone")
    finally:
        await elsewhere.close()
    assert await store.changed_elsewhere()
    await service.access_changed()
    assert engine.routes["host:a.example"][2] == "api"
    assert "host:new.localhost" in engine.routes
    assert "host:gone.localhost" not in engine.routes
