"""Live events on a WebSocket, by aiohttp."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

import msgspec
from aiohttp import WSCloseCode, WSMsgType, web

from proxy_engine import tokens
from proxy_engine.api.context import Call, Service
from proxy_engine.api.stats import all_stats
from proxy_engine.errors import StorageError
from proxy_engine.live_events import MetricsEvent, Subscriber, Topic

SUBPROTOCOL = "proxy-engine.events"
HEARTBEAT = 20.0  # seconds between pings
SEND_TIMEOUT = 30.0  # seconds for some events to be taken; then the subscriber is gone
SEND_MAX = 64  # events that are some
MESSAGE_MAX = 1024  # bytes of what a subscriber sends: it has nothing to say
TOKEN_INTERVAL = 1.0  # seconds between looks whether the token is still good
SOCKETS: web.AppKey[Any] = web.AppKey("sockets", set)


async def serve(
    request: web.Request, *, call: Call, topics: frozenset[Topic], interval: float
) -> web.WebSocketResponse:
    """One subscriber, until it goes, its token is taken back, or the server ends."""
    service = call.service
    # Not compressed, though browsers offer it: of a busy server that costs as much as all the rest.
    socket = web.WebSocketResponse(
        protocols=(SUBPROTOCOL,), heartbeat=HEARTBEAT, max_msg_size=MESSAGE_MAX, compress=False
    )
    await socket.prepare(request)
    with service.events.subscribe(topics) as subscriber:
        work = [asyncio.create_task(_send(socket, subscriber)), asyncio.create_task(_read(socket))]
        work.append(asyncio.create_task(_until_refused(call)))
        if "metrics" in topics:
            work.append(asyncio.create_task(_measure(service, subscriber, interval)))
        request.app[SOCKETS].add(socket)
        try:
            await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
        finally:
            request.app[SOCKETS].discard(socket)
            for task in work:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)
    await socket.close()
    return socket


async def _send(socket: web.WebSocketResponse, subscriber: Subscriber) -> None:
    with contextlib.suppress(ConnectionError, TimeoutError):
        while True:
            events = await subscriber.get(SEND_MAX)
            async with asyncio.timeout(SEND_TIMEOUT):
                for event in events:
                    await socket.send_frame(event, WSMsgType.TEXT)


async def _read(socket: web.WebSocketResponse) -> None:
    """Until it closes; pings are answered meanwhile, messages ignored."""
    async for _ in socket:
        pass


async def _until_refused(call: Call) -> None:
    """Until the token opens nothing any more. A store that fails does not take it back."""
    actor = call.actor
    while actor is not None:
        await asyncio.sleep(TOKEN_INTERVAL)
        with contextlib.suppress(StorageError):
            found = await call.service.cache.tokens_by_digest([actor.digest])
            token = found.get(actor.digest)
            if token is not None:  # its secret may be one that was replaced
                token = tokens.as_used(token, actor.digest)
            if tokens.refusal(token, time.time()) is not None:
                return


async def _measure(service: Service, subscriber: Subscriber, interval: float) -> None:
    while True:
        event = MetricsEvent(at=time.time(), values=all_stats(service))
        if not subscriber.put(msgspec.json.encode(event)):
            service.events.dropped += 1
        await asyncio.sleep(interval)


async def close_all(app: web.Application) -> None:
    """Before the listener ends: tell everybody who watches."""
    sockets: set[web.WebSocketResponse] = app[SOCKETS]
    for socket in list(sockets):
        await socket.close(code=WSCloseCode.GOING_AWAY, message=b"the server ends")
