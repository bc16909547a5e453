"""A terminal that is drawn on and hears keys, and is as it was before in the end."""

from __future__ import annotations

import os
import select
import shutil
import signal
import sys
import termios
import tty
from collections.abc import Sequence
from types import FrameType, TracebackType
from typing import Self

ENTER = "\x1b[?1049h\x1b[?25l"  # the other screen, no cursor
LEAVE = "\x1b[?25h\x1b[?1049l"
HOME, CLEAR_LINE, CLEAR_BELOW = "\x1b[H", "\x1b[K", "\x1b[J"


class Screen:
    """`with Screen() as screen:`, on standard input and output."""

    def __init__(self) -> None:
        self._in = sys.stdin.fileno()
        self._was: list[object] = []
        self._on_resize: object = None
        self._pipe = (-1, -1)

    def __enter__(self) -> Self:
        self._was = termios.tcgetattr(self._in)
        tty.setcbreak(self._in)
        self._pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._on_resize = signal.signal(signal.SIGWINCH, self._resized)
        # Killed, it must not leave a terminal without a cursor either.
        signal.signal(signal.SIGTERM, _end)
        signal.signal(signal.SIGHUP, _end)
        self._say(ENTER)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._say(LEAVE)
        finally:
            termios.tcsetattr(self._in, termios.TCSADRAIN, self._was)  # type: ignore[arg-type]
            signal.signal(signal.SIGWINCH, signal.SIG_DFL)
            for end in self._pipe:
                os.close(end)

    def _resized(self, number: int, frame: FrameType | None) -> None:
        os.write(self._pipe[1], b"!")

    @staticmethod
    def _say(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    def size(self) -> tuple[int, int]:
        found = shutil.get_terminal_size()
        return max(found.columns, 20), max(found.lines, 6)

    def draw(self, lines: Sequence[str]) -> None:
        self._say(HOME + (CLEAR_LINE + "\n").join(lines) + CLEAR_LINE + CLEAR_BELOW)

    def key(self, seconds: float) -> str | None:
        """The next key; None: time is up; "": draw again, the size has changed."""
        ready, _, _ = select.select([self._in, self._pipe[0]], [], [], max(0.0, seconds))
        if self._pipe[0] in ready:
            os.read(self._pipe[0], 64)
            return ""
        if self._in in ready:
            typed = os.read(self._in, 64)
            return typed.decode("latin-1")[0] if typed else "q"  # it is closed
        return None


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
