"""Hooks by name: those built in, entry points of the group `proxy_engine.hooks`, "module:Class".

A hook runs only if it is named: code that some package brings along does not run because that
package is installed. "*" names all entry points.
"""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from proxy_engine.errors import UsageError, suggestion
from proxy_engine.hooks.hook import Hook

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "proxy_engine.hooks"
ALL = "*"
BUILT_IN = {
    "certificate_auth": "proxy_engine.hooks.builtin.certificate_auth:CertificateAuth",
    "logger": "proxy_engine.hooks.builtin.logger:Logger",
    "metrics": "proxy_engine.hooks.builtin.metrics:Metrics",
    "token_auth": "proxy_engine.hooks.builtin.token_auth:TokenAuth",
    "webhook": "proxy_engine.hooks.builtin.webhook:Webhook",
}

Options = Mapping[str, Mapping[str, Any]]  # by the name of the hook


def load(
    names: Sequence[str], options: Options, present: Mapping[str, Hook] | None = None
) -> dict[str, Hook]:
    """The hooks with these names, by a key that changes with what makes them up.

    Args:
        present: what an earlier call gave; a hook whose key is the same is taken from there.
    Raises: UsageError with one line for what can not be found, imported or made.
    """
    found: dict[str, Hook] = {}
    wanted = _expanded(names)
    for name in options:
        if name not in wanted:
            raise UsageError(f'hook_options: "{name}" is not in hooks{suggestion(name, wanted)}')
    for name in wanted:
        own = dict(options.get(name, {}))
        key = f"{name} {json.dumps(own, sort_keys=True, default=str)}"
        hook = (present or {}).get(key)
        found[key] = _made(name, own) if hook is None else hook
    return found


def _expanded(names: Sequence[str]) -> list[str]:
    wanted: dict[str, None] = {}
    for name in names:
        wanted |= dict.fromkeys(sorted(entry_points()) if name == ALL else [name])
    return list(wanted)


def origin(name: str) -> str:
    """Where a hook of this name comes from."""
    return "built in" if name in BUILT_IN else "module" if ":" in name else "entry point"


def entry_points() -> dict[str, EntryPoint]:
    """What installed packages offer, by name."""
    from importlib import metadata

    return {point.name: point for point in metadata.entry_points(group=GROUP)}


def _made(name: str, options: dict[str, Any]) -> Hook:
    kind = class_of(name)
    general = {key: options.pop(key) for key in Hook.OPTIONS if key in options}
    where = f'hook "{name}"'
    try:
        inspect.signature(kind).bind(**options)
    except TypeError as error:
        raise UsageError(f"{where}: {error}") from None
    try:
        hook = kind(**options)
    except Exception as error:
        raise UsageError(f"{where} can not be made: {_said(error)}") from None
    for key, value in general.items():
        setattr(hook, key, _general(where, key, value))
    hook.name = hook.name or (name if name in BUILT_IN else "")
    return hook


def _general(where: str, key: str, value: Any) -> Any:
    """One of Hook.OPTIONS. Raises UsageError."""
    wanted = type(getattr(Hook, key))
    low = {"workers": 1, "sample": 1, "queue": 1, "timeout": 0}.get(key)
    if wanted is float and type(value) is int:
        value = float(value)
    if type(value) is not wanted:
        raise UsageError(f"{where}: {key} is {value!r}, not of type {wanted.__name__}")
    if low is not None and value < low:
        raise UsageError(f"{where}: {key} is {value}, less than {low}")
    return value


def class_of(name: str) -> type[Hook]:
    """What the name stands for. Raises UsageError."""
    place = BUILT_IN.get(name, name)
    if ":" not in place:
        points = entry_points()
        if name not in points:
            near = suggestion(name, [*BUILT_IN, *points])
            raise UsageError(f'there is no hook "{name}"{near}; or write module:Class')
        place = points[name].value.split("[")[0].strip()
    module_name, _, class_name = place.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if module_name != missing and not module_name.startswith(f"{missing}."):
            raise UsageError(f'hook "{name}" can not be imported: {error}') from None
        raise UsageError(
            f'hook "{name}": there is no module {missing}; is it installed, or in PYTHONPATH?'
        ) from None
    except (Exception, SystemExit) as error:
        raise UsageError(f'hook "{name}" can not be imported: {_said(error)}') from None
    found: Any = module
    for part in class_name.split("."):
        if not hasattr(found, part):
            near = suggestion(part, vars(found))
            raise UsageError(f'hook "{name}": {module_name} has no "{class_name}"{near}')
        found = getattr(found, part)
    if not (isinstance(found, type) and issubclass(found, Hook)):
        raise UsageError(f'hook "{name}": {class_name} is no subclass of proxy_engine.hooks.Hook')
    return found


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
