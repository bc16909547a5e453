"""Tunnel options as people write them, in flags and files."""

from __future__ import annotations

from collections.abc import Iterable

from proxy_engine.tunnels.options import Headers


def parse_users(items: Iterable[str]) -> dict[str, str]:
    """Passwords by name, of USER:PASSWORD texts. Raises ValueError, without the password."""
    users: dict[str, str] = {}
    for number, item in enumerate(items, 1):
        name, colon, password = item.partition(":")
        if not colon or not name or not password:
            raise ValueError(f"basic auth {number} is not USER:PASSWORD")
        if name in users:
            raise ValueError(f'basic auth: the user "{name}" is given twice')
        users[name] = password
    return users


def parse_headers(items: Iterable[str]) -> Headers:
    """Of "Name: value" (instead of what there is), "+Name: value" (beside it) and "Name:"
    (removed), as curl has it. Raises ValueError."""
    remove: list[str] = []
    changed: dict[str, str] = {}
    added: dict[str, str] = {}
    for item in items:
        name, colon, value = item.removeprefix("+").partition(":")
        name, value = name.strip(), value.strip()
        if not colon or not name or (item.startswith("+") and not value):
            raise ValueError(f'"{item}" is not "Name: value", "+Name: value" or "Name:"')
        if name in changed or name in added or name in remove:
            raise ValueError(f'"{name}" is given twice')
        if item.startswith("+"):
            added[name] = value
        elif value:
            changed[name] = value
        else:
            remove.append(name)
    return Headers(remove=tuple(remove), set=changed, add=added)


def header_texts(headers: Headers) -> list[str]:
    """As parse_headers() takes them."""
    return [
        *(f"{name}:" for name in headers.remove),
        *(f"{name}: {value}" for name, value in headers.set.items()),
        *(f"+{name}: {value}" for name, value in headers.add.items()),
    ]
