"""Where tests find a MongoDB: PROXY_ENGINE_TEST_MONGO_URI, or a server of their own.

Their own is mongoeco, which wants Python 3.13 and lives in .venv-mongo (made here the first
time, from the package index). Without such a Python the tests that need it are skipped and
say so.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
VENV = ROOT / ".venv-mongo"
REQUIREMENTS = ("mongoeco==4.11.0", "pymongo>=4.20,<5")  # its wire server reads BSON with it
SCRIPT = Path(__file__).parent / "mongo_wire.py"
URI_VARIABLE = "PROXY_ENGINE_TEST_MONGO_URI"


class MongoServer:
    """One process; start() after stop() takes the same port, and the same data if it has a
    file."""

    def __init__(self, python: Path, file: Path | None = None) -> None:
        self._python = python
        self._file = file
        self._port = 0
        self._process: subprocess.Popen[str] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def uri(self) -> str:
        return f"mongodb://127.0.0.1:{self._port}"

    def start(self) -> None:
        self._process = subprocess.Popen(
            [self._python, SCRIPT, str(self._port), *([self._file] if self._file else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the MongoDB server did not start"
        self._port = int(line.rpartition(":")[2])

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


@functools.cache
def python_with_mongoeco() -> Path | str:
    """Its path, or why there is none."""
    python = VENV / "bin" / "python"
    done = VENV / "-".join(REQUIREMENTS)
    if done.exists():
        return python
    base = next(filter(_is_new_enough, _pythons()), None)
    if base is None:
        return "no Python 3.13 for a MongoDB server to test with, and no " + URI_VARIABLE
    try:
        commands: tuple[list[Path | str], ...] = (
            [base, "-m", "venv", "--clear", VENV],
            [python, "-m", "pip", "install", "--quiet", *REQUIREMENTS],
        )
        for command in commands:
            subprocess.run(command, check=True, capture_output=True, timeout=300)
    except (OSError, subprocess.SubprocessError) as error:
        return f"no MongoDB server to test with: {error}"
    done.touch()
    return python


def _pythons() -> Iterator[Path | str]:
    yield sys.executable
    yield from ("python3.13", "python3.14")
    yield from sorted(Path("~/.pyenv/versions").expanduser().glob("3.1[3-9]*/bin/python"))


def _is_new_enough(python: Path | str) -> bool:
    check = "import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 13))"
    try:
        return not subprocess.run([python, "-c", check], capture_output=True, timeout=30).returncode
    except (OSError, subprocess.SubprocessError):
        return False


def mongo_server(file: Path | None = None) -> Iterator[MongoServer]:
    """A running server of the test's own; skips where there can be none."""
    found = python_with_mongoeco()
    if isinstance(found, str):
        pytest.skip(found)
    server = MongoServer(found, file)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def mongo_uri() -> Iterator[str]:
    """Somebody else's server if there is one, else our own."""
    given = os.environ.get(URI_VARIABLE)
    if given:
        yield given
        return
    for server in mongo_server():
        yield server.uri


if __name__ == "__main__":  # scripts/test: made before the first test waits for it
    print((os.environ.get(URI_VARIABLE) and "the one of " + URI_VARIABLE) or python_with_mongoeco())
