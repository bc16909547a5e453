"""What is wrong with JSON or TOML that should have been a struct, in words for people."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from proxy_engine.errors import suggestion

if TYPE_CHECKING:
    import msgspec

_PLACE = re.compile(r" - at `\$\.?(.*)`$")
_UNKNOWN = re.compile(r"unknown field `(.*)`", re.DOTALL)


def explain(error: msgspec.ValidationError, known: Iterable[str]) -> str:
    """A validation error for people: "limit: expected `int` <= 1000"."""
    text = str(error)
    place = _PLACE.search(text)
    said = text[: place.start()] if place else text
    unknown = _UNKNOWN.search(said)
    if unknown:
        said = f'unknown name "{unknown[1]}"{suggestion(unknown[1], known)}'
    said = said[:1].lower() + said[1:]
    return f"{place[1]}: {said}" if place and place[1] else said
