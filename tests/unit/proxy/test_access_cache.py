from __future__ import annotations

import time
from collections.abc import Sequence

import pytest

from proxy_engine import tokens
from proxy_engine.cache import AccessCache, local
from proxy_engine.storage import Token
from proxy_engine.storage.sqlite import SqliteStore


@pytest.fixture
def asked(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    found: list[bytes] = []
    original = store.tokens_by_digest

    async def tokens_by_digest(digests: Sequence[bytes]) -> dict[bytes, Token]:
        found.extend(digests)
        return await original(digests)

    monkeypatch.setattr(store, "tokens_by_digest", tokens_by_digest)
    return found


async def test_the_store_is_asked_once_for_who_is_there_and_who_is_not(
    store: SqliteStore, asked: list[bytes]
) -> None:
    cache = AccessCache(store)
    secret, token = await tokens.create(store, name="pi", now=1.0)
    for _ in range(3):
        assert await tokens.find(cache, secret) == token
        assert await tokens.find(cache, tokens.PREFIX + "A" * 43) is None
    assert len(asked) == 2
    assert (cache.hits, cache.misses) == (4, 2)
    assert cache.is_familiar(token.digest)
    assert not cache.is_familiar(tokens.digest(tokens.PREFIX + "A" * 43))


async def test_a_write_is_seen_by_the_next_who_asks(store: SqliteStore) -> None:
    cache = AccessCache(store)
    secret, _ = await tokens.create(store, name="pi", now=1.0)
    assert tokens.refusal(await tokens.find(cache, secret), 2.0) is None
    await store.token_revoke("pi", 3.0)
    cache.clear()
    assert tokens.refusal(await tokens.find(cache, secret), 4.0) == "revoked_token"


async def test_what_was_read_while_somebody_wrote_is_not_kept(
    store: SqliteStore, asked: list[bytes]
) -> None:
    cache = AccessCache(store)
    secret, _ = await tokens.create(store, name="pi", now=1.0)
    original = store.tokens_by_digest

    async def slow(digests: Sequence[bytes]) -> dict[bytes, Token]:
        found = await original(digests)
        cache.clear()  # a write comes in between
        return found

    store.tokens_by_digest = slow  # type: ignore[method-assign]
    await tokens.find(cache, secret)
    await tokens.find(cache, secret)
    assert len(asked) == 2


async def test_what_was_learnt_has_not_to_be_looked_for(
    store: SqliteStore, asked: list[bytes]
) -> None:
    cache = AccessCache(store)
    old, _ = await tokens.create(store, name="pi", now=1.0)
    assert await tokens.find(cache, old) is not None
    made = await tokens.rotate(store, "pi", now=2.0)
    assert made is not None
    new = made[0]
    cache.clear()
    asked.clear()
    cache.learn(await store.tokens(), [], cache.version)
    for secret in (old, new):
        assert cache.is_familiar(tokens.digest(secret))
        assert await tokens.find(cache, secret) is not None
    assert asked == []


async def test_only_so_much_is_kept(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "KNOWN_MAX", 2)
    monkeypatch.setattr(local, "UNKNOWN_MAX", 2)
    cache = AccessCache(store)
    made = [await tokens.create(store, name=f"t{n}", now=1.0) for n in range(4)]
    for secret, _ in made:
        await tokens.find(cache, secret)
    assert [cache.is_familiar(token.digest) for _, token in made] == [False, False, True, True]
    await cache.devices({f"d{n}": 1 for n in range(5)}, 1.0)
    assert len(await cache.devices({"d0": 1, "d4": 1}, 1.0)) == 2


async def test_a_cached_check_takes_far_less_than_a_millisecond(store: SqliteStore) -> None:
    cache = AccessCache(store)
    secret, _ = await tokens.create(store, name="pi", now=1.0)
    await tokens.find(cache, secret)
    times = []
    for _ in range(200):
        start = time.perf_counter()
        await tokens.find(cache, secret)
        times.append(time.perf_counter() - start)
    assert sorted(times)[100] < 0.001


async def test_what_the_store_had_opens_links_when_it_fails_next(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = AccessCache(store)
    secret, token = await tokens.create(store, name="pi", now=1.0)
    await store.devices_claim([("s-1", token.id)], 1.0)
    cache.clear()  # somebody wrote, and everybody was looked at anew
    cache.learn(await store.tokens(), await store.devices(), cache.version)
    await store.close()
    assert await tokens.find(cache, secret) == token
    assert set(await cache.devices({"s-1": token.id}, 2.0)) == {"s-1"}


async def test_what_was_read_before_somebody_wrote_is_not_learnt(store: SqliteStore) -> None:
    cache = AccessCache(store)
    _, token = await tokens.create(store, name="pi", now=1.0)
    version = cache.version
    before = await store.tokens()
    cache.clear()
    cache.learn(before, [], version)
    assert not cache.can_tell(token.digest, "pi")


async def test_who_was_known_is_familiar_until_the_store_has_been_read(store: SqliteStore) -> None:
    cache = AccessCache(store)
    _, token = await tokens.create(store, name="pi", now=1.0)
    cache.learn(await store.tokens(), [], cache.version)
    for _ in range(2):
        cache.clear()
        assert cache.is_familiar(token.digest)
    assert not cache.can_tell(token.digest, "pi")  # but nothing is taken for true
    await store.device_delete("pi")  # and its token
    cache.learn(await store.tokens(), [], cache.version)
    assert not cache.is_familiar(token.digest)
