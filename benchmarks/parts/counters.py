"""System calls of a process, counted by `perf stat` on the kernel's tracepoint of their entry.

Nothing is sampled and next to nothing slowed down (ptrace would; that changes what a turn finds
to do). All threads are counted: the request log's calls and the control plane's are in it.
Needs root, or kernel.perf_event_paranoid at -1, and tracefs.
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import time

from benchmarks.parts.processes import BenchmarkError, process_tree

EVENT = "raw_syscalls:sys_enter"
ATTACH_SECONDS = 0.3  # perf says nothing when it has attached


def unavailable() -> str | None:
    """Why calls can not be counted here, in one line."""
    if shutil.which("perf") is None:
        return "perf is not installed: apt-get install linux-perf"
    done = subprocess.run(
        ["perf", "stat", "-x", ",", "-e", EVENT, "true"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if re.search(rf"^\d+,,{EVENT},", done.stderr, re.MULTILINE):
        return None
    return f"perf may not count {EVENT} here"


class Counter:
    """perf stat on processes and their children, from its making to stop()."""

    def __init__(self, pid: int) -> None:
        pids = ",".join(str(each) for each in process_tree(pid))
        self._popen = subprocess.Popen(
            ["perf", "stat", "-x", ",", "-e", EVENT, "-p", pids],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    @staticmethod
    def settle() -> None:
        time.sleep(ATTACH_SECONDS)

    def stop(self) -> int:
        self._popen.send_signal(signal.SIGINT)
        output = self._popen.communicate(timeout=10)[0]
        match = re.search(rf"^(\d+),,{EVENT},", output, re.MULTILINE)
        if match is None:
            raise BenchmarkError(f"perf does not count {EVENT}: {' '.join(output.split())[:200]}")
        return int(match[1])
