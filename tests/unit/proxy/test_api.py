from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from aiohttp.test_utils import TestClient, TestServer

import proxy_engine
from proxy_engine import tokens
from proxy_engine.api.server import create_app
from proxy_engine.app import Server
from proxy_engine.cache import AccessCache
from proxy_engine.errors import StorageError, UsageError
from proxy_engine.links.links import Links
from proxy_engine.links.login_guard import LoginGuard
from proxy_engine.live_events import LiveEvents
from proxy_engine.otlp.service import Otlp
from proxy_engine.reload import Reloaded
from proxy_engine.requests.log import RequestLog
from proxy_engine.server_hooks import ServerHooks
from proxy_engine.settings.config import Settings
from proxy_engine.storage import Metric, Retention
from proxy_engine.storage.sqlite import SqliteStore
from proxy_engine.tls.keeper import TlsKeeper
from proxy_engine.tunnels.routes import TunnelTable
from proxy_engine_core import log_batch
from proxy_engine_core.core import LogRecord
from tests.unit.proxy.fake_engine import FakeEngine


class Service:
    def __init__(self, engine: Any, store: SqliteStore) -> None:
        self.settings = Settings(admin_hosts=("admin.example",))
        self.sources = {"admin_hosts": "--admin-hosts"}
        self.started_at = time.time() - 5
        self.uptime = 5.25
        self.is_draining = False
        self.store = store
        self.engine = engine
        self.tls = TlsKeeper(self.settings)
        self.cache = AccessCache(store)
        self.guard = LoginGuard(5)
        self.hooks = ServerHooks(self.settings, (), str)
        self.table = TunnelTable(domain="localhost", port=8080)
        self.links = Links(engine, store, self.table)
        self.open_requests = None
        self.exporter = None
        self.otlp = Otlp()
        self.access_log = SimpleNamespace(dropped=0)
        self.diagnosis = SimpleNamespace(watch=SimpleNamespace(is_stuck=False))
        self.rechecks = 0
        self.request_log = RequestLog(store, keep=Retention())
        self.events = LiveEvents(
            redact=str, tunnel_name={1: "web"}.get, device_name=lambda number: None
        )

    async def access_changed(self) -> None:
        self.cache.clear()
        self.rechecks += 1
        await self.links.recheck()

    def reload(self) -> Reloaded:
        raise UsageError("listen: no")


@pytest.fixture
def service(engine: FakeEngine, store: SqliteStore) -> Service:
    return Service(engine, store)


@pytest.fixture
async def client(service: Service) -> AsyncIterator[TestClient[Any, Any]]:
    protocol: Any = service
    async with TestClient(TestServer(create_app(protocol))) as client:
        yield client


@pytest.fixture
async def admin(store: SqliteStore) -> dict[str, str]:
    secret, _ = await tokens.create(store, name="root", kind="admin", now=time.time())
    return {"Authorization": f"Bearer {secret}"}


async def test_an_address_that_fails_too_often_is_answered_429(
    client: TestClient[Any, Any], admin: dict[str, str], service: Service
) -> None:
    assert (await client.get("/api/v1/stats", headers=admin)).status == 200
    wrong = {"Authorization": "Bearer " + tokens.new_secret()}
    for status in (401, 401, 401, 401, 401, 429):
        assert (await client.get("/api/v1/stats", headers=wrong)).status == status
    answer = await client.get("/api/v1/stats", headers=wrong)
    assert int(answer.headers["Retry-After"]) > 0
    assert (await answer.json())["code"] == "too_many_logins"
    stats = await (await client.get("/api/v1/stats", headers=admin)).json()
    assert (stats["logins_failed"], stats["logins_limited"]) == (5, 2)


