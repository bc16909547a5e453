"""Idle links cost the server little: benchmarks/load/idle_links.py holds its budget."""

from __future__ import annotations

import subprocess
import sys

from tests.e2e.processes import ENVIRON, ROOT

LINKS = 300


def test_idle_links_stay_within_their_budget() -> None:
    script = ROOT / "benchmarks" / "load" / "idle_links.py"
    done = subprocess.run(
        [sys.executable, str(script), "--links", str(LINKS), "--check"],
        env=ENVIRON, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith(f"{LINKS} idle links: ")
