"""Redis stops, stalls, is emptied or comes back: slower at most, never wrong, never failing."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cache.redis_server import RedisServer, redis_server
from tests.e2e.fixtures import own_target
from tests.e2e.harness import wait_until
from tests.e2e.processes import TIMEOUT, Process
from tests.e2e.site import Site
from tests.e2e.target import Target
from tests.storage.mongo_server import MongoServer, mongo_server

target = own_target()


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    yield from redis_server(tmp_path)


@pytest.fixture
def mongo(tmp_path: Path) -> Iterator[MongoServer]:
    yield from mongo_server(tmp_path / "mongo.sqlite")


def probe(site: Site, path: str = "/readyz") -> dict[str, Any]:
    """A probe's answer; 200 always: a server does without its cache."""
    client = http.client.HTTPConnection("127.0.0.1", site.admin_port, timeout=TIMEOUT)
    try:
        client.request("GET", path)
        response = client.getresponse()
        body = response.read()
        assert response.status == 200, body
        return dict(json.loads(body))
    finally:
        client.close()


def ask(site: Site, path: str, body: str) -> dict[str, Any]:
    """What the API answers to a POST."""
    client = http.client.HTTPConnection("127.0.0.1", site.admin_port, timeout=TIMEOUT)
    headers = {
        "Authorization": f"Bearer {site.admin_token}",
        "Content-Type": "application/json",
    }
    try:
        client.request("POST", path, body, headers)
        response = client.getresponse()
        answer = response.read()
        assert response.status < 300, answer
        return dict(json.loads(answer))
    finally:
        client.close()


def revoke(site: Site, name: str) -> None:
    ask(site, f"/api/v1/tokens/{name}/revoke", "")


def wait_cache(site: Site, state: str) -> None:
    wait_until(lambda: probe(site)["cache"] == state)


def serve(site: Site, name: str, token: str, target: Target) -> None:
    """A device of this name comes, and is reached."""
    site.connect({name: target.port}, token=token)
    assert site.get(name).status == 200


@pytest.mark.parametrize("fault", ["stopped", "stalled", "flushed"])
def test_redis_away(tmp_path: Path, target: Target, redis: RedisServer, fault: str) -> None:
    site = Site(tmp_path / "data", server_args=("--redis-url", redis.url))
    try:
        wait_cache(site, "shared")
        first, second = site.make_token("first"), site.make_token("second")
        serve(site, "first", first, target)
        if fault == "stopped":
            redis.stop()
        elif fault == "stalled":
            redis.stall()
        else:
            redis.cli("flushall")
        started = time.monotonic()
        serve(site, "second", second, target)
        serve(site, "third", site.make_token("third"), target)  # nobody knew it before
        assert site.get("first").status == 200
        assert time.monotonic() - started < 40  # with three programs that start meanwhile
        if fault != "flushed":
            wait_cache(site, "degraded")
            assert site.stats()["shared_cache_up"] == 0
        if fault == "stopped":
            redis.start()
        elif fault == "stalled":
            redis.resume()
        wait_cache(site, "shared")
        serve(site, "fourth", site.make_token("fourth"), target)
        health = probe(site, "/health")
        assert health["status"] == "ok" and 0 <= health["cache_hit_rate"] <= 1
        assert site.server.popen.poll() is None
    finally:
        site.close()
    assert "Traceback" not in site.output()


def test_a_server_starts_without_its_redis(
    tmp_path: Path, target: Target, redis: RedisServer
) -> None:
    redis.stop()
    site = Site(tmp_path / "data", server_args=("--redis-url", redis.url))
    try:
        serve(site, "web", site.device_token, target)
        assert probe(site)["cache"] == "degraded"
        redis.start()
        wait_cache(site, "shared")
    finally:
        site.close()


def test_a_token_revoked_while_redis_is_away_stays_out_when_it_is_back(
    tmp_path: Path, target: Target, redis: RedisServer
) -> None:
    """Redis has its old record all the time: it is stalled, not emptied."""
    site = Site(tmp_path / "data", server_args=("--redis-url", redis.url))
    try:
        wait_cache(site, "shared")
        secret = site.make_token("pi")
        site.connect({"web": target.port}, token=secret)
        redis.stall()
        assert site.agent is not None
        agent = site.agent
        revoke(site, "pi")
        wait_until(lambda: not site.is_online("web"))
        redis.resume()
        wait_cache(site, "shared")
        wait_until(lambda: agent.popen.poll() is not None)  # refused for good
        assert not site.is_online("web")
        assert "revoked_token" in "\n".join(site.server.err)
    finally:
        site.close()


def test_two_servers_hear_of_each_other_at_once(
    tmp_path: Path, target: Target, redis: RedisServer, mongo: MongoServer
) -> None:
    options = ("--mongodb-uri", f"{mongo.uri}/e2e", "--redis-url", redis.url)
    first = Site(tmp_path / "a", server_args=options)
    second = Process(
        "run", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--log-format", "json",
        "--data-dir", str(tmp_path / "b"), *options,
    )  # fmt: skip
    try:
        ready = second.log("listening")
        beside = int(ready["listen"].rpartition(":")[2])
        secret = ask(first, "/api/v1/tokens", '{"name": "pi"}')["secret"]
        wait_cache(first, "shared")
        first.connect({"web": target.port}, token=secret, server_port=beside)
        agent = first.agent
        assert agent is not None
        revoke(first, "pi")
        started = time.monotonic()
        down = second.log("link down")
        assert down["reason"] == "revoked_token"
        assert time.monotonic() - started < 10  # 50 ms when nothing else runs
        wait_until(lambda: agent.popen.poll() is not None)
        refused = second.log("link refused")
        assert refused["code"] == "revoked_token"
    finally:
        second.end()
        first.close()
