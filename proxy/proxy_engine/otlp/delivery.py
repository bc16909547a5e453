"""One body to a collector, tried again while that may help, ever more slowly.

https://opentelemetry.io/docs/specs/otlp/#otlphttp-response says which answers may change.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

import aiohttp
from google.protobuf.message import DecodeError, Message

from proxy_engine import failures, logs
from proxy_engine.errors import error_text

DELAY_FIRST, DELAY_MAX = 1.0, 30.0  # seconds between tries; doubled each time, a quarter is chance
REST_MAX = 300.0  # seconds that a Retry-After is believed
CLOSE_SECONDS = 2.0  # for what waits, when the server ends
ANSWER_MAX = 64 * 1024  # bytes that are read of one
AGAIN = frozenset((429, 502, 503, 504))  # the others say that the same will be refused again

_log = logs.get("otlp")


class Answer(NamedTuple):
    status: int  # 0: there was none
    body: bytes = b""
    wait: float | None = None  # seconds that it asks for
    problem: str = ""

    @property
    def is_taken(self) -> bool:
        return 200 <= self.status < 300

    @property
    def is_final(self) -> bool:
        """Whether another try would not help."""
        return self.status != 0 and self.status not in AGAIN


class Delivery:
    """
    Args:
        url: where bodies go, as it stands.
        headers: beside the type of the content; secret.
        sleep, chance: for tests; chance gives 0 to 1.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: str,
        headers: Mapping[str, str],
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.url = url
        self._session = session
        self._headers = {**headers, "Content-Type": "application/x-protobuf"}
        self._sleep = sleep
        self._chance = chance
        self._rest_until = 0.0  # on the monotonic clock: it asked for that
        self.is_failing = False  # it did not take the last one
        self.taken = 0  # POSTs
        self.failed = 0

    async def deliver(self, body: bytes, seconds: float) -> bytes | None:
        """The body of the answer; None: it was not taken. No try begins after so many seconds."""
        until = time.monotonic() + seconds
        delay = DELAY_FIRST
        wait = self._rest_until - time.monotonic()
        while time.monotonic() + wait <= until:
            if wait > 0:
                await self._sleep(wait)
            answer = await self._post(body)
            self._tell(answer)
            if answer.is_taken:
                self.taken += 1
                return answer.body
            self.failed += 1
            if answer.is_final:
                break
            wait = delay * (0.75 + self._chance() / 4)
            if answer.wait is not None:
                wait = min(answer.wait, REST_MAX)
                self._rest_until = time.monotonic() + wait
            delay = min(2 * delay, DELAY_MAX)
        return None

    async def _post(self, body: bytes) -> Answer:
        try:
            # Where a redirect leads, the headers must not go.
            async with self._session.post(
                self.url, data=body, headers=self._headers, allow_redirects=False
            ) as answer:
                text = await _start(answer.content)
                return Answer(answer.status, text, _wait(answer.headers.get("Retry-After", "")))
        except TimeoutError:
            return Answer(0, problem="it took too long")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return Answer(0, problem=error_text(error))

    def _tell(self, answer: Answer) -> None:
        """The log hears when it begins to fail and when it ends, not each time."""
        if answer.is_taken:
            if self.is_failing:
                _log.info("the collector takes what it gets again", url=self.url)
            self.is_failing = False
        elif not self.is_failing:
            self.is_failing = True
            failures.warning(
                _log,
                "otlp",
                "away",
                "the collector does not take what it gets",
                url=self.url,
                status=answer.status,
                problem=answer.problem or answer.body[:200].decode(errors="replace"),
            )


async def _start(content: aiohttp.StreamReader) -> bytes:
    parts, size = [], 0
    async for part in content.iter_any():
        parts.append(part)
        size += len(part)
        if size >= ANSWER_MAX:
            break
    return b"".join(parts)


def _wait(text: str) -> float | None:
    """Of a Retry-After: seconds or a date."""
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError):
        return None


def partial(kind: type[Message], answer: bytes) -> Any:
    """What the collector says of what it took: None, if it is content or can not be understood."""
    try:
        response: Any = kind.FromString(answer)
    except DecodeError:
        return None
    if not response.HasField("partial_success"):
        return None
    said = response.partial_success
    if said.error_message:
        failures.warning(
            _log, "otlp", "partial", "the collector leaves some out", said=said.error_message
        )
    return said
