"""/api/v1/hooks: the code that is asked and told, and how it does."""

from __future__ import annotations

from typing import Annotated

import msgspec

from proxy_engine.api.routes import Call, Routes

routes = Routes("hooks", "Code that is asked and told what happens (docs/hooks.md).")


class HookState(msgspec.Struct, kw_only=True):
    """One hook. Counters begin when it is loaded."""

    name: str
    events: Annotated[
        list[str], msgspec.Meta(description="that it is asked and told, such as `device_connect`")
    ]
    calls: int
    errors: Annotated[int, msgspec.Meta(description="calls that failed or timed out")]
    timeouts: int
    refusals: Annotated[int, msgspec.Meta(description="devices and tunnels that it refused")]
    dropped: Annotated[int, msgspec.Meta(description="events that found no room in its queue")]
    slow: Annotated[
        int, msgspec.Meta(description="inline calls that held the event loop for over 10 ms")
    ]
    waiting: Annotated[int, msgspec.Meta(description="events in its queue now")]
    is_stuck: Annotated[
        bool, msgspec.Meta(description="so many of its calls hang that no more are made")
    ]


class HookList(msgspec.Struct, kw_only=True):
    """The hooks of this server, in the order in which they are asked."""

    items: list[HookState]


@routes.get("/api/v1/hooks")
async def list_hooks(call: Call) -> HookList:
    """The hooks of this server, with their counters."""
    return HookList(
        items=[
            HookState(
                name=each.name,
                events=list(each.events),
                calls=each.calls,
                errors=each.errors,
                timeouts=each.timeouts,
                refusals=each.refusals,
                dropped=each.dropped,
                slow=each.slow,
                waiting=each.waiting,
                is_stuck=each.is_stuck,
            )
            for each in call.service.hooks.manager
        ]
    )
