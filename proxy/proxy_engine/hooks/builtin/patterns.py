"""Names with `*` in them."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether one of the patterns is for this name: `*` stands for anything, `?` for one."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def texts(what: str, value: object) -> tuple[str, ...]:
    """A list of texts, as TOML has it. Raises ValueError."""
    if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in value):
        raise ValueError(f"{what} is {value!r}, not a list of texts")
    return tuple(value)
