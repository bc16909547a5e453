"""Samples that can be compared: every round begins with another subject, clients are in C."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.parts.processes import BenchmarkError

Figures = dict[str, float]


def in_turn(subjects: Sequence[str], number: int) -> list[str]:
    """The order of round `number`: a slow minute of the machine hits all alike."""
    turn = number % len(subjects)
    return [*subjects[turn:], *subjects[:turn]]


def interleaved(
    names: Sequence[str], rounds: int, measure: Callable[[str], Figures]
) -> dict[str, list[Figures]]:
    """What `measure` says of each, once a round."""
    samples: dict[str, list[Figures]] = {name: [] for name in names}
    for number in range(rounds):
        for name in in_turn(names, number):
            samples[name].append(measure(name))
    return samples


def run_client(program: Path, *arguments: object, timeout: float) -> Figures:
    """The JSON a client of benchmarks/reference prints. Raises: BenchmarkError."""
    done = subprocess.run(
        [str(program), *map(str, arguments)],
        capture_output=True, text=True, check=False, timeout=timeout,
    )  # fmt: skip
    if done.returncode != 0:
        raise BenchmarkError(f"{program.name} failed: {done.stderr.strip()}")
    figures: Figures = json.loads(done.stdout)
    return figures
