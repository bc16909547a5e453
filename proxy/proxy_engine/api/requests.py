"""/api/v1/requests: the request log."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Literal

import msgspec

from proxy_engine.api.paging import PAGE_DEFAULT, Cursor, Limit, Page, cursor_of, key_of
from proxy_engine.api.problems import Problem
from proxy_engine.api.routes import Call, Routes, Stream
from proxy_engine.errors import ProxyEngineError
from proxy_engine.requests.export import CSV_HEAD, csv_lines, json_lines
from proxy_engine.requests.query import (
    matches,
    parse_status,
    parse_time,
    parse_trace_id,
    wanted,
)
from proxy_engine.storage import Request, RequestQuery, RequestSummary, Store

routes = Routes("requests", "The request log.")

EXPORT_PAGE = 1000
EXPORT_MAX = 1_000_000
JSON_LINES, CSV = "application/x-ndjson", "text/csv"
State = Literal["open", "closed", "unavailable", "timeout", "aborted"]
Text = Annotated[str, msgspec.Meta(max_length=1024)]
Milliseconds = Annotated[float, msgspec.Meta(ge=0, le=1e12)]


class RequestsFilter(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """All that is given must hold."""

    device: Text | None = None
    tunnel: Text | None = None
    status: Annotated[
        Text | None, msgspec.Meta(description="502, 5xx, or 400-499; 0: nothing was sent")
    ] = None
    state: Annotated[
        State | None, msgspec.Meta(description='"open": not finished; only those are looked at')
    ] = None
    method: Text | None = None
    host: Text | None = None
    path: Annotated[Text | None, msgspec.Meta(description="text in path or query, in any case")] = (
        None
    )
    visitor: Text | None = None
    reason: Text | None = None
    request_id: Text | None = None
    trace_id: Annotated[
        Text | None, msgspec.Meta(description="32 hexadecimal digits, of its traceparent")
    ] = None
    since: Annotated[
        Text | None,
        msgspec.Meta(description="a time (seconds since the epoch, or ISO 8601), or an age: 1h"),
    ] = None
    until: Text | None = None
    min_ms: Milliseconds | None = None
    max_ms: Milliseconds | None = None


class RequestsQuery(RequestsFilter, forbid_unknown_fields=True, kw_only=True):
    limit: Limit = PAGE_DEFAULT
    cursor: Cursor = ""
    after: Annotated[
        Annotated[int, msgspec.Meta(ge=0, le=2**53)] | None,
        msgspec.Meta(
            description="to follow the log: of the oldest `limit` with an id beyond this one those "
            "that match, and `next` (to be given as `cursor`) if there are more"
        ),
    ] = None


class SummaryQuery(RequestsFilter, forbid_unknown_fields=True, kw_only=True):
    paths: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 10


class ExportQuery(RequestsFilter, forbid_unknown_fields=True, kw_only=True):
    format: Literal["jsonl", "csv"] = "jsonl"
    limit: Annotated[int, msgspec.Meta(ge=1, le=EXPORT_MAX)] = EXPORT_MAX


class RequestName(msgspec.Struct):
    id: Annotated[Text, msgspec.Meta(description="the number in the log, or the request id")]


@routes.get("/api/v1/requests")
async def list_requests(call: Call, query: RequestsQuery) -> Page[Request]:
    """Search the request log, page by page.

    The newest page, and the newest 100 if nothing is asked for; within a page the oldest comes
    first. A page may be empty although `next` is there: the log is searched for some seconds at a
    time.

    With `state=open` it is not the log but what is under way: the newest `limit`, in one page, with
    times and bytes as of now and without ids.
    """
    store = call.service.store
    if query.state == "open":
        if query.cursor or query.after is not None:
            raise Problem(400, "bad_filter", "what is open has one page")
        return Page(await _open(call, _wanted(query), query.limit), None)
    if query.after is not None:
        wanted = _wanted(query)
        found = await store.requests_after(key_of(query.cursor, int) or query.after, query.limit)
        is_last = len(found) < query.limit
        items = [request for request in found if matches(request, wanted)]
        return Page(items, None if is_last else cursor_of(found[-1].id))
    before = key_of(query.cursor, int)
    page = await store.requests_search(_wanted(query), limit=query.limit, before=before)
    return Page(page.requests[::-1], None if page.next is None else cursor_of(page.next))


@routes.get("/api/v1/requests/stats")
async def read_request_stats(call: Call, query: SummaryQuery) -> RequestSummary:
    """Counts, percentiles of durations and the most frequent paths of what matches."""
    if query.state == "open":
        raise Problem(400, "bad_filter", "only what has finished is summed up")
    return await call.service.store.requests_summary(_wanted(query), paths=query.paths)


@routes.get("/api/v1/requests/export", media_types=(JSON_LINES, CSV))
async def export_requests(call: Call, query: ExportQuery) -> Stream:
    """All that matches, the newest first, as JSON lines or CSV."""
    store, wanted = call.service.store, _wanted(query)
    media_type = CSV if query.format == "csv" else JSON_LINES
    if query.state == "open":
        found = await _open(call, wanted, query.limit)
        return Stream(media_type, _whole(found[::-1], query.format))
    return Stream(media_type, _export(store, wanted, query.limit, query.format))


@routes.get("/api/v1/requests/{id}", problems={404: "there is no such request"})
async def read_request(call: Call, path: RequestName) -> Request:
    """One request, by its number in the log or by the id that its response carried, also while it
    is under way."""
    store = call.service.store
    if path.id.isascii() and path.id.isdigit() and 0 < int(path.id[:20]) < 2**53:
        page = await store.requests_search(RequestQuery(), limit=1, before=int(path.id) + 1)
        if page.requests and page.requests[0].id == int(path.id):
            return page.requests[0]
    if call.service.open_requests is not None:
        for request in await _open(call, RequestQuery(request_id=path.id), 1):
            return request
    before: int | None = None
    while True:
        wanted_id = RequestQuery(request_id=path.id)
        page = await store.requests_search(wanted_id, limit=1, before=before)
        if page.requests:
            return page.requests[0]
        if page.next is None:
            raise Problem(404, "unknown_request", "there is no such request in the log")
        before = page.next


async def _open(call: Call, wanted: RequestQuery, limit: int) -> list[Request]:
    if call.service.open_requests is None:
        raise ProxyEngineError("only a running server knows what is open: give --admin URL")
    try:
        return await call.service.open_requests.find(wanted, limit)
    except TimeoutError:
        headers = {"Retry-After": "2"}
        raise Problem(503, "engine_busy", "the engine does not answer", headers=headers) from None


def _wanted(query: RequestsFilter) -> RequestQuery:
    try:
        return wanted(
            status=parse_status(query.status) if query.status else None,
            since=parse_time(query.since) if query.since else None,
            until=parse_time(query.until) if query.until else None,
            min_ms=query.min_ms,
            max_ms=query.max_ms,
            device=query.device,
            tunnel=query.tunnel,
            state=query.state,
            method=query.method,
            host=query.host,
            path=query.path,
            visitor=query.visitor,
            reason=query.reason,
            request_id=query.request_id,
            trace_id=parse_trace_id(query.trace_id) if query.trace_id else None,
        )
    except ValueError as error:
        raise Problem(400, "bad_filter", str(error)) from None


async def _whole(requests: list[Request], layout: Literal["jsonl", "csv"]) -> AsyncIterator[bytes]:
    yield CSV_HEAD + csv_lines(requests) if layout == "csv" else json_lines(requests)


async def _export(
    store: Store, query: RequestQuery, limit: int, layout: Literal["jsonl", "csv"]
) -> AsyncIterator[bytes]:
    before: int | None = None
    if layout == "csv":
        yield CSV_HEAD
    while limit:
        page = await store.requests_search(query, limit=min(limit, EXPORT_PAGE), before=before)
        yield csv_lines(page.requests) if layout == "csv" else json_lines(page.requests)
        limit -= len(page.requests)
        before = page.next
        if before is None:
            return
