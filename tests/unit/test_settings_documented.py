"""docs/configuration.md holds every setting, and whether it changes live."""

from __future__ import annotations

import re
from pathlib import Path

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
