"""The dashboard and the alert rules: every metric in them exists, and the rules do their work."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy_engine.metrics.catalogue import METRICS

CONTRIB = Path(__file__).resolve().parents[3] / "contrib"
RULES = CONTRIB / "prometheus" / "alerts.yml"
TESTS = CONTRIB / "prometheus" / "alerts.test.yml"
DASHBOARD = CONTRIB / "grafana" / "proxy-engine.json"

NAME = re.compile(r"\b(?:proxy_engine|process)_\w+")
SELECTOR = re.compile(r"\b((?:proxy_engine|process)_\w+)\{([^}]*)\}")
OF_PROMETHEUS = {"instance", "job", "le"}


def expressions(node: Any) -> Iterator[str]:
    """Everything in a dashboard that is a query."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key in ("expr", "definition") and isinstance(value, str):
                yield value
            else:
                yield from expressions(value)
    elif isinstance(node, list):
        for item in node:
            yield from expressions(item)


def queries_of(dashboard: Any, range: str = "1m") -> list[str]:
    """What Prometheus is asked for the panels, for all servers and tunnels."""
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    return [
        query.replace("$__rate_interval", range).replace("$instance", ".*").replace("$tunnel", ".*")
        for panel in panels
        for query in expressions(panel)
    ]


def metric_of(name: str) -> str:
    """The metric that a series belongs to; "" if there is none."""
    for end in ("", "_bucket", "_sum", "_count"):
        found = METRICS.get(name.removesuffix(end)) if name.endswith(end) else None
        if found is not None and (not end or found.kind == "histogram"):
            return found.name
    return ""


def wrong(text: str) -> list[str]:
    unknown = [name for name in NAME.findall(text) if not metric_of(name)]
    for name, selectors in SELECTOR.findall(text):
        labels = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", re.sub(r'"[^"]*"', '""', selectors)))
        metric = METRICS.get(metric_of(name))
        if metric is not None:
            unknown += [f"{name}: {each}" for each in labels - OF_PROMETHEUS - {*metric.labels}]
    return unknown


def test_what_is_wrong_is_found() -> None:
    assert wrong("rate(proxy_engine_nothing_total[5m])") == ["proxy_engine_nothing_total"]
    assert wrong('proxy_engine_links{color="red"}') == ["proxy_engine_links: color"]
    assert wrong("proxy_engine_links_sum") == ["proxy_engine_links_sum"]
    assert wrong('rate(proxy_engine_store_duration_seconds_bucket{le="1.0"}[5m])') == []


def test_the_dashboard_asks_for_what_there_is() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    queries = list(expressions(dashboard))
    assert len(queries) > 40
    assert not [each for query in queries for each in wrong(query)]
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    assert all(panel["targets"] and panel["title"] for panel in panels)
    assert all(0 <= panel["gridPos"]["x"] <= 24 - panel["gridPos"]["w"] for panel in panels)


def test_the_rules_ask_for_what_there_is() -> None:
    text = RULES.read_text()
    assert text.count("- alert:") >= 15
    assert wrong(text) == []
    assert wrong(TESTS.read_text()) == []


def test_every_alert_is_seen_to_fire_and_to_be_silent() -> None:
    """By the tests of promtool, which says below that they are true."""
    cases = re.split(r"^ +- eval_time:", TESTS.read_text(), flags=re.MULTILINE)[1:]
    fired: set[str] = set()
    silent: set[str] = set()
    for case in cases:
        found = re.search(r"alertname: (\w+)", case)
        assert found is not None
        (fired if "exp_alerts:" in case else silent).add(found[1])
    assert fired == silent == {*re.findall(r"- alert: (\w+)", RULES.read_text())}


def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("no promtool (Debian: apt-get install prometheus)")
    return found


def test_every_query_of_the_dashboard_is_one(tmp_path: Path) -> None:
    """Each as a recording rule, which promtool parses."""
    queries = [*queries_of(json.loads(DASHBOARD.read_text())), "sum by (("]
    for names, is_good in ((queries[:-1], True), (queries[-1:], False)):
        rules = [{"record": f"query_{n}", "expr": query} for n, query in enumerate(names)]
        file = tmp_path / "queries.yml"
        file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
        done = subprocess.run(
            [promtool(), "check", "rules", "--lint=none", str(file)],
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert (done.returncode == 0) == is_good, done.stdout + done.stderr
    assert len(queries) > 40


@pytest.mark.parametrize("command", [["check", "rules", RULES.name], ["test", "rules", TESTS.name]])
def test_prometheus_takes_the_rules(command: list[str]) -> None:
    done = subprocess.run(
        [promtool(), *command], cwd=RULES.parent, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
