"""Probes, without a token: alive, ready for traffic, and why."""

from __future__ import annotations

import asyncio
from typing import Annotated, Literal

import msgspec

import proxy_engine
from proxy_engine.api.context import Service
from proxy_engine.api.routes import Call, Routes
from proxy_engine.errors import StorageError

STORE_TIMEOUT = 2.0  # seconds; probes usually give up after that
NOT_READY = {503: "draining, or the store fails, or a worker is stuck"}

routes = Routes("health", "Probes, without a token.")


class Alive(msgspec.Struct):
    """The event loop and the workers turn."""

    status: Literal["ok", "stuck"] = "ok"


class Readiness(msgspec.Struct, kw_only=True):
    """Whether to send traffic here."""

    status: Literal["ok", "draining", "failing", "stuck"]
    store: Annotated[bool, msgspec.Meta(description="can be read and written")]
    cache: Annotated[
        Literal["local", "shared", "degraded"],
        msgspec.Meta(
            description="of tokens and devices: `local` without Redis, `shared` with it, "
            "`degraded` while Redis is away, which costs time and nothing else"
        ),
    ]


class Health(Readiness, kw_only=True):
    """Readiness, and what is usually asked next."""

    version: str
    uptime: Annotated[float, msgspec.Meta(description="seconds")]
    links: int
    cache_hit_rate: Annotated[
        float | None,
        msgspec.Meta(description="share of lookups that the store was not asked for"),
    ]


@routes.get("/livez", scope="public", also={503: "a worker is stuck"})
async def livez(call: Call) -> Alive:
    """Is it alive.

    The event loop turns, and no worker has been in one turn for longer than `watchdog`; more is
    not needed to be alive.
    """
    if call.service.diagnosis.watch.is_stuck:
        call.status = 503
        return Alive("stuck")
    return Alive()


@routes.get("/readyz", scope="public", also=NOT_READY)
async def readyz(call: Call) -> Readiness:
    """Is it ready for traffic."""
    status, store_ok = await status_of(call.service)
    call.status = 200 if status == "ok" else 503
    return Readiness(status=status, store=store_ok, cache=_cache(call.service))


@routes.get("/health", scope="public", also=NOT_READY)
async def health(call: Call) -> Health:
    """How it is."""
    service = call.service
    status, store_ok = await status_of(service)
    call.status = 200 if status == "ok" else 503
    rate = service.cache.hit_rate
    return Health(
        status=status,
        store=store_ok,
        version=proxy_engine.__version__,
        uptime=round(service.uptime, 3),
        links=len(service.links),
        cache=_cache(service),
        cache_hit_rate=None if rate is None else round(rate, 4),
    )


def _cache(service: Service) -> Literal["local", "shared", "degraded"]:
    shared = service.cache.shared
    if shared is None:
        return "local"
    return "shared" if shared.is_up else "degraded"


async def status_of(
    service: Service,
) -> tuple[Literal["ok", "draining", "failing", "stuck"], bool]:
    try:
        async with asyncio.timeout(STORE_TIMEOUT):
            await service.store.ping()
        store_ok = not service.request_log.is_failing
    except (StorageError, TimeoutError):
        store_ok = False
    if service.diagnosis.watch.is_stuck:
        return "stuck", store_ok
    if service.is_draining:
        return "draining", store_ok
    return ("ok" if store_ok else "failing"), store_ok
