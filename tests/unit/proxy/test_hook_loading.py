"""Hooks by name, and the one line that is said of a name that is no good."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from proxy_engine.errors import UsageError
from proxy_engine.hooks import Hook, loading
from proxy_engine.hooks.builtin.logger import Logger

SOURCE = """
from proxy_engine.hooks import Hook

class Good(Hook):
    def __init__(self, path="x", *, depth=1):
        self.path, self.depth = path, depth

class Bad(Hook):
    def __init__(self):
        raise RuntimeError("no disk\\nat all")

class Other:
    pass
"""


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "some_hooks.py").write_text(SOURCE)
    (tmp_path / "broken_hooks.py").write_text("import some_hooks\nraise ValueError('half done')\n")
    (tmp_path / "needs_hooks.py").write_text("import not_there_at_all\n")
    (tmp_path / "exits_hooks.py").write_text("raise SystemExit('bye')\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    yield
    for name in ("some_hooks", "broken_hooks", "needs_hooks", "exits_hooks"):
        sys.modules.pop(name, None)


def one(name: str, **options: object) -> Hook:
    [hook] = loading.load([name], {name: options} if options else {}).values()
    return hook


def test_a_class_of_a_module_gets_its_options() -> None:
    hook = one("some_hooks:Good", path="y", depth=3, queue=5, timeout=2, fail_open=True)
    assert type(hook).__name__ == "Good"
    assert vars(hook) == {
        "path": "y", "depth": 3, "queue": 5, "timeout": 2.0, "fail_open": True, "name": "",
    }  # fmt: skip
    assert Hook.queue == 10_000


def test_built_in_hooks_have_short_names() -> None:
    options: dict[str, dict[str, object]] = {"token_auth": {"rules": []}}
    found = loading.load(list(loading.BUILT_IN), options).values()
    assert [hook.name for hook in found] == list(loading.BUILT_IN)
    assert isinstance(one("logger", sample=100), Logger)


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("lgger", {}, 'there is no hook "lgger", did you mean "logger"?; or write module:Class'),
        ("nowhere:A", {}, "HOOK: there is no module nowhere; is it installed, or in PYTHONPATH?"),
        ("no.where:A", {}, "HOOK: there is no module no; is it installed, or in PYTHONPATH?"),
        ("some_hooks:God", {}, 'HOOK: some_hooks has no "God", did you mean "Good"?'),
        ("some_hooks:Other", {}, "HOOK: Other is no subclass of proxy_engine.hooks.Hook"),
        ("some_hooks:Bad", {}, "HOOK can not be made: RuntimeError: no disk"),
        ("some_hooks:Good", {"a": 1}, "HOOK: got an unexpected keyword argument 'a'"),
        ("some_hooks:Good", {"queue": "big"}, "HOOK: queue is 'big', not of type int"),
        ("some_hooks:Good", {"workers": 0}, "HOOK: workers is 0, less than 1"),
        ("broken_hooks:A", {}, "HOOK can not be imported: ValueError: half done"),
        ("needs_hooks:A", {}, "HOOK can not be imported: No module named 'not_there_at_all'"),
        ("exits_hooks:A", {}, "HOOK can not be imported: SystemExit: bye"),
        ("token_auth", {}, "HOOK: missing a required argument: 'rules'"),
        (
            "certificate_auth",
            {"names": ["x"]},
            'HOOK can not be made: ValueError: "x" is not cn:NAME, dns:NAME or uri:URI',
        ),
    ],
)
def test_what_can_not_be_loaded_is_said_in_one_line(
    name: str, options: dict[str, object], text: str
) -> None:
    with pytest.raises(UsageError) as caught:
        one(name, **options)
    assert str(caught.value) == text.replace("HOOK", f'hook "{name}"')


def test_options_of_a_hook_that_is_not_there_are_a_mistake() -> None:
    text = 'hook_options: "loger" is not in hooks, did you mean "logger"?'
    with pytest.raises(UsageError) as caught:
        loading.load(["logger"], {"loger": {}})
    assert str(caught.value) == text


def test_entry_points_are_loaded_by_name_or_all_together(monkeypatch: pytest.MonkeyPatch) -> None:
    points = {
        name: EntryPoint(name, "some_hooks:Good", loading.GROUP) for name in ("audit", "billing")
    }
    monkeypatch.setattr(loading, "entry_points", lambda: points)
    assert type(one("audit", depth=2)).__name__ == "Good"
    assert len(loading.load(["logger", "*"], {"billing": {"depth": 3}})) == 3
    assert len(loading.load(["billing", "*"], {})) == 2  # each once


def test_a_hook_whose_options_are_the_same_stays() -> None:
    options: dict[str, dict[str, object]] = {"some_hooks:Good": {"depth": 2}}
    before = loading.load(["logger", "some_hooks:Good"], options)
    after = loading.load(["some_hooks:Good", "metrics"], options, before)
    assert next(iter(after.values())) is list(before.values())[1]
    other = loading.load(["some_hooks:Good"], {"some_hooks:Good": {"depth": 3}}, before)
    assert next(iter(other.values())) is not list(before.values())[1]
