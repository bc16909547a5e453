"""The arithmetic of the benchmarks: medians, spread, ratios within a round."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.parts import results
from benchmarks.parts.samples import (
    Sample,
    figure,
    percentile,
    ratio,
    spread,
    subjects_of,
    summary,
)


def sample(subject: str, number: int, **figures: float) -> Sample:
    return Sample("http", subject, number, figures)


def test_spread_is_median_least_and_most() -> None:
    assert spread([3.0, 1.0, 2.0]) == (2.0, 1.0, 3.0)
    assert spread([4.0, 1.0]).median == 2.5
    assert spread([2.0, 4.0, 3.0]).share == pytest.approx(2 / 3)
    assert spread([0.0]).share == 0.0
    with pytest.raises(ValueError, match="no samples"):
        spread([])


def test_a_percentile_is_a_value_that_was_measured() -> None:
    values = [float(value) for value in range(100, 0, -1)]
    assert percentile(values, 0.0) == 1.0
    assert percentile(values, 0.5) == 51.0
    assert percentile(values, 0.99) == 100.0
    assert percentile(values, 1.0) == 100.0
    with pytest.raises(ValueError, match="no samples"):
        percentile([], 0.5)


def test_a_ratio_is_taken_round_by_round() -> None:
    samples = [
        sample("ours", 0, cost=5.0),
        sample("nginx", 0, cost=10.0),
        # A slow minute: both suffer, and the ratio does not.
        sample("ours", 1, cost=50.0),
        sample("nginx", 1, cost=100.0),
        sample("ours", 2, cost=6.0),
        sample("nginx", 2, cost=10.0),
    ]
    assert ratio(samples, "http", "ours", "nginx", "cost") == (0.5, 0.5, 0.6)
    assert ratio(samples, "http", "nginx", "nginx", "cost") == (1.0, 1.0, 1.0)


def test_a_ratio_needs_both_in_the_same_round_and_a_reference_that_is_not_zero() -> None:
    samples = [
        sample("ours", 0, cost=5.0),
        sample("nginx", 1, cost=10.0),
        sample("ours", 2, cost=5.0),
        sample("nginx", 2, cost=0.0),
    ]
    assert ratio(samples, "http", "ours", "nginx", "cost") is None
    assert ratio(samples, "http", "ours", "haproxy", "cost") is None
    assert ratio(samples, "http", "ours", "nginx", "rate") is None


def test_what_was_not_measured_has_no_figure() -> None:
    samples = [sample("ours", 0, cost=5.0), sample("direct", 0, rate=1.0)]
    assert figure(samples, "http", "direct", "cost") is None
    assert figure(samples, "other", "ours", "cost") is None
    assert figure(samples, "http", "ours", "cost") == (5.0, 5.0, 5.0)
    assert subjects_of(samples, "http") == ["ours", "direct"]
    assert summary(samples)["http"]["direct"] == {"rate": (1.0, 1.0, 1.0)}


def test_a_result_is_read_as_it_was_written(tmp_path: Path) -> None:
    samples = [sample("ours", 0, cost=5.0), sample("ours", 1, cost=7.0)]
    path = tmp_path / "deep" / "result.json"
    results.write(path, {"verb": "load"}, samples)
    head, found = results.read(path)
    assert found == samples
    assert head["verb"] == "load"
    assert head["summary"]["http"]["ours"]["cost"] == [6.0, 5.0, 7.0]


@pytest.mark.parametrize("text", ["", "{}", '{"samples": [{"scenario": "x"}]}', "[]"])
def test_what_is_no_result_is_said_to_be_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="no result"):
        results.read(path)
