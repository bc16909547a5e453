"""/api/v1/audit: what admins did."""

from __future__ import annotations

from proxy_engine.api.paging import Page, PageQuery, cursor_of, key_of
from proxy_engine.api.routes import Call, Routes
from proxy_engine.storage import AuditRecord

routes = Routes("audit", "What admins did.")


@routes.get("/api/v1/audit")
async def list_audit(call: Call, query: PageQuery) -> Page[AuditRecord]:
    """Every write by an admin, newest first: by whom, of what, and how it went."""
    found = await call.service.store.audit(query.limit + 1, key_of(query.cursor, int))
    page = found[: query.limit]
    return Page(page, cursor_of(page[-1].id) if len(found) > len(page) else None)
