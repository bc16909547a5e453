"""simd.h and http1/scan.h on arm64: cross-compiled, and run under an emulator.

The wheel's NEON source is this one; nobody should have to own such a machine to know that
it works. `apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user` brings
what is needed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "tests" / "native" / "simd_vectors.c"
FLAGS = ["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-Wno-unused-function", "-Wno-psabi"]
CROSS = "aarch64-linux-gnu-gcc"
EMULATOR = next(filter(shutil.which, ["qemu-aarch64", "qemu-aarch64-static"]), None)


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    # Not under the sanitizers of the Python that runs this.
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=100, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done


def compiled(compiler: list[str], folder: Path, *more: str) -> Path:
    program = folder / "simd_vectors"
    include = ROOT / "engine" / "proxy_engine_core"
    run(*compiler, *FLAGS, f"-I{include}", *more, SOURCE, "-o", program)
    return program


@pytest.mark.skipif(shutil.which(CROSS) is None, reason=f"no {CROSS} here")
@pytest.mark.skipif(EMULATOR is None, reason="no qemu-aarch64 here")
@pytest.mark.parametrize("level", ["-O3", "-O1"])
def test_the_neon_code_agrees_with_the_plain_way(tmp_path: Path, level: str) -> None:
    assert EMULATOR is not None
    program = compiled([CROSS], tmp_path, level, "-static")
    assert run(EMULATOR, program).stdout.startswith("aarch64: ")


@pytest.mark.skipif(shutil.which(CROSS) is None, reason=f"no {CROSS} here")
def test_the_neon_code_is_neon(tmp_path: Path) -> None:
    assembly = tmp_path / "simd_vectors.s"
    include = ROOT / "engine" / "proxy_engine_core"
    subprocess.run([CROSS, *FLAGS, f"-I{include}", "-O3", "-S", SOURCE, "-o", assembly], check=True)
    text = assembly.read_text()
    assert "eor\tv" in text  # masking
    assert "cmeq\tv" in text  # scanning


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc here")
def test_the_same_vectors_under_the_sanitizers_on_this_machine(tmp_path: Path) -> None:
    program = compiled(
        ["gcc"], tmp_path, "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"
    )
    run(program)
