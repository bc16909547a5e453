"""What verbs print on stdout: boxes and tables for people, plain lines for programs."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence


def is_terminal() -> bool:
    return sys.stdout.isatty()


def box(title: str, lines: Sequence[str], below: Sequence[str] = ()) -> None:
    """A titled box on a terminal, the bare lines otherwise.

    below: lines to be copied, which a box would break or frame.
    """
    if is_terminal():
        from rich.console import Console
        from rich.panel import Panel
        from rich.text import Text

        panel = Panel(Text("\n".join(lines)), title=title, expand=False, padding=(0, 1))
        Console(highlight=False).print(panel)
        lines = ()
    print("\n".join([*lines, *below]), end="\n" if lines or below else "", flush=True)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns: a rich table on a terminal, tab-separated otherwise."""
    if not is_terminal():
        for row in (columns, *rows):
            print("\t".join(row))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    rendered = Table(*columns)
    for row in rows:
        rendered.add_row(*(Text(cell) for cell in row))
    Console(highlight=False).print(rendered)


def moment_text(moment: float | None) -> str:
    """A time of the store for people, in their own zone."""
    if moment is None:
        return "-"
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(moment))
