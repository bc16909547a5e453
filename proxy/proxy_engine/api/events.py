"""/api/v1/events: what happens now. Who may watch; sockets.py does the rest.

A browser says which page asks, in Origin: only pages of this very listener may.
"""

from __future__ import annotations

import contextlib
from functools import partial
from typing import Annotated
from urllib.parse import urlsplit

import msgspec

from proxy_engine.api.problems import Problem
from proxy_engine.api.routes import Call, Routes, Upgrade
from proxy_engine.live_events import SUBSCRIBERS_MAX, TOPICS, Event, Topic

routes = Routes("events", "What happens now.")


class EventsQuery(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    topic: Annotated[tuple[Topic, ...], msgspec.Meta(description="which; none: all")] = ()
    interval: Annotated[
        float, msgspec.Meta(ge=0.1, le=3600, description="seconds between metrics")
    ] = 5.0


@routes.get(
    "/api/v1/events",
    messages=Event,
    problems={
        403: "the token does not allow this, or a page of another site asks",
        426: "not a WebSocket handshake",
        429: "too many subscribers, or failed logins from this address",
    },
)
async def watch_events(call: Call, query: EventsQuery) -> Upgrade:
    """Watch requests, devices and metrics, over a WebSocket.

    Each text message is one event, told apart by `type`. Whoever reads too slowly misses events and
    is told how many. In a browser the token goes into a subprotocol:
    `new WebSocket(url, ["proxy-engine.events", "bearer." + token])`.
    """
    if call.headers.get("upgrade", "").lower() != "websocket":
        wanted = {"Upgrade": "websocket", "Connection": "Upgrade"}
        raise Problem(426, "upgrade_required", "ask for a WebSocket here", wanted)
    if not _is_own_origin(call.headers.get("origin"), call.headers.get("host", "")):
        raise Problem(403, "foreign_origin", "a page of another site may not watch")
    if len(call.service.events) >= SUBSCRIBERS_MAX:
        limit = f"there are {SUBSCRIBERS_MAX} subscribers already"
        raise Problem(429, "too_many_subscribers", limit, {"Retry-After": "10"})
    from proxy_engine.api.sockets import serve  # knows aiohttp

    topics = frozenset(query.topic or TOPICS)
    return Upgrade(partial(serve, call=call, topics=topics, interval=query.interval))


def _is_own_origin(origin: str | None, host: str) -> bool:
    """Programs send none. A page's has to be this listener, by the name it was asked by."""
    if origin is None:
        return True
    with contextlib.suppress(ValueError):
        return urlsplit(origin).netloc.lower() == host.lower() != ""
    return False
