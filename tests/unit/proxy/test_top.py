"""Rates of two looks, and how they are shown."""

from __future__ import annotations

from typing import Any

import pytest

from proxy_engine.cli.top_rates import percentiles, rates
from proxy_engine.cli.top_view import View

BOUNDS = [1000, 2500, 5000]


def tunnel(name: str = "web", device: str | None = "pi", **counts: int) -> dict[str, Any]:
    zero = dict.fromkeys(
        ("open", "requests", "bytes_in", "bytes_out", "refused", "client_errors", "server_errors",
         "aborted"), 0,
    )  # fmt: skip
    durations = [counts.pop("fast", 0), 0, 0, counts.pop("slow", 0)]
    return {"name": name, "kind": "http", "device": device, "durations": durations} | zero | counts


def look(at: float, *tunnels: dict[str, Any], cpu_us: int = 0, **more: Any) -> dict[str, Any]:
    worker = {"worker": 0, "cpu_us": cpu_us, "connections": 3, "requests": 7, "buffer_bytes": 9}
    return {
        "at": at, "started_at": 100.0, "version": "1.2.3", "status": "ok", "links": 1,
        "workers": [worker], "devices": [{"name": "pi", "links": 1, "since": 150.0}],
        "tunnels": list(tunnels), "unrouted": 0, "bounds_us": BOUNDS,
    } | more  # fmt: skip


def test_two_looks_make_rates() -> None:
    before = look(200, tunnel(requests=10, bytes_out=1000, fast=10), cpu_us=500_000)
    after = look(
        202, tunnel(requests=30, bytes_out=5000, server_errors=2, open=4, fast=30), cpu_us=1_500_000
    )
    found = rates(before, after)
    assert (found.seconds, found.requests, found.bytes_out, found.open) == (2, 10, 2000, 4)
    assert found.server_errors == 1
    assert found.workers[0].cpu == pytest.approx(0.5)
    assert found.tunnels[0].latency_ms == {"p50": 0.5, "p90": 0.9, "p99": 0.99}
    assert found.devices[0].requests == 10
    assert (found.devices[0].up_s, found.up_s) == (52, 102)


def test_a_server_that_was_started_again_begins_at_nothing() -> None:
    before = look(200, tunnel(requests=1000))
    after = look(202, tunnel(requests=4), started_at=201.0)
    assert rates(before, after).requests == pytest.approx(4)


def test_a_tunnel_that_was_made_again_begins_at_nothing() -> None:
    found = rates(
        look(200, tunnel(requests=1000, fast=1000)), look(202, tunnel(requests=4, fast=4))
    )
    assert found.requests == pytest.approx(2)
    assert rates(look(200), look(202, tunnel(requests=4))).requests == pytest.approx(2)


def test_percentiles_of_buckets() -> None:
    assert percentiles([0, 0, 0, 0], BOUNDS) == {}
    assert percentiles([0, 100, 0, 0], BOUNDS) == {"p50": 1.75, "p90": 2.35, "p99": 2.485}
    # What is longer than all bounds is said to be as long as the last one.
    assert percentiles([0, 0, 0, 5], BOUNDS) == {"p50": 5.0, "p90": 5.0, "p99": 5.0}


def shown(view: View, *tunnels: dict[str, Any], width: int = 120, height: int = 24) -> list[str]:
    old = [tunnel(each["name"], each["device"]) for each in tunnels]
    return view.lines(rates(look(200, *old), look(201, *tunnels)), "", width, height)


def names(lines: list[str]) -> list[str]:
    start = next(index for index, line in enumerate(lines) if line.startswith("TUNNEL"))
    return [line.split()[0] for line in lines[start + 1 : -1] if line]


def test_keys_sort_and_quit() -> None:
    view = View("http://x", colour=False)
    rows = (
        tunnel("a", requests=1, bytes_in=9_000),
        tunnel("b", requests=5, slow=5),
        tunnel("c", requests=3, server_errors=2, open=8, fast=3),
    )
    for key, order in {
        "r": "bca", "b": "abc", "o": "cab", "l": "bca", "e": "cab", "n": "abc", "x": "abc",
    }.items():  # fmt: skip
        assert view.press(key)
        assert names(shown(view, *rows)) == list(order), key
    assert view.press("d")
    assert any(line.startswith("DEVICE") for line in shown(view, *rows))
    assert view.press("p")
    assert "PAUSED" in shown(view, *rows)[-1]
    assert not view.press("q")
    assert not view.press("\x03")


@pytest.mark.parametrize(("width", "height"), [(20, 6), (40, 8), (80, 24), (200, 50)])
def test_it_keeps_within_the_terminal(width: int, height: int) -> None:
    rows = [tunnel(f"tunnel-{number}", requests=number) for number in range(60)]
    lines = shown(View("http://a.very.long.name.example:8081", colour=False), *rows,
                  width=width, height=height)  # fmt: skip
    assert len(lines) <= height
    assert all(len(line) <= width for line in lines)
    if height > 20:
        assert any(line.startswith("... and") for line in lines)


def test_what_others_named_does_not_reach_the_terminal() -> None:
    lines = shown(View("http://x", colour=False), tunnel("web", "pi\x1b[2J", requests=1))
    assert not any("\x1b" in line for line in lines)


def test_a_server_that_does_not_answer_is_said() -> None:
    view = View("http://x", colour=False)
    assert view.lines(None, "", 80, 24) == ["asking http://x ..."]
    assert view.lines(None, "Connection refused", 80, 24)[0].startswith("Connection refused")
    bad = look(201, status="stuck")
    assert "stuck" in view.lines(rates(look(200), bad), "", 80, 24)[0]
