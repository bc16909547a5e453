"""Several nodes over one store and a real Redis: what they share, and what they never believe."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from proxy_engine import tokens
from proxy_engine.cache import AccessCache
from proxy_engine.cache.shared import SharedCache
from proxy_engine.errors import StorageError, UsageError
from proxy_engine.links.login_guard import LoginGuard
from proxy_engine.storage import Token
from proxy_engine.storage.sqlite import SqliteStore
from tests.cache.redis_server import RedisServer, redis_server

WAIT = 20.0  # seconds for what takes milliseconds, on a busy machine


async def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT
    while not holds():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


class CountingStore:
    """A store that counts what it is asked, and can be away."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store
        self.asked = 0
        self.is_away = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def tokens_by_digest(self, digests: Sequence[bytes]) -> dict[bytes, Token]:
        self.asked += len(digests)
        if self.is_away:
            raise StorageError("away")
        return await self._store.tokens_by_digest(digests)


class Node:
    """What a server has of the cache."""

    def __init__(self, store: SqliteStore, shared: SharedCache) -> None:
        self.store = CountingStore(store)
        self.shared = shared
        self.cache = AccessCache(self.store, shared)

    async def find(self, secret: str) -> Token | None:
        return await tokens.find(self.cache, secret)

    async def settle(self) -> None:
        """Until what was put into Redis is there."""
        await self.shared._writes.settle()

    def forget(self) -> None:
        """As a node that has just started."""
        self.cache._local.clear()


