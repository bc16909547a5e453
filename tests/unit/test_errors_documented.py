"""docs/errors.md, and docs/api.md for the API, hold every reason that the sources can give."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTED = {
    name
    for page in ("errors.md", "api.md")
    for name in re.findall(r"`([a-z0-9_]+)`", (ROOT / "docs" / page).read_text())
}

# How each kind of source spells a reason.
SPELLINGS = {
    "engine/**/head_error.h": r'\{\d+, "([a-z_]+)"',
    "engine/**/*.pyx": r'(?:_fail|_close|protocol_error)\(\s*\w+, (?:\d+, )?b"([a-z_]+)"',
    "engine/**/admission.pyx": r'\d{3}, b"([a-z_]+)"',
    "engine/**/gate.pyx": r'b"([a-z_]+)"',
    "engine/**/flood.pyx": r'return b"([a-z_]+)"',
    "proxy/**/handshake.py": r'Refusal\(\s*(?:\d+|status),\s*"([a-z_]+)"',
    "proxy/**/admission.py": r'Refusal\(\s*\d+,\s*"([a-z_]+)"',
    "proxy/**/links/table.py": r'Refusal\(\s*\d+,\s*"([a-z_]+)"',
    "proxy/**/links/links.py": r'(?:_close\(\w+,|reason =)\s*"([a-z_]+)"',
    "proxy/**/registration.py": r'(?:Error\(|reason =)\s*"([a-z_]+)"',
    "proxy/proxy_engine/tokens.py": r'return "([a-z_]+)"',
    "proxy/**/tunnels/routes.py": r'return "([a-z_]+)", "',
    "proxy/**/control.py": r'BadRecord\("([a-z_]+)"',
    "proxy/**/agent/agent.py": r'(?:link_close\(\w+,|return) "([a-z_]+)"',
    "proxy/**/link_keeper.py": r'link_close\(\w+, "([a-z_]+)"',
    "proxy/**/hooks/errors.py": r'reason="([a-z_]+)" if .* else "[a-z_]+"',
}
# ... and how all of the control plane does, wherever it stands.
EVERYWHERE = {
    "an answer": r'\b(?:Refusal|Problem)\(\s*[\w.]+,\s*"([a-z_]+)"',
    "a code": r'\b(?:NotPushed|NotTaken|BadRecord|control\.Error)\(\s*"([a-z_]+)"',
    "a reason": r'\breason ?= ?"([a-z_]+)"',
}


def found(pattern: str, spelling: str) -> set[str]:
    return {
        reason
        for path in ROOT.glob(pattern)
        if "_testing" not in path.parts
        for reason in re.findall(spelling, path.read_text())
    }


@pytest.mark.parametrize(("pattern", "spelling"), SPELLINGS.items(), ids=SPELLINGS)
def test_every_reason_is_documented(pattern: str, spelling: str) -> None:
    reasons = found(pattern, spelling)
    assert reasons, "the spelling has changed: nothing is found any more"
    assert not reasons - DOCUMENTED


@pytest.mark.parametrize("what", EVERYWHERE)
def test_every_reason_of_the_control_plane_is_documented(what: str) -> None:
    reasons = found("proxy/**/*.py", EVERYWHERE[what])
    assert reasons
    assert not reasons - DOCUMENTED
