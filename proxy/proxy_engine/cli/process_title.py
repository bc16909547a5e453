"""Keeps secrets out of what `ps` shows.

The arguments of a process can be read by everybody on the machine, its environment only by
its own user. A command that was pasted with --token starts itself anew, as the same
process, with the token in its environment instead.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence


def without(arguments: Sequence[str], flags: Sequence[str]) -> list[str]:
    """The arguments less each `--flag VALUE` and `--flag=VALUE` of these flags."""
    kept: list[str] = []
    is_value = False
    for argument in arguments:
        if is_value:
            is_value = False
        elif argument in flags:
            is_value = True
        elif argument.partition("=")[0] not in flags:
            kept.append(argument)
    return kept


def hide(secrets: Mapping[str, str]) -> None:
    """Does not return if one of these settings stood in this process's arguments.

    Args:
        secrets: values by the names of their settings.
    """
    arguments = sys.orig_argv[1:]  # with those of the interpreter
    kept = without(arguments, ["--" + name.replace("_", "-") for name in secrets])
    if kept != arguments and sys.executable:
        variables = {f"PROXY_ENGINE_{name.upper()}": value for name, value in secrets.items()}
        os.execve(sys.executable, [sys.executable, *kept], {**os.environ, **variables})
