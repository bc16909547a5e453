"""What verbs print on stdout: boxes and tables for people, plain lines for programs.

A verb that answers and ends prints as every program does, and waits for its reader. One that stays
(process()) never waits: what it says goes through the same queues as its log.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from proxy_engine.line_writer import LineWriter

_stdout: LineWriter | None = None  # of a verb that stays


@contextmanager
def process(log_format: str, log_level: str) -> Iterator[None]:
    """Around a verb that stays: its log is set up, and nobody has to read what it says."""
    import faulthandler

    from proxy_engine import logs
    from proxy_engine.line_writer import LineWriter

    global _stdout
    logs.setup(log_format, log_level)
    stderr = logs.stderr_fd()
    if stderr is not None:
        faulthandler.enable(stderr)  # a crash goes past the queue: what each thread was at
    try:
        _stdout = LineWriter(sys.stdout.fileno())
    except (AttributeError, OSError, ValueError):  # closed
        _stdout = None
    try:
        yield
    finally:
        logs.flush()
        if _stdout is not None:
            _stdout.flush(logs.FLUSH_SECONDS)
            _stdout = None


def say(text: str) -> None:
    """Lines on stdout."""
    if _stdout is None:
        print(text, flush=True)
    else:
        _stdout.put(f"{text}\n".encode(errors="backslashreplace"))


def complain(message: str) -> None:
    """One line on stderr: why this ends."""
    from proxy_engine import logs
    from proxy_engine.text import escape, scrub

    line = f"proxy-engine: error: {scrub(escape(message))}"
    handler = logs.queue_handler()
    if handler is None:
        print(line, file=sys.stderr, flush=True)
    else:
        handler.writer.put(f"{line}\n".encode(errors="backslashreplace"))
        logs.flush()


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
        console = Console(highlight=False)
        with console.capture() as drawn:
            console.print(panel)
        lines = [drawn.get().rstrip("\n")]
    if lines or below:
        say("\n".join([*lines, *below]))


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
