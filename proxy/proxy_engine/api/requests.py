"""/api/v1/requests: the request log."""

from __future__ import annotations

from typing import Annotated

import msgspec

from proxy_engine.api.paging import PAGE_DEFAULT, Limit, Page
from proxy_engine.api.routes import Call, Routes
from proxy_engine.storage import Request

routes = Routes("requests", "The request log.")


class RequestsQuery(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    limit: Limit = PAGE_DEFAULT
    after: Annotated[
        Annotated[int, msgspec.Meta(ge=0, le=2**53)] | None,
        msgspec.Meta(description="only those younger than the one of this id"),
    ] = None


@routes.get("/api/v1/requests")
async def list_requests(call: Call, query: RequestsQuery) -> Page[Request]:
    """The newest requests, oldest of them first."""
    store = call.service.store
    if query.after is None:
        return Page(await store.requests_last(query.limit))
    return Page(await store.requests_after(query.after, query.limit))
