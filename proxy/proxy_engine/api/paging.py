"""Long lists in pages, by key: each page says where the next one begins.

A cursor is the key of the last item, opaque to clients. Items that come or go between two
pages are neither shown twice nor hide others.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Generic, TypeVar

import msgspec

from proxy_engine.api.problems import Problem

PAGE_DEFAULT = 100
PAGE_MAX = 1000
CURSOR_MAX = 1024  # characters
T = TypeVar("T")
K = TypeVar("K")

Limit = Annotated[int, msgspec.Meta(ge=1, le=PAGE_MAX, description="items of a page, at most")]
Cursor = Annotated[
    str, msgspec.Meta(max_length=CURSOR_MAX, description="`next` of the page before this one")
]


class Page(msgspec.Struct, Generic[T]):
    """A part of a list."""

    items: list[T]
    next: Annotated[
        str | None, msgspec.Meta(description="`cursor` of the next page; null: this is the last")
    ] = None


class PageQuery(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Which part of a list. To be extended by filters."""

    limit: Limit = PAGE_DEFAULT
    cursor: Cursor = ""


def cursor_of(key: Any) -> str:
    """The cursor that says "after this key"; of numbers and texts."""
    return base64.urlsafe_b64encode(msgspec.json.encode(key)).rstrip(b"=").decode()


def key_of(cursor: str, key_type: type[K]) -> K | None:
    """The key of a cursor, None for "". Raises Problem if it is none of ours."""
    if not cursor:
        return None
    try:
        data = base64.b64decode(cursor + "=" * (-len(cursor) % 4), b"-_", validate=True)
        return msgspec.json.decode(data, type=key_type)
    except (ValueError, binascii.Error):  # and msgspec's, and not ASCII
        raise Problem(400, "bad_cursor", "this cursor did not come from here") from None


def page_of(items: Iterable[T], query: PageQuery, key: Callable[[T], str]) -> Page[T]:
    """One page of a list that is at hand as a whole, in the order of its keys."""
    after = key_of(query.cursor, str)
    rest = sorted((item for item in items if after is None or key(item) > after), key=key)
    page = rest[: query.limit]
    return Page(page, cursor_of(key(page[-1])) if len(rest) > len(page) else None)
