"""The fuzz runner itself: it must find, report and repeat."""

from __future__ import annotations

import importlib.util
import os
import signal
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "fuzz" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


run = load("run")


def target_that(fails: str) -> ModuleType:
    module = ModuleType("fuzz_example")

    def one_input(data: bytes) -> None:
        if b"word" not in data:
            return
        if fails == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if fails == "raises":
            raise ValueError("found")

    vars(module).update(one_input=one_input, SEEDS=[b"seed"], DICTIONARY=[b"word"])
    return module


@pytest.mark.parametrize("fails", ["raises", "dies"])
def test_a_failing_input_is_printed_with_its_seed(
    fails: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run.fuzz(target_that(fails), seconds=10, seed=7) == 1
    first = capfd.readouterr().out
    assert "seed 7" in first
    failing = bytes.fromhex(first.split("input ")[1])
    assert b"word" in failing
    assert run.fuzz(target_that(fails), seconds=10, seed=7) == 1
    assert capfd.readouterr().out == first


def test_a_target_without_a_bug_passes(capfd: pytest.CaptureFixture[str]) -> None:
    assert run.fuzz(target_that("passes"), seconds=0.1, seed=7) == 0
    assert capfd.readouterr().out.startswith("ok fuzz_example: ")


def test_one_seed_gives_the_same_inputs_and_another_seed_others() -> None:
    def made(seed: int) -> list[bytes]:
        mutator = run.Mutator(seed, [b"one", b"two"], [b"word"])
        return [mutator.next() for _ in range(200)]

    assert made(1) == made(1) != made(2)


def test_the_websocket_target_holds_for_its_seeds_and_a_row_of_mutants() -> None:
    target = load("fuzz_websocket")
    mutator = run.Mutator(6455, target.SEEDS, target.DICTIONARY)
    for data in [*target.SEEDS, *(mutator.next() for _ in range(300))]:
        target.one_input(data)
