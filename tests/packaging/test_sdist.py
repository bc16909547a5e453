"""What people install: the sdist, the wheel made from it, and that wheel in a clean venv.

The tree is copied first: setuptools would otherwise find file lists and objects of
earlier builds in it and hide what a fresh clone lacks.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

pytestmark = [pytest.mark.packaging, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "proxy" / "proxy_engine" / "cli" / "demo.py"
SOURCE_SUFFIXES = {".py", ".pyi", ".pyx", ".pxd", ".pxi", ".h", ".typed"}
LEFT_OUT = shutil.ignore_patterns(
    ".*", "build", "dist", "*.so", "*.egg-info", "__pycache__", "results"
)


def run(*command: str | Path, cwd: Path) -> str:
    """Run without our build switches, so that what is built is what users get."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("PROXY_ENGINE_") and name not in ("PYTHONPATH", "CFLAGS")
    }
    done = subprocess.run(
        command,
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_a_build_without_openssl_refuses_tls_in_one_line(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    shutil.copytree(ROOT, tree, ignore=LEFT_OUT)
    run(
        *("env", "PROXY_ENGINE_OPENSSL=none", sys.executable, "setup.py", "--quiet"),
        *("build_ext", "--inplace"),
        cwd=tree,
    )
    ask = (
        "from proxy_engine_core import core\n"
        "core.Engine('server').stop()\n"
        "try: core.TlsClient('web.test')\n"
        "except ValueError as error: print(repr(core.TLS_LIBRARY), error)\n"
    )
    said = run("env", f"PYTHONPATH={tree / 'engine'}", sys.executable, "-c", ask, cwd=tree)
    assert said.startswith("'' this build has no TLS: ")
    assert said.count("\n") == 1


def source_files(*folders: str) -> list[str]:
    return sorted(
        str(path.relative_to(ROOT))
        for folder in folders
        for path in (ROOT / folder).rglob("*")
        if path.suffix in SOURCE_SUFFIXES or path.name == "py.typed"
    )


def extension_names() -> list[str]:
    engine = ROOT / "engine"
    return sorted(
        ".".join(path.relative_to(engine).with_suffix("").parts)
        for path in engine.rglob("*.pyx")
        if not {"_testing", "without_tls"} & set(path.parts)
    )


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sdist")
    shutil.copytree(ROOT, folder / "tree", ignore=LEFT_OUT)
    run(
        *(sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", folder),
        cwd=folder / "tree",
    )
    [archive] = folder.glob("*.tar.gz")
    return archive


@pytest.fixture(scope="module")
def sdist_names(sdist: Path) -> list[str]:
    with tarfile.open(sdist) as archive:
        names = [member.name for member in archive.getmembers() if member.isfile()]
    return sorted(name.partition("/")[2] for name in names)


@pytest.fixture(scope="module")
def wheel(sdist: Path) -> Path:
    # In an isolated environment: this is what `pip install` does with an sdist.
    folder = sdist.parent
    pip = (sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", folder)
    run(*pip, sdist, cwd=folder)
    [archive] = folder.glob("*.whl")
    return archive


@pytest.fixture(scope="module")
def wheel_names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return sorted(name for name in archive.namelist() if not name.endswith("/"))


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Path:
    """The bin folder of a venv that holds our wheel and what it depends on."""
    folder = wheel.parent / "venv"
    venv.create(folder, with_pip=True)
    run(folder / "bin" / "python", "-m", "pip", "install", wheel, cwd=wheel.parent)
    return folder / "bin"


def with_suffix(names: Sequence[str], *suffixes: str) -> list[str]:
    return [name for name in names if name.endswith(suffixes)]


def test_sdist_holds_every_source(sdist_names: list[str]) -> None:
    assert set(source_files("engine", "proxy", "tests")) - set(sdist_names) == set()


@pytest.mark.parametrize(
    "name",
    ["LICENSE", "README.md", "CHANGELOG.md", "MANIFEST.in", "pyproject.toml", "setup.py"],
)
def test_sdist_holds_what_a_build_and_a_packager_need(sdist_names: list[str], name: str) -> None:
    assert name in sdist_names


def test_sdist_holds_nothing_generated(sdist_names: list[str]) -> None:
    assert with_suffix(sdist_names, ".so", ".o", ".pyc", ".whl") == []
    c_files = with_suffix(sdist_names, ".c")
    ours = {"benchmarks/reference", "fuzz", "tests/native"}
    assert {name.rpartition("/")[0] for name in c_files} <= ours
    assert [name for name in sdist_names if name.startswith(("build/", "dist/"))] == []


def test_wheel_holds_every_extension(wheel_names: list[str]) -> None:
    built = {name.partition(".")[0].replace("/", ".") for name in with_suffix(wheel_names, ".so")}
    assert built == set(extension_names())


def test_wheel_holds_our_two_packages_and_nothing_else(wheel_names: list[str]) -> None:
    tops = {name.partition("/")[0] for name in wheel_names}
    assert {top for top in tops if not top.endswith(".dist-info")} <= {
        "proxy_engine",
        "proxy_engine_core",
    }


def test_wheel_holds_neither_sources_of_extensions_nor_test_helpers(
    wheel_names: list[str],
) -> None:
    assert with_suffix(wheel_names, ".pyx", ".pxd", ".c", ".h") == []
    assert [name for name in wheel_names if "_testing" in name or "tests/" in name] == []


def test_wheel_is_typed(wheel_names: list[str]) -> None:
    expected = {
        name.partition("/")[2]
        for name in source_files("engine", "proxy")
        if name.endswith((".pyi", "py.typed")) and "_testing" not in name
    }
    assert "proxy_engine_core/py.typed" in expected
    assert expected - set(wheel_names) == set()


def test_wheel_holds_every_module_of_the_control_plane(wheel_names: list[str]) -> None:
    modules = {name.partition("/")[2] for name in source_files("proxy") if name.endswith(".py")}
    assert modules - set(wheel_names) == set()


def test_sdist_and_wheel_hold_the_pages(sdist_names: list[str], wheel_names: list[str]) -> None:
    proxy = ROOT / "proxy"
    pages = {path.relative_to(proxy).as_posix() for path in proxy.rglob("static/*")}
    assert "proxy_engine/api/static/docs.html" in pages
    assert pages - set(wheel_names) == set()
    assert {f"proxy/{page}" for page in pages} - set(sdist_names) == set()


def test_wheel_carries_its_licence_its_command_and_its_fixtures(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name.partition(".dist-info/")[2]: name for name in archive.namelist()}
        assert "Apache License" in archive.read(names["licenses/LICENSE"]).decode()
        entries = archive.read(names["entry_points.txt"]).decode()
        assert "proxy-engine = proxy_engine.cli:main" in entries
        assert "[pytest11]\nproxy_engine.testing = proxy_engine.testing" in entries
        about = archive.read(names["METADATA"]).decode()
        assert "Provides-Extra: otlp\n" in about
        assert re.search(r"^Requires-Dist: opentelemetry-proto.*; extra == .otlp.$", about, re.M)


def test_every_extension_imports_from_a_clean_venv(installed: Path, tmp_path: Path) -> None:
    modules = ["proxy_engine_core", *extension_names()]
    code = f"import importlib\nfor name in {modules}:\n    importlib.import_module(name)\n"
    run(installed / "python", "-I", "-c", code, cwd=tmp_path)


@pytest.mark.skipif(not DEMO.exists(), reason="there is no demo command in this tree")
def test_demo_runs_from_a_clean_venv(installed: Path, tmp_path: Path) -> None:
    run(installed / "proxy-engine", "demo", "--once", cwd=tmp_path)
