"""A few callers and calls, every n. The rest is for scripts/fail-nth: it takes twenty minutes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def interposer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    library = tmp_path_factory.mktemp("failnth") / "failnth.so"
    flags = ["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O1", "-fPIC", "-shared", "-pthread"]
    subprocess.run(
        ["gcc", *flags, str(ROOT / "tests/native/failnth.c"), "-o", str(library), "-ldl"],
        check=True,
    )
    return library


# Each of these has broken the law before.
@pytest.mark.parametrize(
    ("carrier", "only"),
    [
        ("raw", "0 getsockname"),
        ("raw", "1 alloc"),
        ("raw", "2 alloc"),
        ("direct", "2 splice"),
        ("direct", "2 fcntl"),
        ("direct", "1 epoll_ctl"),
    ],
)
def test_the_law_holds_whichever_call_fails(interposer: Path, carrier: str, only: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.fail_nth", "--carrier", carrier, "--only", only],
        cwd=ROOT,
        env={**os.environ, "LD_PRELOAD": str(interposer), "PYTHONPATH": "engine:proxy:."},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " runs in " in done.stdout
