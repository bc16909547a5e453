"""What verbs print on stdout: boxes and tables for people, plain lines for programs."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def is_terminal() -> bool:
    return sys.stdout.isatty()


def box(title: str, lines: Sequence[str]) -> None:
    """A titled box on a terminal, the bare lines otherwise."""
    if not is_terminal():
        print("\n".join(lines), flush=True)
        return
    from rich.console import Console
    from rich.panel import Panel
    from rich.text import Text

    # A line that is to be copied must not be broken: then it goes without a box.
    console = Console(highlight=False)
    if max(map(len, lines)) + 4 > console.width:
        print("\n".join([f"{title}:", *lines]), flush=True)
        return
    console.print(Panel(Text("\n".join(lines)), title=title, expand=False))


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