async def test_a_clock_that_is_set_back_makes_nobody_wait(
    client: TestClient[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = {"Authorization": "Bearer " + tokens.new_secret()}
    assert (await client.get("/api/v1/stats", headers=wrong)).status == 401
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() - 3600)
    assert (await client.get("/api/v1/stats", headers=wrong)).status == 401


async def test_what_is_not_there_is_named_and_what_we_are_made_of_is_not(
    client: TestClient[Any, Any], admin: dict[str, str]
) -> None:
    answer = await client.get("/api/v1/nothing", headers=admin)
    assert (await answer.json())["detail"] == "there is nothing at /api/v1/nothing"
    assert answer.headers["Server"] == "proxy-engine"
    answer = await client.delete("/api/v1/stats", headers=admin)
    problem = await answer.json()
    assert (answer.status, answer.headers["Allow"]) == (405, "GET,HEAD")
    assert problem["detail"] == "DELETE is not for /api/v1/stats; Allow says what is"


async def test_every_counter_is_documented(
    client: TestClient[Any, Any], admin: dict[str, str]
) -> None:
    stats = await (await client.get("/api/v1/stats", headers=admin)).json()
    docs = Path(__file__).resolve().parents[3] / "docs"
    named = set(re.findall(r"`([a-z0-9_]+)`", "".join(x.read_text() for x in docs.glob("*.md"))))
    assert not set(stats) - named


PATHS = [
    "/api/v1/stats",
    "/api/v1/devices",
    "/api/v1/tunnels",
    "/api/v1/requests",
    "/api/v1/config",
]


async def test_probes_need_no_token(client: TestClient[Any, Any]) -> None:
    for path in ("/livez", "/readyz", "/health"):
        response = await client.get(path, headers={"Host": "anything.example"})
        assert response.status == 200, path
        assert (await response.json())["status"] == "ok"


async def test_health_says_version_uptime_links_and_store(client: TestClient[Any, Any]) -> None:
    body = await (await client.get("/health")).json()
    assert body["version"] == proxy_engine.__version__
    assert body["uptime"] == 5.25
    assert (body["links"], body["store"]) == (0, True)


def test_uptime_does_not_follow_a_clock_that_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(Settings())
    monkeypatch.setattr(time, "time", lambda: server.started_at - 3600)
    assert 0 <= server.uptime < 3000


async def test_while_draining_it_is_alive_but_not_ready(
    client: TestClient[Any, Any], service: Service
) -> None:
    service.is_draining = True
    assert (await client.get("/livez")).status == 200
    response = await client.get("/readyz")
    assert (response.status, (await response.json())["status"]) == (503, "draining")


async def test_with_a_worker_that_is_stuck_it_is_neither_alive_nor_ready(
    client: TestClient[Any, Any], service: Service
) -> None:
    service.diagnosis.watch.is_stuck = True
    for path in ("/livez", "/readyz", "/health"):
        response = await client.get(path)
        assert (response.status, (await response.json())["status"]) == (503, "stuck")


async def test_while_the_store_fails_it_is_not_ready(
    client: TestClient[Any, Any], service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail() -> None:
        raise StorageError("no")

    monkeypatch.setattr(service.store, "ping", fail)
    assert (await client.get("/readyz")).status == 503
    assert (await client.get("/livez")).status == 200


async def test_while_requests_can_not_be_logged_it_is_not_ready(
    client: TestClient[Any, Any], service: Service
) -> None:
    service.request_log.is_failing = True
    response = await client.get("/readyz")
    assert (response.status, (await response.json())["status"]) == (503, "failing")


@pytest.mark.parametrize("path", [*PATHS, "/api/", "/api/v1/unknown"])
async def test_the_api_is_closed_without_an_admin_token(
    client: TestClient[Any, Any], store: SqliteStore, path: str
) -> None:
    response = await client.get(path)
    assert response.status == 401
    assert response.headers["WWW-Authenticate"] == "Bearer"
    assert response.content_type == "application/problem+json"
    assert (await response.json())["code"] == "no_token"
    wrong = {"Authorization": "Bearer " + tokens.new_secret()}
    assert (await client.get(path, headers=wrong)).status == 401
    device, _ = await tokens.create(store, name="pi", now=time.time())
    response = await client.get(path, headers={"Authorization": f"Bearer {device}"})
    assert (response.status, (await response.json())["code"]) == (403, "wrong_kind")


@pytest.mark.parametrize("path", PATHS)
async def test_the_api_is_open_with_one(
    client: TestClient[Any, Any], admin: dict[str, str], path: str
) -> None:
    response = await client.get(path, headers=admin)
    assert response.status == 200
    assert response.content_type == "application/json"
    cached = "no-cache" if "ETag" in response.headers else "no-store"
    assert response.headers["Cache-Control"] == cached


async def test_a_revoked_admin_token_opens_nothing(
    client: TestClient[Any, Any], admin: dict[str, str], store: SqliteStore
) -> None:
    await store.token_revoke("root", time.time())
    assert (await client.get("/api/v1/stats", headers=admin)).status == 401


async def test_what_is_known_is_shown_and_no_secret(
    client: TestClient[Any, Any], admin: dict[str, str], store: SqliteStore
) -> None:
    _, token = await tokens.create(store, name="pi", now=1.0)
    await store.tunnels_claim([("web", "http", token.device_id or 0)], 2.0)
    record = LogRecord(1, 1, 1, "r1", "::1", "GET", "h", "/x", 200, "", 0, 1, 2, 3, 4, 5)
    await store.requests_add(log_batch.pack([record]))
    devices = await client.get("/api/v1/devices", headers=admin)
    assert [item["name"] for item in (await devices.json())["items"]] == ["pi"]
    assert token.digest.hex() not in await devices.text()
    tunnels = await (await client.get("/api/v1/tunnels", headers=admin)).json()
    [tunnel] = tunnels["items"]
    assert (tunnel["url"], tunnel["device"]) == ("http://web.localhost:8080/", "pi")
    assert tunnel["is_online"] is False
    requests = await (await client.get("/api/v1/requests?limit=5", headers=admin)).json()
    assert [(item["path"], item["tunnel"]) for item in requests["items"]] == [("/x", "web")]
    stats = await (await client.get("/api/v1/stats", headers=admin)).json()
    assert (stats["links"], stats["request_log_dropped"]) == (0, 0)


async def test_requests_are_searched_counted_and_exported(
    client: TestClient[Any, Any], admin: dict[str, str], store: SqliteStore
) -> None:
    records = [
        LogRecord(
            number, 0, 0, f"r{number}", "::1", "GET", "h", f"/{number}?a", 200 + number % 2 * 302,
            "", 0, 1, 2, number * 1000, 4, 5,
        )
        for number in range(1, 31)
    ]  # fmt: skip
    await store.requests_add(log_batch.pack(records))

    async def get(query: str) -> Any:
        response = await client.get(f"/api/v1/requests{query}", headers=admin)
        return await response.json()

    first = await get("?status=5xx&limit=10")
    assert [item["id"] for item in first["items"]] == list(range(11, 31, 2))
    second = await get(f"?status=5xx&limit=10&cursor={first['next']}")
    assert [item["id"] for item in second["items"]] == [1, 3, 5, 7, 9]
    assert second["next"] is None
    assert [item["id"] for item in (await get("?min_ms=29"))["items"]] == [29, 30]
    assert [item["id"] for item in (await get("?after=28"))["items"]] == [29, 30]
    even = "?after=0&status=502&limit=4"  # of the oldest four those that match
    page = await get(even)
    assert [item["id"] for item in page["items"]] == [1, 3]
    assert [item["id"] for item in (await get(f"{even}&cursor={page['next']}"))["items"]] == [5, 7]
    page = await get("?after=27&status=502")
    assert ([item["id"] for item in page["items"]], page["next"]) == ([29], None)
    assert (await get("?since=1h"))["items"] == []
    assert (await get("?status=9xx"))["code"] == "bad_filter"
    assert (await get("?stauts=5xx"))["code"] == "bad_query"
    assert (await get("/7"))["request_id"] == "r7"
    assert (await get("/r8"))["id"] == 8
    assert (await get("/r99"))["code"] == (await get("/99"))["code"] == "unknown_request"
    stats = await get("/stats?paths=1&status=502")
    assert (stats["count"], stats["statuses"]) == (15, {"502": 15})
    response = await client.get("/api/v1/requests/export?limit=3", headers=admin)
    assert response.content_type == "application/x-ndjson"
    lines = (await response.text()).splitlines()
    assert [msgspec.json.decode(line)["id"] for line in lines] == [30, 29, 28]
    response = await client.get("/api/v1/requests/export?format=csv&limit=1", headers=admin)
    assert response.content_type == "text/csv"
    assert (await response.text()).splitlines()[0].startswith("id,time_us,request_id,")


@pytest.mark.parametrize("limit", ["0", "1001", "x", "-1", "", "9" * 5000, " 5", "٣"])
async def test_a_bad_limit_is_400(
    client: TestClient[Any, Any], admin: dict[str, str], limit: str
) -> None:
    response = await client.get("/api/v1/requests", params={"limit": limit}, headers=admin)
    assert (response.status, (await response.json())["code"]) == (400, "bad_query")


async def test_wrong_paths_and_methods_are_problems(
    client: TestClient[Any, Any], admin: dict[str, str]
) -> None:
    response = await client.get("/api/v1/unknown", headers=admin)
    assert (response.status, response.content_type) == (404, "application/problem+json")
    response = await client.post("/api/v1/stats", headers=admin)
    assert (response.status, response.headers["Allow"]) == (405, "GET,HEAD")
    assert (await client.get("/")).status == 404


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8081", 200),
        ("[::1]:8081", 200),
        ("localhost", 200),
        ("LOCALHOST:1", 200),
        ("admin.example:8081", 200),
        ("evil.example", 421),
        ("127.0.0.1.evil.example", 421),
    ],
)
async def test_the_api_answers_only_to_names_that_are_meant_for_it(
    client: TestClient[Any, Any], admin: dict[str, str], host: str, status: int
) -> None:
    response = await client.get("/api/v1/stats", headers={**admin, "Host": host})
    assert response.status == status


