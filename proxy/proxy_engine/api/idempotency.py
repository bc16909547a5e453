"""Idempotency-Key: a POST that is sent again is done once and answered twice.

As the IETF's draft-ietf-httpapi-idempotency-key-header has it: a key belongs to who sent it
and to the path; the same key with another body is a mistake (422), the same request while
the first is under way a conflict (409). Answers are kept in memory only, because that of a
new token holds its secret: they do not outlive the process.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Generic, TypeVar

import msgspec

from proxy_engine.api.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Hashable

KEEP = 24 * 3600.0  # seconds an answer is remembered
KEYS_MAX = 4096  # remembered at once; the oldest goes first
KEY_LENGTH_MAX = 255
_KEY = re.compile(rf"[!-~]{{1,{KEY_LENGTH_MAX}}}")
T = TypeVar("T")


class _Entry(msgspec.Struct, Generic[T]):
    digest: bytes  # of the body
    expires_at: float
    answer: T | None = None  # None: under way


class Idempotency(Generic[T]):
    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._entries: OrderedDict[tuple[Hashable, str], _Entry[T]] = OrderedDict()

    async def once(
        self,
        scope: Hashable,
        key: str,
        body: bytes,
        work: Callable[[], Awaitable[T]],
        is_final: Callable[[T], bool],
    ) -> T:
        """The answer of `work`, or of the same work before.

        Args:
            scope: whose key it is, and for what.
            is_final: whether an answer is to be remembered; a failure may be tried again.
        Raises: Problem.
        """
        if not _KEY.fullmatch(key):
            length = f"1 to {KEY_LENGTH_MAX} visible ASCII characters"
            raise Problem(400, "bad_idempotency_key", f"an idempotency key is {length}")
        now = self._clock()
        self._expire(now)
        digest = hashlib.sha256(body).digest()
        found = self._entries.get((scope, key))
        if found is not None:
            if found.digest != digest:
                raise Problem(422, "idempotency_key_reused", "this key came with another body")
            if found.answer is None:
                raise Problem(
                    409, "in_progress", "the first request with this key is not answered yet"
                )
            return found.answer
        entry: _Entry[T] = _Entry(digest, now + KEEP)
        self._entries[scope, key] = entry
        try:
            answer = await work()
            if is_final(answer):
                entry.answer = answer
            return answer
        finally:
            if entry.answer is None:
                self._entries.pop((scope, key), None)

    def _expire(self, now: float) -> None:
        while self._entries:
            entry = next(iter(self._entries.values()))
            if entry.expires_at > now and len(self._entries) < KEYS_MAX:
                return
            self._entries.popitem(last=False)
