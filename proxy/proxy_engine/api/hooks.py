"""/api/v1/hooks: the code that is asked and told, and how it does."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from proxy_engine.api.routes import Call, Routes

Origin = Literal["built in", "entry point", "module", "program", "webhook_url"]
routes = Routes("hooks", "Code that is asked and told what happens (docs/hooks.md).")


class HookOptions(msgspec.Struct, kw_only=True):
    """The options that every hook has."""

    order: Annotated[int, msgspec.Meta(description="lower is asked and told earlier")]
    timeout: Annotated[float, msgspec.Meta(description="seconds for one call")]
    queue: Annotated[int, msgspec.Meta(description="events that wait for it at most")]
    workers: Annotated[int, msgspec.Meta(description="calls at once, of what it is told")]
    sample: Annotated[int, msgspec.Meta(description="one request of this many is told")]
    fail_open: Annotated[
        bool, msgspec.Meta(description="an error when it is asked lets the device in")
    ]


class HookState(msgspec.Struct, kw_only=True):
    """One hook. Counters begin when it is loaded."""

    name: str
    type: Annotated[str, msgspec.Meta(description="its class, `module:Class`")]
    origin: Annotated[
        Origin,
        msgspec.Meta(
            description="the first three are of the setting `hooks`; `program`: given by the "
            "program that embeds the server"
        ),
    ]
    events: Annotated[
        list[str], msgspec.Meta(description="that it is asked and told, such as `device_connect`")
    ]
    options: Annotated[
        HookOptions, msgspec.Meta(description="those that every hook has, as they are now")
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
    hooks = call.service.hooks
    origins, limit = hooks.origins(), call.service.settings.hook_timeout
    return HookList(
        items=[
            HookState(
                name=each.name,
                type=f"{type(hook).__module__}:{type(hook).__qualname__}",
                origin=msgspec.convert(origins[id(hook)], Origin),
                events=list(each.events),
                options=HookOptions(
                    order=hook.order,
                    timeout=hook.timeout or limit,
                    queue=hook.queue,
                    workers=hook.workers,
                    sample=hook.sample,
                    fail_open=hook.fail_open,
                ),
                calls=each.calls,
                errors=each.errors,
                timeouts=each.timeouts,
                refusals=each.refusals,
                dropped=each.dropped,
                slow=each.slow,
                waiting=each.waiting,
                is_stuck=each.is_stuck,
            )
            for each, hook in zip(hooks.manager, hooks.manager.hooks, strict=True)
        ]
    )
