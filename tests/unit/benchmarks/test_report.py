"""The report: plots, the model beyond what was measured, losses, and the marks of the page."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from benchmarks import targets
from benchmarks.parts import results
from benchmarks.parts.processes import BenchmarkError
from benchmarks.parts.samples import Sample, Spread
from benchmarks.report import losses, model, svg, write
from benchmarks.report.glance import BUDGET, ROWS
from benchmarks.report.page import GALLERY, page, plots
from benchmarks.scenarios import BY_NAME

HEAD = {
    "started": "2026-01-02T03:04:05+00:00",
    "machine": {
        "cpu": "a CPU", "cpus": 2, "kernel": "6.1", "memory_mib": 4096,
        "tcp_congestion_control": "reno", "busy_cpus": 0.1,
    },
    "versions": {"commit": "0123456789abcdef", "uncommitted": "no", "python": "3.11",
                 "argv": "scripts/bench load --quick"},
    "took_seconds": 120,
    "skipped": {"http: floor": "its source is not named"},
}  # fmt: skip


def sample(subject: str, number: int, scenario: str = "http-1k-c64", **figures: float) -> Sample:
    return Sample(scenario, subject, number, figures)


SAMPLES = [
    sample("nginx-chain", 0, cost=40.0, rate=20_000.0, p99_us=4000.0, pss_mib=20.0),
    sample("proxy-engine", 0, cost=20.0, rate=40_000.0, p99_us=5000.0, pss_mib=60.0),
    sample("nginx-chain", 1, cost=44.0, rate=19_000.0, p99_us=4400.0, pss_mib=20.0),
    sample("proxy-engine", 1, cost=21.0, rate=41_000.0, p99_us=5000.0, pss_mib=60.0),
    sample("nginx-chain", 0, "http-1k-c512", cost=50.0, rate=9000.0),
    sample("proxy-engine", 0, "http-1k-c512", cost=30.0, rate=20_000.0, client_busy=0.97),
    sample("proxy-engine", 0, "idle-links", links=1000.0, rss_mib=60.0, kib_a_link=4.0),
    sample("proxy-engine", 0, "idle-links-many", links=10_000.0, rss_mib=96.0, kib_a_link=4.1),
]


def test_numbers_have_three_digits_that_count() -> None:
    values = (0.0, 0.01234, 0.5, 1.0, 12.345, 123.4, 123456.0)
    assert [svg.number(value) for value in values] == [
        "0", "0.0123", "0.500", "1.00", "12.3", "123", "123,456"
    ]  # fmt: skip


def test_a_plot_is_wellformed_and_names_what_it_shows() -> None:
    groups = {"a <group>": [svg.Bar("ours & theirs", Spread(2.0, 1.0, 3.0), True)]}
    found = svg.bars('a "title"', groups)
    ET.fromstring(found)
    assert "ours &amp; theirs" in found
    assert "2.00" in found
    found = svg.lines(
        "t", "x", [svg.Line("one", [(1, 2), (10, 3)]), svg.Line("m", [(10, 3)], True)]
    )
    ET.fromstring(found)
    assert found.count("stroke-dasharray") == 2  # the model's line, and its name's


def test_the_model_goes_through_what_was_measured() -> None:
    assert model.fit([(1.0, 3.0), (2.0, 5.0), (3.0, 7.0)]) == pytest.approx((1.0, 2.0))
    points = [(1.0, 50.0), (64.0, 20.0), (100.0, 10.0), (1000.0, 12.0)]
    assert model.by_logarithm(points, [10_000, 100_000]) == pytest.approx([14.0, 16.0])
    with pytest.raises(ValueError, match="two points"):
        model.fit([(1.0, 1.0), (1.0, 2.0)])


def test_a_loss_is_found_and_its_cause_looked_up() -> None:
    known = [("http-*", "memory", "*", "an interpreter"), ("*", "p99", "haproxy*", "no")]
    found = losses.losses(SAMPLES, known)
    assert [(each.figure, each.to) for each in found] == [
        ("memory", "nginx-chain"),
        ("p99", "nginx-chain"),
    ]
    assert found[0].times == 3.0
    assert [each.cause for each in found] == ["an interpreter", "not explained yet"]


def test_what_is_worse_by_chance_only_is_no_loss_and_bounds_are_no_rivals() -> None:
    samples = [
        sample("direct", 0, rate=90_000.0),
        sample("nginx", 0, cost=10.0),
        sample("nginx-chain", 0, cost=20.0),
        sample("proxy-engine", 0, cost=20.9, rate=100.0),
        sample("proxy-engine-ws", 0, cost=30.0, rate=100.0),
    ]
    assert losses.losses(samples, []) == []


def test_losses_to_one_subject_for_one_cause_stand_together_the_unexplained_first() -> None:
    known = [("http-*", "memory", "*", "an interpreter")]
    more = [
        sample("nginx-chain", 0, "http-1k-c8", pss_mib=10.0),
        sample("proxy-engine", 0, "http-1k-c8", pss_mib=60.0),
    ]
    found = losses.grouped(losses.losses([*SAMPLES, *more], known))
    assert [(each.figure, each.cause) for each in found] == [
        ("p99", losses.UNKNOWN),
        ("memory", "an interpreter"),
    ]
    assert [each.scenario for each in found[1].losses] == ["http-1k-c8", "http-1k-c64"]


def test_bulk_over_the_link_has_losses_of_its_own_and_programs_have_theirs() -> None:
    samples = [
        sample("proxy-engine-direct", 0, "tcp-up", cost=0.2),
        sample("proxy-engine-link", 0, "tcp-up", cost=0.6),
        sample("relay-splice", 0, "tcp-up", cost=0.3),
        sample("proxy-engine 1.3", 0, "tls-costs", cost=500.0),
        sample("proxy-engine 1.2", 0, "tls-costs", cost=300.0),
        sample("nginx 1.3", 0, "tls-costs", cost=400.0),
        sample("nginx 1.2", 0, "tls-costs", cost=400.0),
        sample("proxy-engine", 0, "websocket-echo", cpu=5.0, rate=100.0),
        sample("bare-c", 0, "websocket-echo", cpu=4.0, rate=150.0),
        sample("picows", 0, "websocket-echo", cpu=6.0, rate=120.0),
    ]
    found = [(each.ours, each.to, each.figure) for each in losses.losses(samples, [])]
    assert found == [
        ("proxy-engine-link", "relay-splice", "CPU"),
        ("proxy-engine 1.3", "nginx 1.3", "CPU"),
        ("proxy-engine", "picows", "rate"),
    ]


def test_every_budget_that_is_missed_in_a_run_can_be_explained() -> None:
    known = losses.causes()
    open_ones = [each for each in targets.load() if each.is_open and each.is_measured]
    assert open_ones
    for each in open_ones:
        assert losses.cause_of(known, each.scenario, each.name, BUDGET) != losses.UNKNOWN, each.name


def test_every_row_of_the_first_table_names_a_scenario() -> None:
    assert {row.scenario for row in ROWS} <= set(BY_NAME)


def test_every_plot_stands_in_the_page_under_a_heading() -> None:
    shown = {name for names, _ in GALLERY.values() for name in names} | {"connections"}
    assert set(plots(SAMPLES)) <= shown


def test_every_cause_is_a_row_of_four() -> None:
    assert all(all(row) for row in losses.causes())


def test_the_page_says_where_it_is_from_and_what_is_a_model() -> None:
    text = page([HEAD], SAMPLES, losses.losses(SAMPLES, []))
    assert "commit `012345678`" in text
    assert "scripts/bench load --quick   # 2 minutes" in text
    assert "- floor: its source is not named" in text
    assert "busy" not in text.partition("### Where")[0]
    assert "| CPU us a request, 512 clients | **30.0** | 50.0 |" in text
    assert "512 clients, of two chained nginx | ≤\u00a00.35 | 0.600 | **missed** |" in text
    assert "http-1k-c64: 60.0 beside 20.0 of nginx-chain" in text
    assert "| **proxy-engine** | 40,500 [40,000-41,000] | 20.5 [20.0-21.0] | 0.49 |" in text
    assert "| 100,000 | 456 (model: a straight line) |" in text
    assert "| 512 | 50.0 | 30.0 |" in text
    assert "| 100,000 | 70.3 (model) | 54.1 (model) |" in text
    assert "20,000 ¹" in text  # the client was at its limit
    for name in plots(SAMPLES):
        assert f"(plots/{name}.svg)" in text


def test_a_busy_machine_is_said_loudly() -> None:
    busy = {**HEAD, "machine": {**HEAD["machine"], "busy_cpus": 1.5}}  # type: ignore[dict-item]
    assert "**The machine was busy** (1.5 of its CPUs" in page([busy], SAMPLES, [])


def test_the_report_writes_between_the_marks_and_again(tmp_path: Path) -> None:
    out = tmp_path / "docs" / "page.md"
    out.parent.mkdir()
    out.write_text(f"before\n{write.BEGIN}\nof last week\n{write.END}\nafter\n")
    result = tmp_path / "20260101-load-x.json"
    results.write(result, HEAD, SAMPLES)
    for _ in range(2):
        assert write.main([result], out) == 0
        text = out.read_text()
        assert text.startswith(f"before\n{write.BEGIN}\n\n## Measured\n")
        assert text.endswith(f"{write.END}\nafter\n")
        assert "last week" not in text
    pictures = sorted(path.stem for path in (out.parent / "plots").iterdir())
    assert pictures == sorted(plots(SAMPLES))


def test_a_page_without_marks_is_refused() -> None:
    with pytest.raises(BenchmarkError, match="wants one"):
        write.between_marks("no marks", "x")
    with pytest.raises(BenchmarkError, match="wants one"):
        write.between_marks(f"{write.END} {write.BEGIN}", "x")


def test_our_own_page_has_its_marks() -> None:
    assert "x" in write.between_marks(write.PAGE.read_text(), "x")


def test_the_newest_result_of_each_verb_is_taken(tmp_path: Path) -> None:
    for name in ("20260101-load-a", "20260102-load-b", "20260101-micro-a", "20260103-gate-x"):
        (tmp_path / f"{name}.json").write_text("{}")
    assert [path.stem for path in write.newest(tmp_path)] == ["20260102-load-b", "20260101-micro-a"]


def test_a_report_of_nothing_says_how_to_measure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    with pytest.raises(BenchmarkError, match="bench all"):
        write.main([], tmp_path / "x.md")
