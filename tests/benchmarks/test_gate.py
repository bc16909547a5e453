"""The gate fails a build that got slower: a copy of this tree whose parser dawdles.

The copy is patched and built here; the product has no switch for it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.counted import count
from benchmarks.targets import read_baseline

ROOT = Path(__file__).resolve().parents[2]
PATCHED = "engine/proxy_engine_core/http1/field.pyx"
BEFORE = "    head.field_count = 0\n"
DAWDLING = """\
    cdef volatile uint32_t dawdled = 0
    while dawdled < 400:
        dawdled += 1
"""
TARGETS = "code-server,code-many"

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(count.unavailable() is not None, reason=str(count.unavailable())),
]


def gate(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    paths = (ROOT, ROOT / "engine", ROOT / "proxy")
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", "gate", "--only", TARGETS, "--root", str(root),
         *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=500,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))},
    )  # fmt: skip


@pytest.fixture(scope="module")
def slowed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("slowed")
    for name in ("engine", "proxy", "build/cython", "build/temp"):
        for source in ROOT.glob(f"{name}*"):
            copy = root / source.relative_to(ROOT)
            if source.is_dir():
                shutil.copytree(source, copy)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, root)
    patched = root / PATCHED
    text = patched.read_text()
    assert text.count(BEFORE) == 1, f"{PATCHED} is not what this test patches any more"
    patched.write_text(text.replace(BEFORE, BEFORE + DAWDLING))
    done = subprocess.run(
        [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"],
        cwd=root, capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return root


@pytest.mark.skipif(
    not read_baseline(count.compiler_version()).get("code-many"),
    reason="the recorded baseline is another compiler's",
)
def test_a_build_that_dawdles_fails_the_gate_and_this_one_does_not(slowed: Path) -> None:
    done = gate(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 measured, 0 missed" in done.stdout

    done = gate(slowed)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "SLOWER than" in done.stdout
    assert "2 measured, 2 missed" in done.stdout
    assert "missed: code-server: SLOWER" in done.stderr


def test_a_target_that_is_none_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "gate", "--only", "nothing-like-it"],
        cwd=ROOT, capture_output=True, text=True, timeout=60,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'engine'}:{ROOT / 'proxy'}"},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (1, "failed: no target begins with nothing-like-it\n")
