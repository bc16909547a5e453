"""What it costs to check a token that this server knows already: of a reconnecting device."""

from __future__ import annotations

import asyncio
import time

import pytest

from proxy_engine import tokens
from proxy_engine.cache.access import AccessCache
from proxy_engine.storage.sqlite import SqliteStore

TOKENS = 1_000


@pytest.mark.parametrize("is_known", [True, False], ids=["known", "unknown"])
def test_a_token_is_checked(benchmark, tmp_path, is_known):
    with asyncio.Runner() as runner:
        store = runner.run(SqliteStore.open(tmp_path / "db"))

        async def make() -> list[str]:
            return [
                (await tokens.create(store, name=f"t{n}", now=time.time()))[0]
                for n in range(TOKENS)
            ]

        secrets = runner.run(make())
        cache = AccessCache(store)
        runner.run(cache.check())

        async def check() -> None:
            if not is_known:
                cache.clear()
            for secret in secrets:
                assert await tokens.find(cache, secret) is not None

        benchmark.pedantic(lambda: runner.run(check()), rounds=10, warmup_rounds=1)
        runner.run(store.close())
    each = benchmark.stats.stats.min / TOKENS
    benchmark.extra_info["us_per_check"] = round(each * 1e6, 2)
