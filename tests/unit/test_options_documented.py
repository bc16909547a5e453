"""docs/operations.md holds every option of the engine with its default and its range, and some page
of docs/ every counter."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

core = pytest.importorskip("proxy_engine_core.core", reason="the engine is not built")

DOCS = Path(__file__).resolve().parents[2] / "docs" / "operations.md"
ROWS = {
    name: (int(default), int(low), int(high))
    for name, default, low, high in re.findall(
        r"^\| `(\w+)` \| (\d+) \| (\d+) to (\d+) \|", DOCS.read_text(), re.MULTILINE
    )
}


def test_every_option_is_documented_with_its_default() -> None:
    assert {name: default for name, (default, _, _) in ROWS.items()} == core.DEFAULTS


@pytest.mark.parametrize("name", ROWS)
def test_the_documented_range_is_the_range(name: str) -> None:
    _, low, high = ROWS[name]
    core.Engine("agent", **{name: low})
    for outside in (low - 1, high + 1):
        with pytest.raises((ValueError, OverflowError)):
            core.Engine("agent", **{name: outside})


def test_every_counter_of_the_engine_is_documented() -> None:
    pages = "".join(page.read_text() for page in DOCS.parent.glob("*.md"))
    named = set(re.findall(r"`([a-z0-9_]+)`", pages))
    assert not {*core.Engine("server").stats(), *core.Engine("agent").stats()} - named
