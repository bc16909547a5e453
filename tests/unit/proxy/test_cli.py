"""The command line as users meet it: a process with an exit code and two streams."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from proxy_engine.cli import main
from proxy_engine.cli.process_title import without
from proxy_engine.storage.sqlite import SqliteStore
from proxy_engine.storage.sqlite.database import DATABASE_NAME
from proxy_engine_core import log_batch
from proxy_engine_core.core import LogRecord

ROOT = Path(__file__).resolve().parents[3]
ENVIRON = {
    **{name: value for name, value in os.environ.items() if not name.startswith("PROXY_ENGINE_")},
    "PYTHONPATH": f"{ROOT / 'engine'}:{ROOT / 'proxy'}",
}


def run(*args: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "proxy_engine", *args],
        env={**ENVIRON, **environ},
        capture_output=True,
        text=True,
        timeout=20,
        stdin=subprocess.DEVNULL,
    )


def one_error(result: subprocess.CompletedProcess[str], code: int) -> str:
    assert result.returncode == code, result.stderr
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1, result.stderr
    assert result.stderr.startswith("proxy-engine: error: ")
    return result.stderr


def test_version_and_help() -> None:
    assert re.fullmatch(r"proxy-engine \d+\.\d+\.\d+\S*\n", run("--version").stdout)
    help_text = run("--help")
    assert help_text.returncode == 0
    for verb in ("run", "connect", "token", "requests", "demo"):
        assert verb in help_text.stdout


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom proxy_engine.cli import main\nmain(['--help'])\n"
        "heavy = {'asyncio', 'aiohttp', 'msgspec', 'rich', 'sqlite3', 'uvloop'}\n"
        "sys.exit(1 if heavy & set(sys.modules) else 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], env=ENVIRON, capture_output=True)
    assert result.returncode == 0


@pytest.mark.parametrize(
    ("args", "text"),
    [
        ([], "VERB"),
        (["rnu"], "rnu"),
        (["run", "--listn", "x"], 'did you mean "--listen"'),
        (["run", "--listen", "8080"], "--listen"),
        (["run", "--keep-requests", "x"], "--keep-requests"),
        (["run", "--config", "/nonexistent.toml"], "No such file"),
        (["connect", "--token", "t", "--http", "a=b:1"], "--server"),
        (["connect", "--server", "http://a", "--token", "t"], "--http"),
        (["connect", "--server", "http://a", "--http", "a=b:1"], "token"),
        (
            ["connect", "--server", "https://a", "--http", "a=b:1", "--token", "t", "--ca", "/no"],
            "/no",
        ),
        (["connect", "--server", "http://a", "--http", "a=b:1", "--token", "t\nx"], "characters"),
        (["connect", "--server", "http://a", "--http", "a=b:1", "--token-file", "/no"], "/no"),
        (["connect", "--server", "http://a", "--http", "A=b:1", "--token", "t"], "--http"),
        (["token", "create"], "--name"),
        (["token", "create", "--name", "a b"], "a b"),
        (["token", "create", "--name", "a", "--expires", "soon"], "--expires"),
        (["requests", "tail", "-n", "x"], "-n"),
    ],
)
def test_a_usage_error_is_one_line_and_2(
    args: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(args) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert text in captured.err


def test_a_typing_error_in_the_config_file_is_one_line_and_2(tmp_path: Path) -> None:
    (tmp_path / "proxy.toml").write_text('lsten = "0.0.0.0:80"\n')
    error = one_error(run("run", "--config", str(tmp_path / "proxy.toml")), 2)
    assert 'unknown key "lsten", did you mean "listen"?' in error


def test_a_mistyped_variable_is_one_line_and_2(tmp_path: Path) -> None:
    assert "PROXY_ENGINE_DATA_DIR" in one_error(
        run("token", "list", PROXY_ENGINE_DATADIR=str(tmp_path)), 2
    )


def test_tokens_are_made_listed_and_revoked_without_a_server(tmp_path: Path) -> None:
    where = ("--data-dir", str(tmp_path / "data"))
    made = run("token", "create", "--name", "pi", "--expires", "30d", *where)
    assert (made.returncode, made.stderr) == (0, "")
    assert re.fullmatch(r"pe_[A-Za-z0-9_-]{43}\n", made.stdout)
    assert "already" in one_error(run("token", "create", "--name", "pi", *where), 1)

    listed = run("token", "list", "--json", PROXY_ENGINE_DATA_DIR=str(tmp_path / "data"))
    [token] = json.loads(listed.stdout)
    assert (token["name"], token["kind"], token["device"]) == ("pi", "device", "pi")
    assert token["state"] == "live"
    plain = run("token", "list", *where)
    assert plain.stdout.splitlines()[1].split("\t")[:4] == ["pi", "device", "pi", "live"]
    assert made.stdout.strip() not in listed.stdout + plain.stdout

    assert run("token", "revoke", "pi", *where).returncode == 0
    assert "no live token" in one_error(run("token", "revoke", "pi", *where), 1)
    [token] = json.loads(run("token", "list", "--json", *where).stdout)
    assert token["state"] == "revoked"


def test_reading_verbs_make_no_database(tmp_path: Path) -> None:
    for verb in (["token", "list"], ["token", "revoke", "x"], ["requests", "tail"]):
        result = run(*verb, "--data-dir", str(tmp_path / "data"))
        assert "no database" in one_error(result, 1)
    assert not list(tmp_path.iterdir())


def test_a_corrupt_database_is_one_line_and_1(tmp_path: Path) -> None:
    (tmp_path / DATABASE_NAME).write_bytes(b"garbage " * 1000)
    assert "not a database" in one_error(run("token", "list", "--data-dir", str(tmp_path)), 1)


def test_a_newer_database_is_one_line_and_1(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / DATABASE_NAME) as db:
        db.execute("PRAGMA user_version = 999")
    assert "newer" in one_error(run("requests", "tail", "--data-dir", str(tmp_path)), 1)


def test_an_unexpected_error_is_one_line_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(args: object) -> int:
        raise RuntimeError("boom\nbang pe_" + "A" * 43)

    monkeypatch.setattr("proxy_engine.cli.token._list", fail)
    assert main(["token", "list"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "boom\\x0abang pe_[redacted]" in error


def test_requests_tail_prints_lines_and_json(tmp_path: Path) -> None:
    where = ("--data-dir", str(tmp_path))
    run("token", "create", "--name", "pi", *where)
    records = [
        LogRecord(
            number * 1_000_000, 0, 1, f"r{number}", "::1", "GET", "web.localhost",
            "/a\x1b[2J\n", 502, "refused", 0, 10, 2000, 12345, 0, 0,
        )
        for number in range(1, 4)
    ]  # fmt: skip

    async def add() -> None:
        store = await SqliteStore.open(tmp_path / DATABASE_NAME)
        await store.requests_add(log_batch.pack(records))
        await store.close()

    asyncio.run(add())
    tail = run("requests", "tail", "-n", "2", *where)
    assert tail.returncode == 0
    first, second = tail.stdout.splitlines()
    assert "502 GET" in first
    assert "12.3ms" in first
    assert "web.localhost/a\\x1b[2J\\x0a (refused) r2" in first
    assert second.endswith("r3")
    parsed = [
        json.loads(line) for line in run("requests", "tail", "--json", *where).stdout.splitlines()
    ]
    assert [item["request_id"] for item in parsed] == ["r1", "r2", "r3"]
    assert parsed[0]["path"] == "/a\x1b[2J\n"
    for words, found in ((["--status", "5xx", "-n", "1"], ["r3"]), (["--request-id", "r1"], ["r1"]),
                         (["--method", "POST"], [])):  # fmt: skip
        lines = run("requests", "tail", "--json", *words, *where).stdout.splitlines()
        assert [json.loads(line)["request_id"] for line in lines] == found


def test_a_closed_pipe_is_no_error(tmp_path: Path) -> None:
    run("token", "create", "--name", "pi", "--data-dir", str(tmp_path))
    read, write = os.pipe()
    os.close(read)
    result = subprocess.run(
        [sys.executable, "-m", "proxy_engine", "token", "list", "--data-dir", str(tmp_path)],
        env=ENVIRON,
        stdout=write,
        stderr=subprocess.PIPE,
        timeout=20,
    )
    os.close(write)
    assert (result.returncode, result.stderr) == (0, b"")


def test_a_token_is_taken_out_of_the_arguments_in_both_spellings() -> None:
    assert without(["-m", "x", "connect", "--token", "t", "--http", "a=b:1"], ["--token"]) == [
        "-m", "x", "connect", "--http", "a=b:1",
    ]  # fmt: skip
    assert without(["connect", "--token=t", "--token-file", "f"], ["--token"]) == [
        "connect", "--token-file", "f",
    ]  # fmt: skip
    assert without(["connect", "--token"], ["--token"]) == ["connect"]
