"""docs/configuration.md holds every setting, and whether it changes live."""

from __future__ import annotations

import re
from pathlib import Path

from proxy_engine.agent.reload import LIVE as AGENT_LIVE
from proxy_engine.agent.reload import RESTART
from proxy_engine.grants import Limits, Scopes
from proxy_engine.reload import LIVE
from proxy_engine.settings.config import CLIENT_KEYS, KEYS

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
    assert {name for name, changes in ROWS.items() if changes == "live"} == LIVE.keys() | AGENT_LIVE
    assert AGENT_LIVE - LIVE.keys() <= CLIENT_KEYS


def test_every_scope_and_limit_of_tokens_is_documented() -> None:
    text = (DOCS.parent / "operations.md").read_text()
    kinds = {name.removesuffix("s").replace("_", "-") for name in Scopes.__struct_fields__}
    documented = set(re.findall(r"`([a-z-]+)(?:=[^`]*)?`", text))
    assert not kinds - documented
    assert not set(Limits.__struct_fields__) - documented


def test_a_setting_of_connect_changes_live_or_waits() -> None:
    table = re.findall(
        r"^\| (`\w+`(?:, `\w+`)*) \|[^|]*\|([^|]*)\|", DOCS.read_text(), re.MULTILINE
    )
    of_connect = {
        name for names, of in table if "connect" in of for name in re.findall(r"\w+", names)
    }
    assert of_connect == AGENT_LIVE | RESTART