MakeNode = Callable[..., Awaitable[Node]]


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine takes longer than a call may: what is not asked then is not what is tested."""
    monkeypatch.setattr("proxy_engine.cache.redis.CALL_TIMEOUT", 10.0)
    monkeypatch.setattr("proxy_engine.cache.redis.PROBE_TIMEOUT", 10.0)


@pytest.fixture
async def node(store: SqliteStore, redis: RedisServer) -> AsyncIterator[MakeNode]:
    made: list[SharedCache] = []

    async def make(**options: Any) -> Node:
        shared = SharedCache(redis.url, "", await store.shared_key(), **options)
        shared.start()
        made.append(shared)
        await until(lambda: shared.is_up)
        found = Node(store, shared)
        await found.cache.check()
        return found

    yield make
    for shared in made:
        await shared.close()


async def test_what_one_node_has_asked_the_others_know(store: SqliteStore, node: MakeNode) -> None:
    first, second = await node(), await node()
    secret, token = await tokens.create(store, name="pi", now=1.0)
    for each in (first, second):
        await each.cache.check()
    assert await first.find(secret) == token
    assert await first.find(tokens.PREFIX + "A" * 43) is None
    await first.settle()
    assert await second.find(secret) == token
    assert await second.find(tokens.PREFIX + "A" * 43) is None
    assert (first.store.asked, second.store.asked) == (2, 0)
    assert second.cache.stats()["shared_cache_hits"] == 2
    assert second.cache.hit_rate == 1
    assert await second.find(secret) == token  # locally now
    assert second.cache.stats()["token_cache_hits"] == 1


async def test_devices_too(store: SqliteStore, node: MakeNode) -> None:
    first, second = await node(), await node()
    made = await first.cache.devices({"s-1": 1, "s-2": 1}, 1.0)
    await first.settle()
    found = await second.cache.devices({"s-1": 1, "s-2": 1}, 2.0)
    assert {name: device.id for name, device in found.items()} == {
        name: device.id for name, device in made.items()
    }
    assert second.shared.hits == 2
    await store.device_change("s-1", is_blocked=True)
    await second.cache.check()
    assert (await second.cache.devices({"s-1": 1}, 3.0))["s-1"].is_blocked


async def test_a_revoked_token_is_gone_everywhere_with_the_next_look(
    store: SqliteStore, node: MakeNode
) -> None:
    first, second = await node(), await node()
    secret, _ = await tokens.create(store, name="pi", now=1.0)
    for each in (first, second):
        await each.cache.check()
        await each.find(secret)
        await each.settle()
    await store.token_revoke("pi", 2.0)
    for each in (first, second):
        assert await each.cache.check()
        assert tokens.refusal(await each.find(secret), 3.0) == "revoked_token"


async def test_a_token_that_was_unknown_is_known_once_it_is_made(
    store: SqliteStore, node: MakeNode
) -> None:
    first, second = await node(), await node()
    secret = tokens.new_secret()
    assert await first.find(secret) is None
    await first.settle()
    await store.token_add(
        name="pi", kind="device", digest=tokens.digest(secret), device="pi", now=1.0,
        expires_at=None,
    )  # fmt: skip
    await second.cache.check()
    assert await second.find(secret) is not None


async def test_who_read_before_a_write_and_stores_after_it_is_not_believed(
    store: SqliteStore, node: MakeNode
) -> None:
    """The classic race of cache-aside: get, revoke, put."""
    slow, other = await node(), await node()
    secret, _ = await tokens.create(store, name="pi", now=1.0)
    for each in (slow, other):
        await each.cache.check()
    read = slow.store.tokens_by_digest

    async def tokens_by_digest(digests: Sequence[bytes]) -> dict[bytes, Token]:
        found = await read(digests)
        await store.token_revoke("pi", 2.0)  # by another node
        await other.cache.check()
        return found

    slow.store.tokens_by_digest = tokens_by_digest  # type: ignore[method-assign]
    assert tokens.refusal(await slow.find(secret), 3.0) is None  # it was asked before
    await slow.settle()
    assert tokens.refusal(await other.find(secret), 3.0) == "revoked_token"
    assert other.shared.stale == 1 and other.store.asked == 1
    await slow.cache.check()
    assert tokens.refusal(await slow.find(secret), 3.0) == "revoked_token"


async def test_what_comes_from_redis_after_a_write_is_not_kept(
    store: SqliteStore, node: MakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = await node(), await node()
    secret, _ = await tokens.create(store, name="pi", now=1.0)
    for each in (first, second):
        await each.cache.check()
    await first.find(secret)
    await first.settle()
    call = second.shared._link.call

    async def slow(work: Any) -> Any:
        found = await call(work)
        await store.token_revoke("pi", 2.0)
        await second.cache.check()
        return found

    monkeypatch.setattr(second.shared._link, "call", slow)
    assert tokens.refusal(await second.find(secret), 3.0) == "revoked_token"


async def test_an_old_value_can_not_be_brought_back(
    store: SqliteStore, node: MakeNode, redis: RedisServer
) -> None:
    first = await node()
    secret, _ = await tokens.create(store, name="pi", now=1.0)
    await first.cache.check()
    await first.find(secret)
    await first.settle()
    [name] = redis.cli("keys", "*:token:*").splitlines()
    redis.cli("copy", name, "kept")
    await store.token_revoke("pi", 2.0)
    await first.cache.check()
    await first.find(secret)
    await first.settle()
    redis.cli("copy", "kept", name, "replace")
    first.forget()
    assert tokens.refusal(await first.find(secret), 3.0) == "revoked_token"
    assert first.shared.stale >= 1


async def test_a_made_up_value_is_no_token(
    store: SqliteStore, node: MakeNode, redis: RedisServer
) -> None:
    first = await node()
    good, _ = await tokens.create(store, name="pi", now=1.0)
    await first.cache.check()
    await first.find(good)
    guess = tokens.new_secret()
    assert await first.find(guess) is None
    await first.settle()
    names = redis.cli("keys", "*:token:*").splitlines()
    assert len(names) == 2
    for value in ("", "x" * 200):
        for name in names:
            redis.cli("set", name, value)
        first.forget()
        assert await first.find(guess) is None
        assert await first.find(good) is not None
        await first.settle()
    for source, target in (names, names[::-1]):  # the good token's record as that of the guess
        redis.cli("copy", source, target, "replace")
        first.forget()
        assert await first.find(guess) is None
        assert await first.find(good) is not None
        await first.settle()
    assert first.shared.forged >= 4


async def test_no_secret_and_no_digest_is_in_a_key(
    store: SqliteStore, node: MakeNode, redis: RedisServer
) -> None:
    first = await node()
    secret, token = await tokens.create(store, name="pi", now=1.0)
    await first.cache.check()
    await first.find(secret)
    await first.settle()
    [name] = redis.cli("keys", "*").splitlines()
    assert token.digest.hex() not in name and name.startswith("proxy-engine:")
    value = redis.cli("get", name)
    assert secret not in value and secret[3:] not in value
    assert 3500 < int(redis.cli("ttl", name)) <= 3600


async def test_a_flushed_redis_is_filled_again(
    store: SqliteStore, node: MakeNode, redis: RedisServer
) -> None:
    first = await node()
    secret, _ = await tokens.create(store, name="pi", now=1.0)
    await first.cache.check()
    for _ in range(2):
        assert await first.find(secret) is not None
        await first.settle()
        assert redis.cli("dbsize") == "1"
        redis.cli("flushall")
        first.forget()


async def test_a_redis_that_is_away_costs_nothing_and_comes_back(
    store: SqliteStore, node: MakeNode, redis: RedisServer
) -> None:
    gaps: list[None] = []
    first = await node(on_gap=lambda: gaps.append(None))
    secret, token = await tokens.create(store, name="pi", now=1.0)
    await first.cache.check()
    redis.stop()
    for _ in range(3):
        assert await first.find(secret) == token
        first.forget()
    await until(lambda: not first.shared.is_up)
    assert first.cache.stats()["shared_cache_up"] == 0
    redis.start()
    await until(lambda: first.shared.is_up)
    await until(lambda: gaps == [None])
    assert await first.find(secret) == token
    await first.settle()
    assert redis.cli("dbsize") == "1"


async def test_a_stalled_redis_costs_those_under_way_and_nobody_behind_them(
    store: SqliteStore, node: MakeNode, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await node()
    made = [await tokens.create(store, name=f"t{n}", now=1.0) for n in range(20)]
    await first.cache.check()
    monkeypatch.undo()  # the limits that there are
    redis.stall()
    started = time.monotonic()
    for secret, token in made:
        assert await first.find(secret) == token
    # All twenty one after the other; had each waited for Redis it were a second and more.
    assert first.shared._link.errors == 1, time.monotonic() - started
    assert not first.shared.is_up
    redis.resume()
    await until(lambda: first.shared.is_up)
    first.forget()
    assert await first.find(made[0][0]) == made[0][1]


async def test_a_full_redis_refuses_and_is_no_trouble(
    store: SqliteStore, node: MakeNode, redis: RedisServer
) -> None:
    first = await node()
    secret, token = await tokens.create(store, name="pi", now=1.0)
    await first.cache.check()
    redis.cli("config", "set", "maxmemory", "1")
    assert await first.find(secret) == token
    await first.settle()
    assert first.shared._link.errors == 1 and first.shared.is_up


async def test_known_tokens_come_from_redis_while_the_store_is_away(
    store: SqliteStore, node: MakeNode
) -> None:
    first, second = await node(), await node()
    secret, token = await tokens.create(store, name="pi", now=1.0)
    for each in (first, second):
        await each.cache.check()
    await first.find(secret)
    await first.settle()
    second.store.is_away = True
    with pytest.raises(StorageError):  # one of two is known nowhere
        await tokens.find_all(second.cache, [secret, tokens.new_secret()])
    assert await second.find(secret) == token


async def test_who_writes_tells_the_others_at_once(node: MakeNode) -> None:
    hints: list[None] = []
    first, _ = await node(), await node(on_change=lambda: hints.append(None))
    first.shared.announce()
    await until(lambda: hints == [None])


async def test_strange_urls_are_refused_in_one_line(store: SqliteStore) -> None:
    with pytest.raises(UsageError, match="redis_url"):
        SharedCache("redis://127.0.0.1/?no_such_option=1", "", bytes(32))


async def test_a_password(tmp_path: Path) -> None:
    for redis in redis_server(tmp_path, "--requirepass", "s3cret"):
        for password, is_right in (("s3cret", True), ("wrong", False)):
            assert await is_answered(redis.url, password) == is_right


async def test_tls_with_a_certificate_of_ones_own(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    files = {"cert": certificate, "key": key, "ca-cert": certificate}
    options = [word for name, file in files.items() for word in (f"--tls-{name}-file", str(file))]
    for redis in redis_server(tmp_path, *options, "--tls-auth-clients", "no", "--port", "0"):
        url = f"rediss://localhost:{redis.port}"
        assert await is_answered(f"{url}?ssl_ca_certs={certificate}")
        assert not await is_answered(url)  # nobody vouches for it
        assert not await is_answered(redis.url)


async def is_answered(url: str, password: str = "") -> bool:
    """Whether it can be used, or the first attempt has failed."""
    shared = SharedCache(url, password, bytes(32))
    shared.start()
    await until(lambda: shared.is_up or shared._link._has_failed)
    await shared.close()
    return not shared._link._has_failed


async def test_an_address_that_fails_at_one_node_waits_at_the_other(node: MakeNode) -> None:
    here, there = LoginGuard(4), LoginGuard(4)
    await node(guard=here)
    await node(guard=there)
    for _ in range(4):
        here.fail("203.0.113.9:1", time.monotonic())
    await until(lambda: there.wait("203.0.113.9:2", time.monotonic()) > 10)


async def test_the_documented_acl_is_enough(store: SqliteStore, redis: RedisServer) -> None:
    docs = (Path(__file__).resolve().parents[2] / "docs" / "redis.md").read_text()
    [line] = [line for line in docs.splitlines() if line.startswith("ACL SETUSER")]
    redis.cli(*line.replace(">PASSWORD", ">s3cret").split())
    guard = LoginGuard(4)
    shared = SharedCache(
        redis.url.replace("//", "//proxy@"), "s3cret", await store.shared_key(), guard=guard
    )
    shared.start()
    await until(lambda: shared.is_up)
    node = Node(store, shared)
    secret, token = await tokens.create(store, name="pi", now=1.0)
    await node.cache.check()
    for _ in range(2):
        assert await node.find(secret) == token
        guard.fail("203.0.113.9:1", 1.0)
        shared.announce()
        await asyncio.sleep(0.15)
        await node.settle()
        node.forget()
    assert (shared.hits, shared._link.errors) == (1, 0)
    await shared.close()
