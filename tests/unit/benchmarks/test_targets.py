"""Verdicts of the gate: what is met, open, missed or slower, and what noise excuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import targets
from benchmarks.counted.count import COUNTS, differences, totals
from benchmarks.gate import MICRO, SHORT, attempts, in_order
from benchmarks.load.stage import Options
from benchmarks.parts.samples import Sample
from benchmarks.scenarios import BY_NAME, Program, Scenario
from benchmarks.targets import Attempt, Target, judge

ROOT = Path(__file__).resolve().parents[3]


def target(**more: object) -> Target:
    row: dict[str, object] = {"name": "t", "what": "w", "budget": 1.0, "scenario": "s"}
    return Target(**{**row, "subject": "ours", "figure": "cost", **more})  # type: ignore[arg-type]


def word(of: Target, *values: float, baseline: float | None = None, noise: float = 0.0) -> str:
    recorded = {} if baseline is None else {of.name: baseline}
    return judge(of, [Attempt(value, noise) for value in values], recorded).word


def test_a_reached_target_is_held_at_its_budget_with_a_margin() -> None:
    assert word(target(), 0.9) == "met"
    assert word(target(), 1.0) == "met"
    assert word(target(), 1.14) == "met within the noise"
    assert word(target(), 1.16) == "MISSED"
    assert word(target(margin=0.3), 1.16) == "met within the noise"


def test_a_target_that_wants_more_is_missed_below_it() -> None:
    more = target(more=True)
    assert word(more, 1.2) == "met"
    assert word(more, 0.9) == "met within the noise"
    assert word(more, 0.8) == "MISSED"


def test_a_budget_of_nothing_has_no_margin() -> None:
    assert word(target(budget=0.0), 0.0) == "met"
    assert word(target(budget=0.0), 1.0) == "MISSED"


def test_an_open_target_is_held_at_what_was_reached() -> None:
    is_open = target(held=2.0)
    assert word(is_open, 0.9) == "met, still listed as open"
    assert word(is_open, 1.9) == "open"
    assert word(is_open, 2.2) == "open"
    assert word(is_open, 2.4) == "MISSED"


def test_a_miss_has_to_be_one_in_every_attempt() -> None:
    assert word(target(), 2.0, 1.5, 1.1) == "met within the noise"
    verdict = judge(target(), [Attempt(2.0), Attempt(1.5), Attempt(3.0)], {})
    assert verdict.is_miss
    assert verdict.measured == 1.5  # the best of them


def test_noise_of_the_reference_widens_the_margin_of_its_own_run_only() -> None:
    assert word(target(), 1.3, noise=0.4) == "met within the noise"
    assert word(target(), 1.45, noise=0.4) == "MISSED"
    quiet, noisy = Attempt(1.3, 0.0), Attempt(1.45, 0.4)
    assert judge(target(), [quiet, noisy], {}).is_miss


def test_slower_than_the_baseline_by_more_than_fifteen_percent_is_a_miss() -> None:
    held = target(budget=10.0, baseline=True)
    assert word(held, 5.7, baseline=5.0) == "met"
    assert word(held, 5.8, baseline=5.0) == "SLOWER than 5 recorded"
    assert judge(held, [Attempt(5.8)], {"t": 5.0}).is_miss
    assert word(held, 5.8, 5.1, baseline=5.0) == "met"
    assert word(held, 5.8) == "met"
    assert word(target(budget=10.0), 5.8, baseline=5.0) == "met"  # no baseline is asked for


def test_what_is_informational_never_fails() -> None:
    verdict = judge(target(informational=True), [Attempt(99.0)], {})
    assert (verdict.word, verdict.is_miss) == ("not met (informational)", False)


def test_what_is_informational_is_measured_last_and_where_there_is_time() -> None:
    groups = {
        "told": [target(scenario="told", informational=True)],
        "mixed": [target(scenario="mixed"), target(name="u", informational=True)],
        "instructions": [target(scenario="instructions")],
    }
    assert [name for name, _ in in_order(groups)] == ["instructions", "mixed", "told"]
    said: list[str] = []
    values, unmeasured = attempts(groups["told"], Options(say=said.append), ROOT, deadline=0.0)
    assert (values, unmeasured, said) == ({"t": []}, {"told": "no time"}, ["told: no time"])


def test_what_is_not_measured_is_named_and_does_not_fail() -> None:
    assert word(target()) == "not measured here"
    assert word(target(held_by="tests/x.py")) == "held by tests/x.py"
    assert word(target(pending="nobody knows how")) == "not measured: nobody knows how"


def test_a_ratio_has_the_noise_of_its_reference() -> None:
    samples = [
        Sample("s", who, number, {"cost": cost})
        for number, pair in enumerate(((5.0, 10.0), (6.0, 12.0), (5.5, 11.0)))
        for who, cost in zip(("ours", "nginx"), pair, strict=True)
    ]
    found = target(of="nginx").attempt(samples)
    assert found is not None
    assert found.value == 0.5
    assert found.noise == pytest.approx(2 / 11)
    assert target().attempt(samples) == Attempt(5.5)
    assert target(of="haproxy").attempt(samples) is None
    wild = [
        *samples,
        Sample("s", "ours", 3, {"cost": 1.0}),
        Sample("s", "nginx", 3, {"cost": 99.0}),
    ]
    assert target(of="nginx").attempt(wild)[1] == targets.NOISE_MAX  # type: ignore[index]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('name = "a"\nwhat = "w"\nbudget = 1\nlimit = 2', "unknown: limit"),
        ('name = "a"\nwhat = "w"', "budget"),
        ('name = "a"\nwhat = "w"\nbudget = 1', "a scenario, a subject and a figure"),
    ],
)
def test_a_wrong_row_is_refused(tmp_path: Path, row: str, message: str) -> None:
    path = tmp_path / "targets.toml"
    path.write_text(f"[[target]]\n{row}\n")
    with pytest.raises(ValueError, match=message):
        targets.load(path)


def test_a_name_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "targets.toml"
    row = '[[target]]\nname = "a"\nwhat = "w"\nbudget = 1\npending = "x"\n'
    path.write_text(row * 2)
    with pytest.raises(ValueError, match="twice"):
        targets.load(path)


def test_every_target_names_what_is_measured() -> None:
    for each in targets.load():
        if each.held_by:
            assert (ROOT / each.held_by).exists(), each.name
            continue
        if each.pending:
            continue
        if each.scenario == "instructions":
            assert each.subject in COUNTS
            continue
        if each.scenario.startswith("micro-"):
            assert (ROOT / MICRO[each.scenario][0]).exists()
            continue
        scenario = BY_NAME[each.scenario]
        if isinstance(scenario, Program):
            assert scenario.name in SHORT
        else:
            assert {each.subject, each.of or each.subject} <= set(scenario.subjects), each.name


def test_instructions_of_another_compiler_are_no_baseline(tmp_path: Path) -> None:
    path = tmp_path / "baseline.json"
    path.write_text('{"compiler": "12.2.0", "figures": {"code-one": 5.0, "http-c64": 0.5}}')
    assert targets.read_baseline("12.2.0", path) == {"code-one": 5.0, "http-c64": 0.5}
    assert targets.read_baseline("14.1.0", path) == {"http-c64": 0.5}
    assert targets.read_baseline("12.2.0", tmp_path / "none.json") == {}


def test_counts_are_read_by_thread_and_taken_off_each_other(tmp_path: Path) -> None:
    for thread, total in ((1, 900), (2, 500), (3, 70)):
        text = f"# callgrind format\nthread: {thread}\nevents: Ir\nfn=x\n1 2\ntotals: {total}\n"
        (tmp_path / f"counts-0{thread}").write_text(text)
    (tmp_path / "counts").write_text("")
    found = totals(tmp_path)
    assert found == {1: 900, 2: 500, 3: 70}
    assert differences({2: 100, 3: 20}, found, 10) == {"server": 40.0, "agent": 5.0, "both": 45.0}


def test_scenarios_have_names_of_their_own_and_their_reference_beside_them() -> None:
    assert len(BY_NAME) == len({each.name for each in BY_NAME.values()})
    for each in BY_NAME.values():
        if isinstance(each, Scenario):
            assert each.reference in each.subjects, each.name
            assert any(subject.startswith("proxy-engine") for subject in each.subjects)
        else:
            assert (ROOT / "benchmarks" / "load" / each.command[0]).exists()
