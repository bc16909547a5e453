"""Structs as documents: the same names, times as dates.

A field whose name ends in `_at` holds seconds since the epoch in a struct and a date in a
document, to the millisecond, because that is what MongoDB users sort, expire and group by.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
from bson.int64 import Int64

_T = TypeVar("_T", bound=msgspec.Struct)
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


def date(seconds: float) -> datetime.datetime:
    return _EPOCH + datetime.timedelta(milliseconds=round(seconds * 1000))


def seconds(moment: datetime.datetime) -> float:
    return (moment - _EPOCH) / datetime.timedelta(seconds=1)


def plain(value: Any) -> Any:
    """A value as JSON and our structs have it."""
    if isinstance(value, datetime.datetime):
        return seconds(value)
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    # A type of its own, so that it would be written back as it was; JSON does not know it.
    return int(value) if type(value) is Int64 else value


def document(fields: Mapping[str, Any]) -> dict[str, Any]:
    """These fields as a document has them."""
    found: dict[str, Any] = {}
    for name, value in fields.items():
        if name.endswith("_at") and value is not None:
            value = date(value)
        elif isinstance(value, msgspec.Struct):
            value = msgspec.to_builtins(value)
        found[name] = value
    return found


def struct(kind: type[_T], found: Mapping[str, Any], **more: Any) -> _T:
    """The struct that a document, and `more`, make. What others keep beside it is ignored, what
    is not there has its default."""
    fields = {name: plain(value) for name, value in found.items() if name in kind.__struct_fields__}
    return msgspec.convert({**fields, **more}, kind, builtin_types=(bytes,))
