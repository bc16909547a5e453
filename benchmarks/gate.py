"""`scripts/bench gate`: measures what targets.toml holds, and says whether it still does.

What needs no luck comes first: instructions, counted by callgrind. Then ratios against references
in the same run. A scenario with a miss is measured again, twice at most and while there is time;
only what missed every time is a miss. What can not be measured here is named, and is none.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks import micro_run
from benchmarks.counted import count
from benchmarks.load import run as load_run
from benchmarks.load.stage import Options
from benchmarks.parts.processes import BenchmarkError
from benchmarks.parts.results import busy_cpus
from benchmarks.parts.samples import Sample
from benchmarks.parts.subjects import ROOT
from benchmarks.scenarios import BY_NAME, Program
from benchmarks.targets import BASELINE, Attempt, Target, Verdict, judge, load, read_baseline, table

ATTEMPTS = 3
ROUNDS, SECONDS, SCALE = 3, 2.0, 0.25
EXIT_FAILED = 1
# What a program measures here: short, for what is held are costs and not rates.
SHORT = {
    "idle-links": ("--links", "2000"),
    "storm": ("--devices", "4000"),
    "websocket-echo": ("--rounds", "3", "--seconds", "0.5"),
    "request-log": ("--rounds", "1", "--seconds", "1"),
    "stores": ("--records", "50000"),
    "control-plane": ("--modes", "plain", "--rounds", "1", "--seconds", "2"),
    "hooks": ("--megabytes", "500", "--rounds", "2"),
    "log-searches": ("--rows", "200000"),
    "tls-costs": ("--rounds", "1", "--handshakes", "10", "--bulk", "10000000", "--links", "500"),
}
MICRO = {
    "micro-websocket": ("benchmarks/micro/test_websocket.py", "-k", "masking or reading_frames"),
    "micro-hooks": ("benchmarks/micro/test_hooks.py", "-k", "told"),
    "micro-metrics": ("benchmarks/micro/test_metrics.py", "-k", "a_scrape and not 10000"),
    "micro-tokens": ("benchmarks/micro/test_tokens.py", "-k", "known"),
}

Say = Callable[[str], None]


def measure(name: str, targets: Sequence[Target], options: Options, root: Path) -> list[Sample]:
    """One attempt at a scenario, of the subjects that its targets name. Raises: BenchmarkError."""
    if name == count.SCENARIO:
        reason = count.unavailable()
        if reason is not None:
            raise BenchmarkError(reason)
        options.say(f"{name}: callgrind counts what a request executes")
        counted = count.measure(list(dict.fromkeys(each.subject for each in targets)), root)
        return [Sample(name, subject, 0, figures) for subject, figures in counted.items()]
    if name in MICRO:
        code, samples = micro_run.run(options.say, *MICRO[name])
        if code:
            raise BenchmarkError(f"pytest ended with {code}")
        return samples
    scenario = BY_NAME[name]
    if isinstance(scenario, Program):
        scenario = replace(scenario, quick=SHORT[name])
    subjects = {subject for each in targets for subject in (each.subject, each.of) if subject}
    outcome = load_run.run([scenario], options, subjects=sorted(subjects), is_quick=True)
    for why in (*outcome.failed.values(), *outcome.skipped.values()):
        raise BenchmarkError(why)
    return outcome.samples


def is_for_information(group: Sequence[Target]) -> bool:
    return all(each.informational for each in group)


def in_order(groups: Mapping[str, list[Target]]) -> list[tuple[str, list[Target]]]:
    """What needs no luck first, what can not fail last."""
    return sorted(
        groups.items(), key=lambda item: (item[0] != count.SCENARIO, is_for_information(item[1]))
    )


def attempts(
    targets: Sequence[Target], options: Options, root: Path, deadline: float
) -> tuple[dict[str, list[Attempt]], dict[str, str]]:
    """target -> its attempts; scenario -> why it was not measured."""
    compiler = count.compiler_version()
    baseline = read_baseline(compiler)
    by_scenario: dict[str, list[Target]] = {}
    for target in targets:
        if target.is_measured:
            by_scenario.setdefault(target.scenario, []).append(target)
    values: dict[str, list[Attempt]] = {target.name: [] for target in targets}
    unmeasured: dict[str, str] = {}
    for name, group in in_order(by_scenario):
        for attempt in range(ATTEMPTS):
            # A first attempt at what can fail is always made, all else where there is time.
            if time.monotonic() > deadline:
                if attempt:
                    options.say(f"{name}: no time to measure again")
                    break
                if is_for_information(group):
                    unmeasured[name] = "no time"
                    options.say(f"{name}: no time")
                    break
            try:
                samples = measure(name, group, options, root)
            except (BenchmarkError, OSError) as error:
                unmeasured[name] = str(error)
                options.say(f"{name}: {error}")
                continue
            unmeasured.pop(name, None)
            for target in group:
                found = target.attempt(samples)
                if found is not None:
                    values[target.name].append(found)
            missed = [t.name for t in group if judge(t, values[t.name], baseline).is_miss]
            if not missed:
                break
            options.say(f"{name}: {', '.join(missed)} missed at attempt {attempt + 1}")
    return values, unmeasured


def verdicts_of(
    targets: Iterable[Target], values: dict[str, list[Attempt]], unmeasured: dict[str, str]
) -> list[Verdict]:
    baseline = read_baseline(count.compiler_version())
    found = []
    for target in targets:
        verdict = judge(target, values[target.name], baseline)
        if verdict.measured is None and target.scenario in unmeasured:
            verdict = replace(verdict, word=f"not measured: {unmeasured[target.scenario]}")
        found.append(verdict)
    return found


def record(verdicts: Sequence[Verdict]) -> None:
    """The figures that later runs are compared with; those not measured now stay."""
    figures = read_baseline(count.compiler_version()) | {
        each.target.name: float(f"{each.measured:.4g}")
        for each in verdicts
        if each.target.baseline and each.measured is not None
    }
    made = {"compiler": count.compiler_version(), "figures": figures}
    BASELINE.write_text(json.dumps(made, indent=2) + "\n")


def main(chosen: argparse.Namespace, say: Say) -> int:
    started = time.monotonic()
    targets = load()
    if chosen.only:
        targets = [each for each in targets if each.name.startswith(tuple(chosen.only.split(",")))]
        if not targets:
            raise BenchmarkError(f"no target begins with {chosen.only}")
    options = Options(rounds=ROUNDS, seconds=SECONDS, scale=SCALE, say=say)
    root = (chosen.root or ROOT).resolve()
    values, unmeasured = attempts(targets, options, root, started + chosen.seconds)
    verdicts = verdicts_of(targets, values, unmeasured)
    print(table(verdicts))
    if chosen.record:
        record(verdicts)
        print(f"recorded in {BASELINE}")
        if (busy := busy_cpus()) > (os.cpu_count() or 1) / 2:
            print(f"the machine is busy ({busy:.1f} of its CPUs): record on a quiet one")
    missed = [each for each in verdicts if each.is_miss]
    held = sum(each.measured is not None for each in verdicts)
    print(f"{held} measured, {len(missed)} missed, in {time.monotonic() - started:.0f} s")
    for each in missed:
        tries = ", ".join(
            f"{value:,.4g} (noise {noise:.0%})" for value, noise in values[each.target.name]
        )
        print(f"missed: {each.target.name}: {each.word}: {tries}", file=sys.stderr)
    return EXIT_FAILED if missed else 0
