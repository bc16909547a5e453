"""Real processes of the command line, their output read line by line."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
# Neither what is set for another server nor the proxy that this machine may be behind.
ENVIRON = {
    **{
        name: value
        for name, value in os.environ.items()
        if not (name.startswith("PROXY_ENGINE_") or name.lower().endswith("_proxy"))
    },
    "PYTHONPATH": f"{ROOT / 'engine'}:{ROOT / 'proxy'}",
    "PROXY_ENGINE_TRACEBACK": "1",
}
TIMEOUT = 60.0  # seconds; for anything that should be at once, on a machine with much to do


class Process:
    """`proxy-engine ...` with JSON logs; lines of both streams are kept."""

    prefix: tuple[str, ...] = ()  # a command that runs it

    def __init__(self, *args: str, **environ: str) -> None:
        self.popen = subprocess.Popen(
            [*self.prefix, sys.executable, "-m", "proxy_engine", *args],
            env={**ENVIRON, **environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.out: list[str] = []
        self.err: list[str] = []
        self._lines: queue.Queue[None] = queue.Queue()
        self._readers = [
            threading.Thread(target=self._read, args=(stream, lines), daemon=True)
            for stream, lines in ((self.popen.stdout, self.out), (self.popen.stderr, self.err))
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, stream: Any, lines: list[str]) -> None:
        for line in stream:
            lines.append(line.rstrip("\n"))
            self._lines.put(None)
        self._lines.put(None)

    def wait_for(self, what: Callable[[], Any]) -> Any:
        """The first true value of what(), asked again after each line of output."""
        deadline = time.monotonic() + TIMEOUT
        while True:
            found = what()
            if found:
                return found
            try:
                self._lines.get(timeout=max(0.0, min(0.2, deadline - time.monotonic())))
            except queue.Empty:
                if time.monotonic() >= deadline:
                    raise AssertionError(f"not seen; out={self.out} err={self.err}") from None

    def log(self, message: str, count: int = 1) -> dict[str, Any]:
        """The count-th log line with this message; waits for it."""
        return self.wait_for(lambda: self._logged(message, count))

    def _logged(self, message: str, count: int) -> dict[str, Any] | None:
        found = [line for line in self._json(self.err) if line.get("message") == message]
        return found[count - 1] if len(found) >= count else None

    def has_printed(self, text: str) -> bool:
        return any(text in line for line in list(self.out))

    def printed(self, event: str) -> dict[str, Any]:
        return self.wait_for(
            lambda: next(
                (line for line in self._json(self.out) if line.get("event") == event), None
            )
        )

    @staticmethod
    def _json(lines: list[str]) -> list[dict[str, Any]]:
        return [json.loads(line) for line in list(lines) if line.startswith("{")]

    def signal(self, number: signal.Signals = signal.SIGTERM) -> None:
        self.popen.send_signal(number)

    def exit_code(self) -> int:
        """Waits for the end; all that was said is in `out` and `err` then."""
        try:
            code = self.popen.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still runs; out={self.out} err={self.err}") from None
        for reader in self._readers:
            reader.join(TIMEOUT)
        return code

    def end(self) -> None:
        if self.popen.poll() is None:
            self.popen.kill()
        self.exit_code()


def run(*args: str, stdin: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
    """A verb that ends by itself."""
    return subprocess.run(
        [sys.executable, "-m", "proxy_engine", *args],
        env={**ENVIRON, **environ},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        input=stdin,
    )
