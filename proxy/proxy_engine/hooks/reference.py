"""What there is to know of hooks, from the code: events with their fields, options, and the names
that the setting `hooks` may hold. For `proxy-engine hook` and the guide site."""

from __future__ import annotations

import collections.abc
import inspect
import re
import types
import typing
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import msgspec

from proxy_engine.hooks import loading
from proxy_engine.hooks.hook import Hook
from proxy_engine.hooks.manager import ASKED, EVENTS

Strategy = Literal["asked", "awaited", "told"]
_AWAITED = ("on_server_start", "on_server_stop")


class Field(NamedTuple):
    """Of what a hook is told."""

    name: str
    type: str
    text: str


class Event(NamedTuple):
    name: str  # "on_request"
    strategy: Strategy
    payload: str  # the struct's name
    is_batch: bool  # some of them at a time
    text: str
    payload_text: str
    fields: tuple[Field, ...]


class Option(NamedTuple):
    name: str
    type: str
    default: str  # as TOML has it; "": it has to be given
    text: str


def events() -> list[Event]:
    """All of them, in the order of Hook's methods."""
    return [_event(name) for name in EVENTS]


def _event(name: str) -> Event:
    method = getattr(Hook, name)
    [hint] = [hint for key, hint in typing.get_type_hints(method).items() if key != "return"]
    is_batch = typing.get_origin(hint) is collections.abc.Sequence
    struct = typing.get_args(hint)[0] if is_batch else hint
    strategy: Strategy = "asked" if name in ASKED else "awaited" if name in _AWAITED else "told"
    return Event(
        name=name,
        strategy=strategy,
        payload=struct.__name__,
        is_batch=is_batch,
        text=_paragraph(method.__doc__),
        payload_text=_paragraph(struct.__doc__),
        fields=tuple(_fields(struct)),
    )


def _fields(struct: type[msgspec.Struct]) -> Iterator[Field]:
    hints = typing.get_type_hints(struct, include_extras=True)
    for name in struct.__struct_fields__:
        kind, *metas = typing.get_args(hints[name]) or (hints[name],)
        texts = [x.description for x in metas if isinstance(x, msgspec.Meta)]
        yield Field(name, type_name(kind), (texts or [None])[0] or "")


def general_options(kind: type[Hook] = Hook) -> list[Option]:
    """Of every hook, with the defaults of this one."""
    hints = typing.get_type_hints(Hook)
    return [
        Option(name, type_name(hints[name]), _as_toml(getattr(kind, name)), text)
        for name, text in Hook.OPTIONS.items()
    ]


def options(kind: type[Hook]) -> list[Option]:
    """A hook's own: arguments of its `__init__`, as its docstring has them under "Args:". What
    no file of settings can hold, such as a function, is none."""
    if kind.__init__ is Hook.__init__:
        return []
    texts, found = _args(kind), []
    hints = typing.get_type_hints(kind.__init__)
    for name, parameter in list(inspect.signature(kind).parameters.items()):
        hint = hints.get(name, Any)
        if not _has_callable(hint):
            is_needed = parameter.default is inspect.Parameter.empty
            default = "" if is_needed else _as_toml(parameter.default)
            found.append(Option(name, type_name(hint), default, texts.get(name, "")))
    return found


def about(kind: type[Hook]) -> str:
    """The first paragraph of its docstring; "" if that begins with "Args:"."""
    text = _paragraph(kind.__doc__ if "__doc__" in vars(kind) else "")
    return "" if text.startswith(("Args:", "Raises:")) else text


def available() -> dict[str, tuple[str, str]]:
    """Names for the setting `hooks` that need no module: where each is from, and what it does.
    What packages bring is not imported for that."""
    found = {name: ("built in", about(loading.class_of(name))) for name in sorted(loading.BUILT_IN)}
    for name, point in sorted(loading.entry_points().items()):
        package = point.dist.name if point.dist else "an installed package"
        found.setdefault(name, (package, point.value))
    return found


def type_name(kind: Any) -> str:
    """As a signature has it, without modules."""
    if isinstance(kind, type) and not isinstance(kind, types.GenericAlias):
        return "None" if kind is type(None) else kind.__name__
    return re.sub(r"\b(?:\w+\.)+(?=\w)", "", str(kind)).replace("NoneType", "None")


def _as_toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, Sequence):
        return f"[{', '.join(map(_as_toml, value))}]"
    return str(value)


def _has_callable(hint: Any) -> bool:
    return typing.get_origin(hint) is collections.abc.Callable or any(
        map(_has_callable, typing.get_args(hint))
    )


def _paragraph(text: str | None) -> str:
    return " ".join(inspect.cleandoc(text or "").split("\n\n")[0].split())


def _args(kind: type) -> dict[str, str]:
    text = inspect.cleandoc(kind.__doc__ or "")
    match = re.search(r"^Args:\n((?:    .*\n?)+)", text, re.MULTILINE)
    found: dict[str, str] = {}
    for name, words in re.findall(
        r"^    (\w+): (.*(?:\n {8}.*)*)", match[1] if match else "", re.MULTILINE
    ):
        found[name] = " ".join(words.split())
    return found
