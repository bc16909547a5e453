"""Start, watch and account for the processes of a benchmark.

CPU time is utime + stime of every thread (/proc/PID/stat counts the whole process),
summed over a process and its children. The kernel scales those two to the exact run
time, so only the reading is coarse: 10 ms in a sample of seconds.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
START_SECONDS_MAX = 15.0  # first start of an interpreter on a busy machine
STOP_SECONDS_MAX = 5.0


class BenchmarkError(Exception):
    """Something the reader must know in one line; never a traceback."""


@dataclass(frozen=True)
class CpuTime:
    user: float = 0.0  # seconds
    system: float = 0.0

    @property
    def total(self) -> float:
        return self.user + self.system

    def __add__(self, other: CpuTime) -> CpuTime:
        return CpuTime(self.user + other.user, self.system + other.system)

    def __sub__(self, other: CpuTime) -> CpuTime:
        return CpuTime(self.user - other.user, self.system - other.system)


def process_tree(pid: int) -> list[int]:
    """`pid` and all below it: an nginx master and its workers."""
    found = [pid]
    for each in found:
        for task in Path(f"/proc/{each}/task").glob("*/children"):
            found.extend(int(child) for child in task.read_text().split())
    return found


def cpu_time(pid: int) -> CpuTime:
    total = CpuTime()
    for each in process_tree(pid):
        # The name in field 2 may hold spaces and brackets: count from its last one.
        fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        user, system = int(fields[11]), int(fields[12])
        total += CpuTime(user / TICKS_PER_SECOND, system / TICKS_PER_SECOND)
    return total


def run_seconds(pid: int) -> float:
    """What all threads that live have run so far, to the nanosecond, user and system in one."""
    total = 0
    for each in process_tree(pid):
        for stat in Path(f"/proc/{each}/task").glob("*/schedstat"):
            total += int(stat.read_text().split()[0])
    return total / 1e9


def memory_kib(pid: int, kind: str = "Pss") -> int:
    """Resident memory; Pss: with shared pages divided among their users, Rss: all of them,
    Anonymous: none of a file's."""
    total = 0
    for each in process_tree(pid):
        for line in Path(f"/proc/{each}/smaps_rollup").read_text().splitlines():
            if line.startswith(f"{kind}:"):
                total += int(line.split()[1])
    return total


def context_switches(pid: int) -> int:
    """Of all threads that live, given away and taken away."""
    total = 0
    for each in process_tree(pid):
        for status in Path(f"/proc/{each}/task").glob("*/status"):
            for line in status.read_text().splitlines():
                if "ctxt_switches:" in line:
                    total += int(line.split()[1])
    return total


def stolen_ticks() -> int:
    """Time the hypervisor gave to others: says which samples to distrust."""
    return int(Path("/proc/stat").read_text().split(maxsplit=9)[8])


@dataclass(frozen=True)
class Account:
    """What a process has used up so far."""

    cpu: CpuTime
    switches: int

    @classmethod
    def of(cls, pid: int) -> Account:
        return cls(cpu_time(pid), context_switches(pid))

    def __sub__(self, other: Account) -> Account:
        return Account(self.cpu - other.cpu, self.switches - other.switches)


class Process:
    """A child with its output in a file, ended by SIGTERM."""

    def __init__(
        self, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self.command = list(command)
        self.log = log
        with log.open("wb") as output:
            self.popen = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=None if environment is None else {**os.environ, **environment},
            )

    @property
    def pid(self) -> int:
        return self.popen.pid

    def wait_until(self, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_SECONDS_MAX
        while not ready():
            self.check()
            if time.monotonic() > deadline:
                raise BenchmarkError(
                    f"{' '.join(self.command)} is not ready after {START_SECONDS_MAX:.0f} s:"
                    f" {self.tail()}"
                )
            time.sleep(0.02)

    def check(self) -> None:
        """Raises: BenchmarkError when it has ended."""
        if self.popen.poll() is not None:
            raise BenchmarkError(
                f"{' '.join(self.command)} ended with {self.popen.returncode}: {self.tail()}"
            )

    def tail(self) -> str:
        return " | ".join(self.log.read_text(errors="replace").splitlines()[-5:]) or "no output"

    def stop(self) -> None:
        if self.popen.poll() is not None:
            return
        self.popen.send_signal(signal.SIGTERM)
        try:
            self.popen.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def accepts_connections(port: int, host: str = "127.0.0.1") -> bool:
    try:
        with socket.create_connection((host, port), timeout=1):
            return True
    except OSError:
        return False


@contextmanager
def congestion_control(name: str | None) -> Iterator[None]:
    """The system's TCP congestion control is `name` meanwhile; None leaves it alone.

    Only what asks for none of its own follows it, and only sockets made meanwhile.
    """
    setting = Path("/proc/sys/net/ipv4/tcp_congestion_control")
    before = setting.read_text()
    try:
        if name is not None:
            setting.write_text(name)
    except OSError as error:
        raise BenchmarkError(f"tcp_congestion_control can not be {name}: {error}") from None
    try:
        yield
    finally:
        if name is not None:
            setting.write_text(before)
