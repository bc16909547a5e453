"""/debug/: where time and memory go, and what the engine has. Off unless `debug` is set.

All of it needs a token that may write, and is audited: a profile costs CPU time, a dump
tells of everybody.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Annotated

import msgspec

from proxy_engine.api.problems import Problem
from proxy_engine.api.routes import Call, Routes, Stream
from proxy_engine.diagnosis.cpu import CpuProfile
from proxy_engine.diagnosis.dump import EngineDump
from proxy_engine.diagnosis.heap import Group, HeapReport
from proxy_engine.diagnosis.stacks import Stack, all_stacks
from proxy_engine.diagnosis.watch import WatchState

if TYPE_CHECKING:
    from proxy_engine.diagnosis.service import Diagnosis

FOLDED = "text/plain"
OFF = {404: "the setting `debug` is off"}

routes = Routes("debug", "Where time and memory go; off unless the setting `debug` is on.")


class ProfileQuery(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    seconds: Annotated[float, msgspec.Meta(ge=0.1, le=300)] = 10.0
    rate: Annotated[int, msgspec.Meta(ge=1, le=999, description="samples a second of CPU time")] = (
        97  # no divisor of what timers in the program beat at
    )


class EngineQuery(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    device: Annotated[str | None, msgspec.Meta(description="links of this device alone")] = None
    links: Annotated[int, msgspec.Meta(ge=0, le=10_000, description="of each worker, at most")] = (
        1000
    )
    streams: Annotated[int, msgspec.Meta(ge=0, le=10_000, description="likewise")] = 1000


class HeapStart(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    frames: Annotated[
        int, msgspec.Meta(ge=1, le=50, description="of each allocation's stack that are kept")
    ] = 1


class HeapQuery(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    top: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 25
    group: Group = "lineno"


class Stacks(msgspec.Struct, kw_only=True):
    """Where every thread is now."""

    threads: list[Stack]


def _diagnosis(call: Call) -> Diagnosis:
    if not call.service.settings.debug:
        raise Problem(404, "debug_off", "the setting debug is off")
    return call.service.diagnosis


@routes.get(
    "/debug/profile",
    scope="write",
    media_types=(FOLDED,),
    problems=OFF | {409: "a profile is under way, or the signal for it is somebody else's"},
)
async def read_cpu_profile(call: Call, query: ProfileQuery) -> Stream:
    """Where CPU time goes, for some seconds.

    All threads, those of the engine by their native stacks, as folded stacks: one a line, the
    outermost first, and the microseconds of CPU time in it. flamegraph.pl and
    speedscope read it. `X-Samples-Lost` says how many found no room.
    """
    _diagnosis(call)
    try:
        profile = CpuProfile(call.service.engine.inspector, query.rate)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        raise Problem(409, "profile_under_way", "one profile at a time") from None
    try:
        await asyncio.sleep(query.seconds)
        found = await asyncio.to_thread(profile.finish)
    except RuntimeError:
        raise Problem(503, "stopping", "the engine has stopped") from None
    finally:
        profile.stop()
    call.answer_headers["X-Samples-Lost"] = str(found.lost)
    return Stream(FOLDED, _whole(found.folded()))


async def _whole(text: str) -> AsyncIterator[bytes]:
    yield text.encode()


@routes.get("/debug/engine", scope="write", problems=OFF | {404: "... or no such device is online"})
async def read_engine_dump(call: Call, query: EngineQuery) -> EngineDump:
    """What the engine has: workers, links, streams.

    Workers tell it between two turns, so it holds up nobody and is no picture of one moment.
    What is beyond `links` and `streams` is counted.
    """
    dumps = _diagnosis(call).dumps
    device_id = 0
    if query.device is not None:
        ids = [link.device_id for link in call.service.links if link.device == query.device]
        if not ids:
            raise Problem(404, "unknown_device", f'no device "{query.device}" is online')
        device_id = ids[0]
    try:
        return await dumps.ask(links=query.links, streams=query.streams, device_id=device_id)
    except (TimeoutError, RuntimeError):
        raise Problem(503, "no_answer", "a worker does not answer: see /debug/stacks") from None


@routes.get("/debug/stacks", scope="write", problems=OFF)
async def read_stacks(call: Call) -> Stacks:
    """Where every thread is now."""
    watch = _diagnosis(call).watch
    workers = call.service.engine.workers
    return Stacks(threads=await asyncio.to_thread(all_stacks, watch, workers))


@routes.get("/debug/slow", scope="write", problems=OFF)
async def read_slow_turns(call: Call) -> WatchState:
    """What was slow: turns of workers, callbacks of the asyncio loop; and what is stuck."""
    found = _diagnosis(call)
    watch = found.watch
    return WatchState(
        slow_ms=found.slow_ms,
        slow_seen=watch.slow_seen,
        slow=list(watch.slow),
        stuck=list(watch.stuck.values()),
        status="stuck" if watch.is_stuck else "ok",
    )


@routes.post(
    "/debug/heap", status=204, problems=OFF | {409: "Python's memory is being traced already"}
)
async def start_heap(call: Call, body: HeapStart) -> None:
    """Trace where Python's memory is allocated, from now on.

    It makes Python slower and larger; the engine's own memory is not Python's.
    """
    if not _diagnosis(call).heap.start(body.frames):
        raise Problem(409, "heap_traced", "Python's memory is being traced already")


@routes.post("/debug/heap/snapshot", status=200, problems=OFF | {409: "nothing is traced"})
async def snapshot_heap(call: Call, query: HeapQuery) -> HeapReport:
    """The places that hold most, and remember this moment for the next diff."""
    return await _heap(call, query, changes=False)


@routes.get(
    "/debug/heap/diff", scope="write", problems=OFF | {409: "there is no snapshot to compare with"}
)
async def diff_heap(call: Call, query: HeapQuery) -> HeapReport:
    """The places that have changed most since the last snapshot."""
    return await _heap(call, query, changes=True)


@routes.delete("/debug/heap", problems=OFF | {409: "it was not started here"})
async def stop_heap(call: Call) -> None:
    """Trace no more, and forget."""
    if not _diagnosis(call).heap.stop():
        raise Problem(409, "heap_not_traced", "it was not started here")


async def _heap(call: Call, query: HeapQuery, *, changes: bool) -> HeapReport:
    heap = _diagnosis(call).heap
    found = await asyncio.to_thread(heap.report, query.top, query.group, changes=changes)
    if found is None:
        raise Problem(409, "heap_not_traced", "POST /debug/heap, then /debug/heap/snapshot")
    return found
