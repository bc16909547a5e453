"""docs/configuration.md holds every setting, and whether it changes live."""

from __future__ import annotations

import re
from pathlib import Path

from proxy_engine.grants import Limits, Scopes
from proxy_engine.reload import LIVE
from proxy_engine.settings.config import KEYS

DOCS = Path(__file__).resolve().parents[2] / "docs" / "configuration.md"
ROWS = {
    name: changes.strip()
    for names, changes in re.findall(
        r"^\| (`\w+`(?:, `\w+`)*) \|[^|]*\|[^|]*\|([^|]*)\|", DOCS.read_text(), re.MULTILINE
    )
    for name in re.findall(r"\w+", names)
}


def test_every_setting_is_documented() -> None:
    assert set(ROWS) == set(KEYS)


def test_what_changes_live_is_documented() -> None:
    assert {name for name, changes in ROWS.items() if changes == "live"} == set(LIVE)


def test_every_scope_and_limit_of_tokens_is_documented() -> None:
    text = (DOCS.parent / "operations.md").read_text()
    kinds = {name.removesuffix("s").replace("_", "-") for name in Scopes.__struct_fields__}
    documented = set(re.findall(r"`([a-z-]+)(?:=[^`]*)?`", text))
    assert not kinds - documented
    assert not set(Limits.__struct_fields__) - documented
