"""`proxy-engine hook`: what there is to hear of, and what there is by name."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from proxy_engine.cli import main
from proxy_engine.hooks import Hook, loading, reference
from proxy_engine.hooks.manager import EVENTS


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "own_hooks.py").write_text(
        "from proxy_engine.hooks import Hook\n"
        "class Quiet(Hook):\n"
        "    workers = 3\n"
        "    def on_error(self, failure): pass\n"
        "class Wrong(Hook):\n"
        "    def on_eror(self, failure): pass\n"
    )
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    yield
    sys.modules.pop("own_hooks", None)


def test_events_are_listed_and_shown_with_their_fields(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["hook", "events"]) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in rows[1:]] == list(EVENTS)
    assert {row[0]: row[1:3] for row in rows}["on_request"] == ["told", "Sequence[Request]"]
    for name in ("tunnel_open", "on_tunnel_open"):
        assert main(["hook", "events", name]) == 0
        shown = capsys.readouterr().out
        assert shown.startswith("on_tunnel_open(TunnelOpen), asked. ")
        assert "\nport\tint | None\tpublic" in shown
    assert main(["hook", "events", "data", "--json"]) == 0
    [event] = json.loads(capsys.readouterr().out)
    assert event["is_batch"]
    assert {field["name"] for field in event["fields"]} >= {"at", "tunnel", "total_in"}


def test_an_event_that_there_is_not_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["hook", "events", "device_conect"]) == 2
    shown = capsys.readouterr().err
    assert 'no event "device_conect", did you mean "device_connect"' in shown


def test_what_is_here_by_name(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = EntryPoint("broken", "there.is.no:Such", loading.GROUP)
    monkeypatch.setattr(loading, "entry_points", lambda: {"broken": broken})
    assert main(["hook", "available"]) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()[1:]]
    assert [row[0] for row in rows] == [*sorted(loading.BUILT_IN), "broken"]
    assert rows[-1][2] == "there.is.no:Such"
    assert main(["hook", "available", "broken"]) == 2
    assert "there is no module there" in capsys.readouterr().err


def test_a_hook_is_shown_with_its_events_and_options(
    capsys: pytest.CaptureFixture[str], own: None
) -> None:
    assert main(["hook", "available", "webhook", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert "device_online" in found["events"]
    options = {each["name"]: each for each in found["options"]}
    assert options["url"]["default"] == '""'
    assert "clock" not in options  # no file of settings could hold one
    assert options["order"]["default"] == "1000"
    assert main(["hook", "available", "own_hooks:Quiet"]) == 0
    shown = capsys.readouterr().out
    assert "Events: error\n" in shown
    assert "\nworkers\tint\t3\t" in shown
    assert main(["hook", "available", "own_hooks:Wrong"]) == 1
    assert "on_eror is no event of hooks" in capsys.readouterr().err


def test_what_nobody_has_described_is_empty_and_not_made_up() -> None:
    class Bare(Hook):
        def __init__(self, path: str, *, on: Callable[[], None], names: Sequence[str] = ("a",)):
            pass

    assert reference.about(Bare) == ""
    assert reference.options(Bare) == [
        reference.Option("path", "str", "", ""),
        reference.Option("names", "Sequence[str]", '["a"]', ""),
    ]
