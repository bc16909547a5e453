"""Runs scenarios: interleaved rounds on a shared stage, with progress, into samples.

Every subject is started once and idles while others are measured. A round measures each
scenario on each of its subjects, beginning with another subject every time, so that a slow
minute of the machine hits all alike.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.load.loads import measure
from benchmarks.load.stage import OURS, Options, Stage
from benchmarks.parts import counters
from benchmarks.parts.processes import BenchmarkError
from benchmarks.parts.reference import compiler
from benchmarks.parts.rounds import in_turn
from benchmarks.parts.samples import Sample
from benchmarks.parts.subjects import ROOT, nginx_path
from benchmarks.scenarios import Program, Scenario

WARM_UP_SECONDS = 1.0
GRACE = 60.0  # that a program begun before the deadline may take beyond it
STOP_SECONDS = 10.0  # for a program that is ended, to end its own
OVERHEAD_SECONDS = 0.4  # of a sample, for its client and the accounts
CLIENT_BUSY = 0.95  # of a CPU: from here on the client is what limits
OPTIONAL = ("against", "floor")  # subjects that are only there when asked for


@dataclass
class Outcome:
    samples: list[Sample] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)  # scenario or subject -> why
    failed: dict[str, str] = field(default_factory=dict)  # scenario -> what happened
    keep: Callable[[], None] = lambda: None  # called whenever a scenario is done

    def has(self, scenario: str) -> bool:
        return any(each.scenario == scenario for each in self.samples)


class Clock:
    """How long what is left will take: as long as it should, and as this machine is slower."""

    def __init__(self, seconds: Sequence[float]) -> None:
        self._all, self._done = sum(seconds), 0.0
        self._started = time.monotonic()

    def left(self) -> str:
        if not self._done:
            seconds = self._all
        else:
            seconds = (self._all - self._done) / self._done * (time.monotonic() - self._started)
        return f"{seconds / 60:.0f} min left" if seconds >= 90 else f"{seconds:.0f} s left"

    def passed(self, seconds: float) -> None:
        self._done += seconds


def expected_seconds(scenario: Scenario | Program, options: Options, *, is_quick: bool) -> float:
    if isinstance(scenario, Program):
        return scenario.seconds[0 if is_quick and scenario.quick is not None else 1]
    sample = options.seconds * scenario.seconds + OVERHEAD_SECONDS
    count = sum(is_asked_for(each, options) for each in scenario.subjects)
    warm_up = WARM_UP_SECONDS * scenario.seconds
    return count * (warm_up + OVERHEAD_SECONDS + options.rounds * sample)


def is_asked_for(subject: str, options: Options) -> bool:
    return subject not in OPTIONAL or getattr(options, subject) is not None


def missing(scenario: Scenario | Program) -> str | None:
    """Why it can not run here, in one line."""
    for need in scenario.needs:
        if need == "perf":
            reason = counters.unavailable()
            if reason:
                return reason
        elif need == "nginx":
            if nginx_path() is None:
                return "not installed: apt-get install nginx-light"
        elif shutil.which(need) is None:
            return f"not installed: apt-get install {need}"
    if isinstance(scenario, Scenario) and compiler() is None:
        return "there is no C compiler: apt-get install gcc"
    return None


def run(
    scenarios: Sequence[Scenario | Program],
    options: Options,
    *,
    subjects: Sequence[str] | None = None,
    is_quick: bool = False,
    deadline: float = float("inf"),
    outcome: Outcome | None = None,
) -> Outcome:
    """subjects: of each scenario only these. deadline: of time.monotonic(); what is not begun
    by then is skipped, and said so. outcome: of a run before, added to; what it has is not
    measured again."""
    outcome = Outcome() if outcome is None else outcome
    stage_scenarios: list[Scenario] = []
    programs: list[Program] = []
    for scenario in scenarios:
        if outcome.has(scenario.name):
            options.say(f"{scenario.name}: measured before")
            continue
        reason = missing(scenario)
        if reason is not None:
            outcome.skipped[scenario.name] = reason
            options.say(f"skipped: {scenario.name}: {reason}")
        elif isinstance(scenario, Scenario):
            stage_scenarios.append(scenario)
        else:
            programs.append(scenario)
    chosen: list[Scenario | Program] = [*programs, *stage_scenarios]
    expected = {each.name: expected_seconds(each, options, is_quick=is_quick) for each in chosen}
    clock = Clock(list(expected.values()))
    # Programs first: each is short, and where time is short, the stage has the longer list.
    for number, program in enumerate(programs):
        if time.monotonic() > deadline:
            outcome.skipped[program.name] = "out of time"
            continue
        seconds = min(program.timeout, max(10.0, deadline + GRACE - time.monotonic()))
        options.say(
            f"[{number + 1}/{len(expected)}, {clock.left()}] {program.name}: {program.what}"
        )
        _run_program(program, options, is_quick, outcome, seconds)
        clock.passed(expected[program.name])
        outcome.keep()
    if stage_scenarios:
        _run_on_stage(stage_scenarios, options, subjects, outcome, deadline, (clock, expected))
    return outcome


def _run_on_stage(
    scenarios: Sequence[Scenario],
    options: Options,
    subjects: Sequence[str] | None,
    outcome: Outcome,
    deadline: float,
    progress: tuple[Clock, dict[str, float]],
) -> None:
    clock, expected = progress
    with (
        tempfile.TemporaryDirectory(prefix="proxy-engine-load-") as name,
        Stage(Path(name), options) as stage,
    ):
        for number, scenario in enumerate(scenarios):
            wanted = [
                each
                for each in scenario.subjects
                if (subjects is None or each in subjects) and is_asked_for(each, options)
            ]
            if time.monotonic() > deadline:
                outcome.skipped[scenario.name] = "out of time"
                continue
            step = len(expected) - len(scenarios) + number + 1
            options.say(
                f"[{step}/{len(expected)}, {clock.left()}] {scenario.name}: {scenario.what}"
            )
            try:
                outcome.samples += _rounds(stage, scenario, wanted, options, outcome)
            except (BenchmarkError, subprocess.TimeoutExpired, OSError) as error:
                outcome.failed[scenario.name] = str(error)
                options.say(f"failed: {scenario.name}: {error}")
            clock.passed(expected[scenario.name])
            outcome.skipped |= stage.skipped
            outcome.keep()


def _rounds(
    stage: Stage, scenario: Scenario, wanted: Sequence[str], options: Options, outcome: Outcome
) -> list[Sample]:
    """Samples of all that got through. A reference that fails leaves the scenario, and is named;
    ours that fails is a failure."""
    running = stage.subjects(scenario.field, wanted)
    place = stage.origin(scenario.field)
    samples: list[Sample] = []

    def sample(name: str, seconds: float) -> dict[str, float] | None:
        try:
            return measure(stage, place, running[name], scenario.load, seconds)
        except (BenchmarkError, OSError, subprocess.TimeoutExpired) as error:
            if name.startswith(OURS):
                raise BenchmarkError(f"{name}: {error}") from error
            outcome.skipped[f"{scenario.name}: {name}"] = f"{error}"
            options.say(f"left out: {scenario.name}: {name}: {error}")
            return None

    # First connections, first allocations and lazy imports are not the subject.
    warm_up = WARM_UP_SECONDS * scenario.seconds
    able = [name for name in running if sample(name, warm_up) is not None]
    for number in range(options.rounds):
        for name in in_turn(able, number) if able else ():
            figures = sample(name, options.seconds * scenario.seconds)
            if figures is None:
                able.remove(name)
            else:
                samples.append(Sample(scenario.name, name, number, figures))
    return samples


def _run_program(
    program: Program, options: Options, is_quick: bool, outcome: Outcome, seconds: float
) -> None:
    arguments = [*program.command[1:], *((program.quick or ()) if is_quick else ())]
    file = ROOT / "benchmarks" / "load" / program.command[0]
    paths = (str(ROOT), str(ROOT / "engine"), str(ROOT / "proxy"))
    with tempfile.NamedTemporaryFile(prefix="proxy-engine-", suffix=".jsonl") as results:
        command = [sys.executable, str(file), "--json", results.name, *arguments]
        done = _bounded(command, seconds, os.pathsep.join(paths))
        if done is None:
            outcome.failed[program.name] = f"not done after {seconds:.0f} s"
            options.say(f"failed: {program.name}: {outcome.failed[program.name]}")
            return
        text = Path(results.name).read_text()
    found = [Sample(**json.loads(line)) for line in text.splitlines()]
    if done.returncode != 0 or not found:
        last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
        outcome.failed[program.name] = last
        options.say(f"failed: {program.name}: {last}")
        return
    outcome.samples += [
        Sample(program.name, _within(program.name, e), e.round, e.figures) for e in found
    ]


def _bounded(
    command: Sequence[str], seconds: float, path: str
) -> subprocess.CompletedProcess[str] | None:
    """None: it took too long, and was ended with all that it had started."""
    popen = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, start_new_session=True, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    try:
        output, errors = popen.communicate(timeout=seconds)
        return subprocess.CompletedProcess(command, popen.returncode, output, errors)
    except subprocess.TimeoutExpired:
        return None
    finally:
        # Also after an interrupt: nothing of it may go on beside what is measured next.
        if popen.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(popen.pid, signal.SIGINT)
            try:
                popen.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(popen.pid, signal.SIGKILL)
                popen.wait()


def _within(program: str, sample: Sample) -> str:
    """A program with several measurements says which in the scenario's name."""
    part = sample.scenario.removeprefix("tls-") if program == "tls-costs" else ""
    return f"{sample.subject} {part}".strip()
