"""Make the n-th call fail, for every n: `scripts/fail-nth` builds what this needs and runs it.

The scenario (scenario.py) runs once with nothing failing, which counts the calls, then once
for each case. A case is a line, printed when it fails and taken by --replay:

    raw 1 recv 37 EAGAIN 1
    |   | |    |  |      +-- calls in a row that fail
    |   | |    |  +--------- how: an errno, or SHORT
    |   | |    +------------ from which one on
    |   | +----------------- call: see HOWS
    |   +------------------- by whom: 0 Python's threads, 1 the server's worker, 2 the agent's
    +----------------------- carrier of the link

Cases run in a child process, so that one that crashes is reported like any other and the rest
still runs. Exit status: 0 the law of the design held in every case, 1 it did not.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import gc
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple, cast

HOWS = {
    "alloc": ("ENOMEM",),
    "recv": ("SHORT", "EAGAIN", "EINTR", "ECONNRESET"),
    "send": ("SHORT", "EAGAIN", "EINTR", "ECONNRESET"),
    "sendmsg": ("SHORT", "EAGAIN", "EINTR", "EPIPE"),
    "accept4": ("EAGAIN", "EINTR", "ECONNABORTED", "EMFILE"),
    "connect": ("ECONNREFUSED", "EINTR", "ENETUNREACH", "EADDRNOTAVAIL"),
    "epoll_wait": ("SHORT", "EINTR"),
    "epoll_ctl": ("ENOMEM", "ENOSPC"),
    "socket": ("EMFILE", "ENOBUFS"),
    "eventfd": ("EMFILE",),
    "write": ("EAGAIN",),
    "setsockopt": ("EINVAL",),
    "getsockopt": ("ENOBUFS",),
    "bind": ("EADDRINUSE",),
    "listen": ("EADDRINUSE",),
    "getsockname": ("ENOBUFS",),
    "epoll_create1": ("EMFILE",),
    "getrandom": ("EINTR",),
    "pthread_create": ("EAGAIN",),
    "splice": ("SHORT", "EAGAIN", "EINTR", "ECONNRESET"),
    "pipe2": ("EMFILE",),
    "fcntl": ("EPERM", "EMFILE"),
    "recvmmsg": ("SHORT", "EAGAIN", "EINTR", "ECONNREFUSED"),
    "sendmmsg": ("SHORT", "EAGAIN", "EINTR", "ENOBUFS", "ECONNREFUSED", "EMSGSIZE"),
}
CARRIERS = ("raw", "websocket", "tls", "direct")
WHO = (0, 1, 2)
SHORT = -1
CASE_SECONDS_MAX = 60.0  # then the child itself hangs
MISSES_MAX = 5  # cases in a row that came too late: the rest would, too


class Case(NamedTuple):
    carrier: str
    who: int
    call: str
    number: int
    how: str
    repeat: int = 1

    def __str__(self) -> str:
        return " ".join(map(str, self))

    @classmethod
    def parse(cls, line: str) -> Case:
        carrier, who, call, number, how, repeat = line.split()
        return cls(carrier, int(who), call, int(number), how, int(repeat))


# --- the child ------------------------------------------------------------------------------


class Interposer:
    """tests/native/failnth.c in this process."""

    def __init__(self) -> None:
        self.library = ctypes.CDLL(None)
        self.library.failnth_names.restype = ctypes.c_char_p
        for name in ("failnth_count", "failnth_fired", "failnth_live"):
            getattr(self.library, name).restype = ctypes.c_long
        if "FAILNTH_TRACE" in os.environ:
            self.library.failnth_trace()
        self.calls: list[str] = self.library.failnth_names().decode().split()
        assert set(self.calls) == set(HOWS), "failnth.c and HOWS disagree"

    def begin(self, case: Case | None) -> None:
        if case is None:
            self.library.failnth_begin(0, -1, ctypes.c_long(0), ctypes.c_long(0), 0)
            return
        how = SHORT if case.how == "SHORT" else getattr(errno, case.how)
        last = case.number + case.repeat - 1
        self.library.failnth_begin(
            case.who, self.calls.index(case.call), ctypes.c_long(case.number),
            ctypes.c_long(last), how,
        )  # fmt: skip

    def counts(self) -> str:
        return " ".join(
            f"{who}:{call}:{self.library.failnth_count(who, index)}"
            for who in WHO
            for index, call in enumerate(self.calls)
        )

    def fired(self) -> int:
        return int(self.library.failnth_fired())

    def live(self) -> int:
        return int(self.library.failnth_live())


def child() -> int:
    # Only here: the parent must not need an engine.
    from tests.faults.origin import Origin
    from tests.faults.scenario import PATIENCE, Carrier, Scenario, Violation

    interposer = Interposer()
    origin = Origin()

    def run(carrier: str, case: Case | None) -> None:
        interposer.begin(case)
        Scenario(origin, cast(Carrier, carrier), may_fail=case is not None).run()

    def clean() -> tuple[int, int, int]:
        gc.collect()
        return interposer.live(), len(os.listdir("/proc/self/fd")), threading.active_count()

    def settled(wanted: tuple[int, int, int]) -> tuple[int, int, int]:
        deadline = time.monotonic() + PATIENCE
        while (left := clean()) != wanted and time.monotonic() < deadline:
            time.sleep(0.001)
        return left

    for carrier in CARRIERS:
        run(carrier, None)  # what is made once is made now
    for line in sys.stdin:
        case = None if line.startswith("count ") else Case.parse(line)
        carrier = line.split()[1] if case is None else case.carrier
        what = ""
        for _ in range(2):
            before = clean()
            try:
                run(carrier, case)
            except Exception as problem:  # whatever it is, it is the finding
                what = str(problem) if isinstance(problem, Violation) else repr(problem)
            after = settled(before)
            # What an error makes once and keeps (a code object for its traceback) is no leak.
            if what or after == before:
                break
        if what or after != before:
            print(f"bad {what}; allocations, fds, threads {before} -> {after}", flush=True)
        else:
            print("ok", interposer.counts() if case is None else interposer.fired(), flush=True)
    return 0


# --- the parent -----------------------------------------------------------------------------


class Child:
    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None

    def ask(self, line: str) -> str:
        """What the child says to one line; what became of it if it says nothing."""
        if self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, "-X", "faulthandler", "-m", __spec__.name, "--child"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        process = self.process
        assert process.stdin is not None and process.stdout is not None
        timer = threading.Timer(CASE_SECONDS_MAX, process.kill)
        timer.start()
        try:
            process.stdin.write(line + "\n")
            process.stdin.flush()
            answer = process.stdout.readline().strip()
        except BrokenPipeError:
            answer = ""
        hangs = not timer.is_alive()
        timer.cancel()
        if answer:
            return answer
        self.process = None
        status = process.wait()
        return "bad it hangs" if hangs else f"bad it crashes: exit status {status}"

    def close(self) -> None:
        if self.process is not None and self.process.stdin is not None:
            self.process.stdin.close()
            self.process.wait()


class Verdict:
    def __init__(self) -> None:
        self.runs = 0
        self.fired = 0
        self.failures: list[str] = []


def try_case(child: Child, case: Case, verdict: Verdict) -> bool:
    """True if the call was reached."""
    answer = child.ask(str(case))
    verdict.runs += 1
    if not answer.startswith("ok "):
        verdict.failures.append(f"{case}: {answer[4:]}")
        print(f"{case}: {answer[4:]}", flush=True)
        return True
    reached = answer != "ok 0"
    verdict.fired += reached
    return reached


def count_calls(child: Child, carrier: str) -> dict[tuple[int, str], int]:
    answer = child.ask(f"count {carrier}")
    if not answer.startswith("ok "):
        raise SystemExit(f"the scenario fails with nothing failing: {answer}")
    counts = {}
    for entry in answer.split()[1:]:
        who, call, number = entry.split(":")
        counts[int(who), call] = int(number)
    return counts


def every_case(carrier: str, counts: dict[tuple[int, str], int]) -> Iterator[list[Case]]:
    """The cases of one caller, call and way to fail, in a list: n from 1 on."""
    for (who, call), count in counts.items():
        for how in HOWS[call]:
            # Timing changes how often some are called: look a little further.
            numbers = range(1, count + count // 5 + 2) if count else range(0)
            yield [Case(carrier, who, call, number, how) for number in numbers]
            if call in ("alloc", "fcntl"):
                yield [Case(carrier, who, call, number, how, 10) for number in numbers]


def run_all(child: Child, carriers: list[str], only: str, verdict: Verdict) -> None:
    for carrier in carriers:
        for cases in every_case(carrier, count_calls(child, carrier)):
            misses = 0
            started, failed = verdict.runs, len(verdict.failures)
            for case in cases:
                if only and f"{case.who} {case.call}" != only:
                    break
                misses = 0 if try_case(child, case, verdict) else misses + 1
                if misses == MISSES_MAX:
                    break
            if verdict.runs > started:
                print(
                    f"{carrier} {cases[0].who} {cases[0].call} {cases[0].how} "
                    f"x{cases[0].repeat}: {verdict.runs - started} runs, "
                    f"{len(verdict.failures) - failed} failures",
                    flush=True,
                )


def run_sample(
    child: Child, carriers: list[str], seconds: float, seed: int, verdict: Verdict
) -> None:
    """Chance picks caller, call and how alike, so that rare calls get their turn."""
    deadline = time.monotonic() + seconds
    chance = random.Random(seed)
    groups = [
        cases
        for carrier in carriers
        for cases in every_case(carrier, count_calls(child, carrier))
        if cases
    ]
    while time.monotonic() < deadline:
        try_case(child, chance.choice(chance.choice(groups)), verdict)


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/fail-nth", description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, help="a random sample instead of every n")
    parser.add_argument("--seed", type=int, help="of the sample")
    parser.add_argument("--carrier", choices=CARRIERS, help="of the link; all are usual")
    parser.add_argument("--only", default="", metavar="'WHO CALL'", help="e.g. '1 recv'")
    parser.add_argument("--replay", metavar="CASE", help="a printed case ten times, with stacks")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        return child()
    runner = Child()
    verdict = Verdict()
    carriers = [arguments.carrier] if arguments.carrier else list(CARRIERS)
    seed = arguments.seed if arguments.seed is not None else random.SystemRandom().getrandbits(32)
    started = time.monotonic()
    if arguments.replay:
        os.environ["FAILNTH_TRACE"] = "1"
        for _ in range(10):
            try_case(runner, Case.parse(arguments.replay), verdict)
    elif arguments.seconds:
        print(f"seed {seed}", flush=True)
        run_sample(runner, carriers, arguments.seconds, seed, verdict)
    else:
        run_all(runner, carriers, arguments.only, verdict)
    runner.close()
    print(
        f"{verdict.runs} runs in {time.monotonic() - started:.0f} s, a call failed in "
        f"{verdict.fired}, {len(verdict.failures)} broke the law"
    )
    return 1 if verdict.failures else 0


if __name__ == "__main__":
    sys.exit(main())