async def test_a_bug_is_a_problem_without_details(
    client: TestClient[Any, Any], admin: dict[str, str], service: Service
) -> None:
    service.engine = None
    response = await client.get("/api/v1/stats", headers=admin)
    assert response.status == 500
    assert "NoneType" not in await response.text()


async def test_settings_are_shown_with_their_source(
    client: TestClient[Any, Any], admin: dict[str, str]
) -> None:
    response = await client.get("/api/v1/config", headers=admin)
    found = {item["name"]: item for item in (await response.json())["settings"]}
    assert found["admin_hosts"] == {
        "name": "admin_hosts",
        "value": ["admin.example"],
        "source": "--admin-hosts",
        "is_live": True,
    }
    assert (found["listen"]["value"], found["listen"]["source"]) == (["0.0.0.0:8080"], "default")
    assert "token" not in found
    known = {**admin, "If-None-Match": response.headers["ETag"]}
    assert (await client.get("/api/v1/config", headers=known)).status == 304


async def test_a_reload_that_fails_says_why(
    client: TestClient[Any, Any], admin: dict[str, str]
) -> None:
    response = await client.post("/api/v1/config/reload", headers=admin)
    assert (response.status, (await response.json())["detail"]) == (422, "listen: no")


async def test_metrics_are_listed_by_time(
    client: TestClient[Any, Any], service: Service, admin: dict[str, str]
) -> None:
    for moment in (100.0, 160.0):
        await service.store.metric_add(
            Metric(time=moment, type="server", values={"requests": int(moment)})
        )
    answer = await client.get("/api/v1/metrics?since=120", headers=admin)
    assert answer.status == 200
    [item] = (await answer.json())["items"]
    assert item == {"time": 160.0, "type": "server", "values": {"requests": 160}}
