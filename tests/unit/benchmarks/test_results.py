"""Results on disk: written whole, found again; and how long a run will still take."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.load import run
from benchmarks.load.stage import Options
from benchmarks.parts import results
from benchmarks.parts.samples import Sample
from benchmarks.scenarios import BY_NAME, LOAD, Program

HEAD = {"verb": "load", "pace": "full", "took_seconds": 5, "skipped": {}, "failed": {}}


def test_a_result_is_written_whole_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / "made" / "x.json"
    samples = [Sample("a", "b", 0, {"cost": 1.0})]
    for _ in range(2):
        results.write(path, HEAD, samples)
    head, found = results.read(path)
    assert (head["pace"], found) == ("full", samples)
    assert list(path.parent.iterdir()) == [path]


def test_the_newest_result_of_this_commit_and_pace_is_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "commit", lambda: "abc")
    for name, pace in (
        ("20260101-load-abc", "full"),
        ("20260102-load-abc", "full"),
        ("20260103-load-abc", "quick"),
        ("20260104-load-def", "full"),
        ("20260105-peers-abc", "full"),
    ):
        results.write(tmp_path / f"{name}.json", {**HEAD, "pace": pace}, [])
    assert results.newest("load", "full", tmp_path) == tmp_path / "20260102-load-abc.json"
    assert results.newest("micro", "full", tmp_path) is None


def test_what_was_measured_before_is_not_measured_again() -> None:
    scenario = BY_NAME["http-1k-c1"]
    before = run.Outcome(samples=[Sample("http-1k-c1", "direct", 0, {"rate": 1.0})])
    said: list[str] = []
    outcome = run.run([scenario], Options(say=said.append), outcome=before)
    assert outcome is before
    assert len(outcome.samples) == 1
    assert said == ["http-1k-c1: measured before"]


def test_the_time_left_follows_how_fast_this_machine_is(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    clock = run.Clock([60.0, 60.0, 120.0])
    assert clock.left() == "4 min left"
    now = 120.0  # twice as long as it should
    clock.passed(60.0)
    assert clock.left() == "6 min left"
    now = 320.0
    clock.passed(60.0)
    clock.passed(90.0)
    assert clock.left() == "46 s left"


def test_every_scenario_says_how_long_it_takes() -> None:
    options = Options(rounds=3, seconds=2.0)
    for each in LOAD:
        quick = run.expected_seconds(each, options, is_quick=True)
        assert 0 < quick <= run.expected_seconds(each, options, is_quick=False)
        if isinstance(each, Program):
            assert each.seconds[1] <= each.timeout
