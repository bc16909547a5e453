"""Devices, tokens and audit over HTTP."""

from __future__ import annotations

import time
from typing import Any

import pytest
from aiohttp.test_utils import TestClient

from proxy_engine import tokens
from proxy_engine.grants import Scopes
from proxy_engine.storage import DeviceEvent, Sighting
from proxy_engine.storage.sqlite import SqliteStore
from tests.unit.proxy.test_api import Service, admin, client, service

__all__ = ["admin", "client", "service"]  # fixtures
API = "/api/v1"


class Caller:
    def __init__(self, client: TestClient[Any, Any], headers: dict[str, str]) -> None:
        self._client = client
        self._headers = headers

    async def __call__(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        answer = await self._client.request(
            method, API + path, headers=self._headers, **({} if body is None else {"json": body})
        )
        return answer.status, await answer.json() if await answer.read() else None


@pytest.fixture
def call(client: TestClient[Any, Any], admin: dict[str, str]) -> Caller:
    return Caller(client, admin)


async def test_a_device_is_made_changed_and_deleted(call: Caller, service: Service) -> None:
    status, made = await call("POST", "/devices", {"name": "pi", "labels": {"site": "a"}})
    assert (status, made["name"], made["labels"]) == (201, "pi", {"site": "a"})
    assert (made["is_online"], made["links"], made["requests_total"]) == (False, [], 0)
    assert (await call("POST", "/devices", {"name": "pi"}))[0] == 409
    status, changed = await call("PATCH", "/devices/pi", {"name": "po", "is_blocked": True})
    assert (status, changed["name"], changed["is_blocked"]) == (200, "po", True)
    assert changed["labels"] == {"site": "a"}
    assert service.rechecks == 1
    assert (await call("GET", "/devices/pi"))[0] == 404
    assert (await call("GET", "/devices/po"))[1] == changed
    assert (await call("POST", "/devices/po/kick"))[0] == 200
    assert (await call("DELETE", "/devices/po")) == (204, None)
    assert (await call("DELETE", "/devices/po"))[1]["code"] == "unknown_device"
    assert service.rechecks == 3


async def test_a_device_under_way_is_changed_by_who_has_seen_its_state(
    client: TestClient[Any, Any], admin: dict[str, str], store: SqliteStore
) -> None:
    path = f"{API}/devices/pi"
    device = await store.device_add("pi", {}, 1.0)
    seen = (await client.get(path, headers=admin)).headers["ETag"]
    await store.seen({}, {device.id: Sighting(at=2.0, requests=7)})
    again = await client.get(path, headers={**admin, "If-None-Match": seen})
    assert (again.status, (await again.json())["requests_total"]) == (200, 7)
    first = {**admin, "If-Match": seen}
    answer = await client.patch(path, headers=first, json={"labels": {"site": "a"}})
    assert answer.status == 200
    assert (await client.delete(path, headers=first)).status == 412  # not what was seen any more
    then = {**admin, "If-Match": answer.headers["ETag"], "If-None-Match": "*"}
    answer = await client.patch(path, headers=then, json={"labels": {"site": "b"}})
    assert (answer.status, (await answer.json())["labels"]) == (200, {"site": "b"})


async def test_an_admin_token_is_known_to_be_used(
    call: Caller, service: Service, store: SqliteStore
) -> None:
    assert (await call("GET", "/tokens/root"))[1]["last_used_at"] is None
    await service.links.registry.write()
    assert (await call("GET", "/tokens/root"))[1]["last_used_at"] == pytest.approx(
        time.time(), abs=60
    )


async def test_a_name_that_is_taken_is_said_in_words(call: Caller) -> None:
    await call("POST", "/devices", {"name": "pi"})
    await call("POST", "/devices", {"name": "po"})
    for method, path, body, what in (
        ("POST", "/devices", {"name": "pi"}, 'device named "pi"'),
        ("PATCH", "/devices/po", {"name": "pi"}, 'device named "pi"'),
        ("POST", "/tokens", {"name": "root"}, 'token named "root"'),
    ):
        status, problem = await call(method, path, body)
        assert (status, problem["code"]) == (409, "name_taken")
        assert problem["detail"] == f"there is a {what} already"


async def test_names_of_certificates_are_bound_to_one_device(call: Caller) -> None:
    for name in ("pi", "po"):
        assert (await call("POST", "/devices", {"name": name}))[1]["certificate_names"] == []
    names = ["cn:serial 7", "dns:pi.example"]
    status, changed = await call("PATCH", "/devices/pi", {"certificate_names": names})
    assert (status, changed["certificate_names"]) == (200, names)
    status, problem = await call("PATCH", "/devices/po", {"certificate_names": names[1:]})
    assert (status, problem["code"]) == (409, "certificate_taken")
    assert "dns:pi.example is bound to pi" in problem["detail"]
    assert (await call("PATCH", "/devices/pi", {"certificate_names": ["pi"]}))[0] == 422
    assert (await call("PATCH", "/devices/pi", {"name": "pi"}))[1]["certificate_names"] == names
    status, changed = await call("PATCH", "/devices/pi", {"certificate_names": []})
    assert (status, changed["certificate_names"]) == (200, [])
    assert (await call("PATCH", "/devices/po", {"certificate_names": names}))[0] == 200


@pytest.mark.parametrize(
    "body", [{"name": "a b"}, {"name": ""}, {"name": "a\n"}, {"labels": {}},
             {"name": "a", "labels": {"": "x"}}, {"name": "a", "colour": "red"}],
)  # fmt: skip
async def test_a_device_that_can_not_be_is_refused(call: Caller, body: Any) -> None:
    assert (await call("POST", "/devices", body))[0] == 422


async def test_devices_are_filtered(call: Caller, store: SqliteStore) -> None:
    await store.device_add("a", {"site": "x", "new": ""}, 1.0)
    await store.device_add("b", {"site": "y"}, 1.0)
    await store.device_change("b", is_blocked=True)
    for query, names in [
        ("", ["a", "b"]), ("?label=site", ["a", "b"]), ("?label=site=x", ["a"]),
        ("?label=site&label=new", ["a"]), ("?blocked=true", ["b"]), ("?online=true", []),
        ("?online=false&blocked=false", ["a"]),
    ]:  # fmt: skip
        page = (await call("GET", f"/devices{query}"))[1]
        assert [item["name"] for item in page["items"]] == names, query


async def test_a_device_says_what_is_known_of_it(call: Caller, store: SqliteStore) -> None:
    _, fleet = await tokens.create(store, name="fleet", now=1.0, scopes=Scopes(devices=("*",)))
    device = (await store.devices_claim([("pi", fleet.id)], 2.0))["pi"]
    await store.seen({}, {device.id: Sighting(at=3.0, address="::1", agent="a", requests=7)})
    found = (await call("GET", "/devices/pi"))[1]
    assert (found["owner_token"], found["address"], found["agent"]) == ("fleet", "::1", "a")
    assert (found["first_seen_at"], found["last_seen_at"]) == (3.0, 3.0)
    assert found["requests_total"] == 7


async def test_history_comes_in_pages(call: Caller, store: SqliteStore) -> None:
    device = await store.device_add("pi", {}, 1.0)
    await store.device_events_add(
        [DeviceEvent(device_id=device.id, at=at, kind="online", address="") for at in range(5)]
    )
    first = (await call("GET", "/devices/pi/history?limit=3"))[1]
    assert [item["at"] for item in first["items"]] == [4, 3, 2]
    second = (await call("GET", f"/devices/pi/history?limit=3&cursor={first['next']}"))[1]
    assert [item["at"] for item in second["items"]] == [1, 0]
    assert second["next"] is None
    assert (await call("GET", "/devices/po/history"))[0] == 404


async def test_a_token_is_made_rotated_and_revoked(
    call: Caller, store: SqliteStore, service: Service
) -> None:
    scopes = {"tunnels": ["web-*"], "ports": [[2000, 2010]]}
    status, made = await call("POST", "/tokens", {"name": "pi", "scopes": scopes})
    assert (status, made["token"]["device"], made["token"]["state"]) == (201, "pi", "live")
    assert made["token"]["scopes"] == scopes
    old = await tokens.find(store, made["secret"])
    assert old is not None
    status, rotated = await call("POST", "/tokens/pi/rotate", {"overlap": 60})
    assert (status, rotated["token"]["old_secret_until"] is not None) == (200, True)
    assert rotated["secret"] != made["secret"]
    found = await tokens.find(store, rotated["secret"])
    assert found is not None
    assert found.id == old.id
    status, revoked = await call("POST", "/tokens/pi/revoke")
    assert (status, revoked["state"]) == (200, "revoked")
    assert service.rechecks == 3
    for path, body in (("/tokens/pi/revoke", None), ("/tokens/pi/rotate", {}),
                       ("/tokens/no/revoke", None)):  # fmt: skip
        assert (await call("POST", path, body))[1]["code"] == "unknown_token"
    assert (await call("POST", "/tokens", {"name": "pi"}))[0] == 409
    everything = str([await call("GET", path) for path in ("/tokens", "/tokens/pi", "/audit")])
    for secret in (made["secret"], rotated["secret"], old.digest.hex()):
        assert secret not in everything


@pytest.mark.parametrize(
    "body",
    [
        {"name": "a", "kind": "admin", "scopes": {"tunnels": ["x"]}},
        {"name": "a", "scopes": {"read_only": True}},
        {"name": "a", "scopes": {"ports": [[5, 4]]}},
        {"name": "a", "scopes": {"ports": [[0, 4]]}},
        {"name": "a", "scopes": {"tunnels": ["a b"]}},
        {"name": "a", "scopes": {"tunnels": ["a\n"]}},
        {"name": "a", "device": "b", "scopes": {"devices": ["x"]}},
        {"name": "a", "limits": {"tunnels": -1}},
        {"name": "a", "expires_in": -1},
    ],
)
async def test_a_token_that_can_not_be_is_refused(call: Caller, body: Any) -> None:
    assert (await call("POST", "/tokens", body))[0] == 422


async def test_a_read_only_token_looks_and_changes_nothing(
    client: TestClient[Any, Any], store: SqliteStore
) -> None:
    secret, _ = await tokens.create(
        store, name="viewer", kind="admin", now=1.0, scopes=Scopes(read_only=True)
    )
    call = Caller(client, {"Authorization": f"Bearer {secret}"})
    assert (await call("GET", "/tokens"))[0] == 200
    for method, path, body in (("POST", "/tokens", {"name": "x"}), ("DELETE", "/devices/x", None)):
        status, problem = await call(method, path, body)
        assert (status, problem["code"]) == (403, "read_only")
    assert await store.audit(10) == []


async def test_every_write_has_its_record(call: Caller) -> None:
    await call("POST", "/devices", {"name": "pi"})
    await call("PATCH", "/devices/pi", {"is_blocked": True})
    await call("DELETE", "/devices/no")
    await call("POST", "/tokens", {"name": "t"})
    await call("GET", "/devices")
    page = (await call("GET", "/audit?limit=3"))[1]
    assert [(item["action"], item["subject"], item["outcome"]) for item in page["items"]] == [
        ("create_token", "t", "ok"),
        ("delete_device", "no", "failed: there is no device of this name"),
        ("change_device", "pi", "ok"),
    ]
    assert page["items"][2]["detail"] == "is_blocked=true"
    assert {item["actor"] for item in page["items"]} == {"root"}
    rest = (await call("GET", f"/audit?cursor={page['next']}"))[1]
    assert [item["action"] for item in rest["items"]] == ["create_device"]
