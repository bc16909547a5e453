"""Keeps the token out of what `ps` shows.

The arguments of a process can be read by everybody on the machine, its environment only by
its own user. A command that was pasted with --token starts itself anew, as the same
process, with the token in its environment instead.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

FLAG = "--token"


def without_token(arguments: Sequence[str]) -> list[str]:
    """The arguments less each `--token TOKEN` and `--token=TOKEN`."""
    kept: list[str] = []
    is_value = False
    for argument in arguments:
        if is_value:
            is_value = False
        elif argument == FLAG:
            is_value = True
        elif not argument.startswith(FLAG + "="):
            kept.append(argument)
    return kept


def hide_token(token: str) -> None:
    """Does not return if the token stood in this process's arguments."""
    arguments = sys.orig_argv[1:]  # with those of the interpreter
    kept = without_token(arguments)
    if kept != arguments and sys.executable:
        environment = {**os.environ, "PROXY_ENGINE_TOKEN": token}
        os.execve(sys.executable, [sys.executable, *kept], environment)
