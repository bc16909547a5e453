"""Failed logins of one node, told to the others: an address may fail so often at all of them.

Every SEND_EVERY the failures since are one message, sealed like all we send. Nobody waits for
it, and without Redis each node counts for itself.

A message is taken once and only while it is new, so who can write to Redis can not have an
address punished twice for what it did.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from proxy_engine.cache.seal import GENERATION_SIZE, Forged, Sealer

if TYPE_CHECKING:
    from proxy_engine.links.login_guard import LoginGuard

SEND_EVERY = 0.1  # seconds
OLD = 60.0  # seconds: clocks of nodes differ by less
NODES_MAX = 1024  # remembered
ADDRESSES_MAX = 1024  # of one message: those that failed most
_NONE = bytes(GENERATION_SIZE)  # it is about no token, and so of no generation


class _Message(msgspec.Struct, array_like=True):
    node: bytes
    number: int  # counts up
    at: float
    failures: dict[str, int]  # by LoginGuard's keys


class SharedLogins:
    """
    Args:
        publish: sends to all nodes, this one too, or does not.
    """

    def __init__(
        self,
        sealer: Sealer,
        guard: LoginGuard,
        publish: Callable[[bytes], None],
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sealer = sealer
        self._guard = guard
        self._publish = publish
        self._clock = clock
        self._monotonic = monotonic
        self._name = sealer.channel("logins")
        self._node = secrets.token_bytes(8)
        self._number = 0
        self._failures: Counter[str] = Counter()
        self._last: OrderedDict[bytes, int] = OrderedDict()  # number, by node
        self._decoder = msgspec.msgpack.Decoder(_Message)
        guard.on_failure = self._failed

    async def run(self) -> None:
        while True:
            await asyncio.sleep(SEND_EVERY)
            self.send()

    def send(self) -> None:
        """What has failed since the last time."""
        if not self._failures:
            return
        self._number += 1
        most = dict(self._failures.most_common(ADDRESSES_MAX))
        self._failures.clear()
        message = _Message(self._node, self._number, self._clock(), most)
        data = msgspec.msgpack.encode(message)
        self._publish(self._sealer.seal(self._name, _NONE, data))

    def heard(self, value: bytes) -> None:
        """A message from anybody."""
        try:
            data = self._sealer.open(self._name, _NONE, value)
        except Forged:
            return
        if data is None:
            return
        message = self._decoder.decode(data)
        if message.node == self._node or abs(self._clock() - message.at) > OLD:
            return
        if message.number <= self._last.get(message.node, 0):
            return
        self._last[message.node] = message.number
        self._last.move_to_end(message.node)
        if len(self._last) > NODES_MAX:
            self._last.popitem(last=False)
        now = self._monotonic()
        for key, count in message.failures.items():
            self._guard.failed_elsewhere(key, count, now)

    def _failed(self, key: str) -> None:
        if len(self._failures) < 16 * ADDRESSES_MAX or key in self._failures:
            self._failures[key] += 1
