"""The connection to Redis: there or not, and never in the way.

A call has CALL_TIMEOUT. One that fails opens the breaker: from then on nobody asks, until a
probe in the background, of this module's own, has been answered. So a Redis that stalls costs
those who are under way one time limit, and the ones behind them nothing.

Pub/sub has a connection of its own. It is pinged while it is quiet, so that one that has died
without a word is noticed, and whoever listens is told when it begins anew: messages may be lost
then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError

from proxy_engine import failures, logs
from proxy_engine.errors import UsageError, error_text

CALL_TIMEOUT = 0.05  # seconds; the store would have answered by then
PROBE_TIMEOUT = 2.0  # seconds, for connecting too
QUIET = 1.0  # seconds without a message until a ping, and until the next probe
DELAY_FIRST, DELAY_MAX = 0.25, 5.0  # seconds between attempts to connect; doubled each time

_T = TypeVar("_T")
_log = logs.get("redis")


class RedisLink:
    """
    Args:
        listeners: by channel, called with each message. They return at once.
        on_gap: called when messages come again; some may have been lost.
    """

    def __init__(
        self,
        url: str,
        password: str = "",
        *,
        listeners: Mapping[str, Callable[[bytes], None]],
        on_gap: Callable[[], None],
    ) -> None:
        self._redis = Redis.from_url(
            url,
            password=password or None,
            protocol=2,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=PROBE_TIMEOUT,
            socket_connect_timeout=PROBE_TIMEOUT,
            client_name="proxy-engine",
            driver_info=None,  # one round trip less, and nothing an ACL has to allow
        )
        try:
            self._redis.connection_pool.make_connection()  # type: ignore[no-untyped-call]
        except (TypeError, ValueError) as error:  # of what is behind the "?" in the URL
            raise UsageError(f"redis_url: {error}") from None
        self._listeners = dict(listeners)
        self._on_gap = on_gap
        self._has_subscribed = False
        self.is_up = False  # the breaker is closed
        self._has_failed = False  # ... and it was said
        self.errors = 0
        self.skipped = 0  # calls that were not made, because it was away

    async def run(self) -> None:
        """Connect, listen and probe, for ever."""
        delay = DELAY_FIRST
        while True:
            try:
                await self._serve()
            except Exception as error:  # whatever it is: nobody is to suffer from a cache
                if self.is_up:
                    delay = DELAY_FIRST
                self._failed(error)
            await asyncio.sleep(delay)
            delay = min(2 * delay, DELAY_MAX)

    async def close(self) -> None:
        self.is_up = False
        await self._redis.aclose()

    async def call(self, work: Callable[[Redis], Awaitable[_T]]) -> _T | None:
        """What Redis answers; None if it does not, or is not asked."""
        if not self.is_up:
            self.skipped += 1
            return None
        try:
            async with asyncio.timeout(CALL_TIMEOUT):
                return await work(self._redis)
        except ResponseError as error:  # it is there, and does not want this (full, read-only)
            self.errors += 1
            _log.debug("redis refuses", error=error)
        except Exception as error:  # whatever it is: nobody is to suffer from a cache
            self.errors += 1
            self._failed(error)
        return None

    async def _serve(self) -> None:
        async with self._redis.pubsub() as pubsub:
            async with asyncio.timeout(PROBE_TIMEOUT):
                await pubsub.subscribe(*self._listeners)
                for _ in self._listeners:
                    await _next(pubsub, PROBE_TIMEOUT)
            await self._probe()
            if self._has_subscribed:
                self._on_gap()
            self._has_subscribed = True
            is_waiting = False  # for the answer to a ping
            while True:
                message = await _next(pubsub, QUIET)
                if message is not None:
                    is_waiting = False
                    self._heard(message)
                elif is_waiting:
                    raise TimeoutError("no answer to a ping")
                else:
                    is_waiting = True
                    await pubsub.ping()
                if not self.is_up:
                    await self._probe()

    async def _probe(self) -> None:
        async with asyncio.timeout(PROBE_TIMEOUT):
            await self._redis.ping()
        self.is_up = True
        if self._has_failed:
            self._has_failed = False
            _log.info("redis is back")

    def _heard(self, message: dict[str, Any]) -> None:
        listener = self._listeners.get(message["channel"].decode()) if message["channel"] else None
        if message["type"] == "message" and listener is not None:
            listener(message["data"])

    def _failed(self, error: Exception) -> None:
        self.is_up = False
        if not self._has_failed:
            self._has_failed = True
            what = error_text(error) or type(error).__name__
            failures.warning(
                _log, "redis", "away", "redis is away; going on without it", error=what
            )


async def _next(pubsub: PubSub, seconds: float) -> dict[str, Any] | None:
    found: dict[str, Any] | None = await pubsub.get_message(timeout=seconds)
    return found
