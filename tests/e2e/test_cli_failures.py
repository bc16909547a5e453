"""What can not work says so: one line on stderr, the right exit code, nothing half-started."""

from __future__ import annotations

import os
import socket
import sqlite3
import threading
from pathlib import Path

import pytest

from tests.e2e.processes import run
from tests.e2e.site import Site

LISTEN = ("--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0")
CONNECT = ("connect", "--server", "http://127.0.0.1:1", "--http", "web=127.0.0.1:1")
TOKEN = "pe_" + "A" * 43


def assert_fails(code: int, says: str, *args: str, **environ: str) -> None:
    result = run(*args, **environ)
    assert result.stdout == ""
    assert result.stderr.startswith("proxy-engine: error: ")
    assert result.stderr.count("\n") == 1, result.stderr
    assert says in result.stderr
    assert result.returncode == code


@pytest.mark.parametrize("which", ["--listen", "--admin"])
def test_a_port_in_use(tmp_path: Path, which: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = {"--listen": "127.0.0.1:0", "--admin": "127.0.0.1:0"}
        ports[which] = f"127.0.0.1:{taken.getsockname()[1]}"
        flags = [word for pair in ports.items() for word in pair]
        assert_fails(1, ports[which], "run", *flags, "--data-dir", str(tmp_path / "data"))
    assert list(tmp_path.iterdir()) == []


def test_an_address_that_is_not_ours(tmp_path: Path) -> None:
    flags = ("--listen", "192.0.2.1:0", "--admin", "127.0.0.1:0")
    assert_fails(1, "192.0.2.1", "run", *flags, "--data-dir", str(tmp_path / "data"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("lsiten = '127.0.0.1:0'", 'did you mean "listen"'),
        ("grace = 'soon'", "grace"),
        ("workers = true", "workers"),
        ("[engine]\nhead_timeot_ms = 5", 'did you mean "head_timeout_ms"'),
        ("[engine]\nhead_timeout_ms = 0", "head_timeout_ms"),
        ("[engine]\nhead_timeout_ms = 'x'", "head_timeout_ms"),
        ("listen = ", "not TOML"),
        ("http = { Web = '127.0.0.1:1' }", "http"),
    ],
)
def test_a_config_file_with_a_mistake(tmp_path: Path, text: str, says: str) -> None:
    config = tmp_path / "config.toml"
    config.write_text(text + "\n")
    data = tmp_path / "data"
    assert_fails(
        2, says, "run", "--config", str(config), "--data-dir", str(data),
        *([] if "listen" in text else LISTEN),
    )  # fmt: skip
    assert not data.exists()


def test_a_config_file_that_is_not_there(tmp_path: Path) -> None:
    assert_fails(2, "No such file", "run", "--config", str(tmp_path / "none"), *LISTEN)


def test_a_variable_with_a_typing_error(tmp_path: Path) -> None:
    assert_fails(2, "PROXY_ENGINE_DATA_DIR", "run", *LISTEN, PROXY_ENGINE_DATA_DIRR=str(tmp_path))


def test_a_data_dir_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert_fails(1, "file", "run", *LISTEN, "--data-dir", str(tmp_path / "file" / "data"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everything")
def test_a_data_dir_that_may_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir(mode=0o500)
    assert_fails(1, "data", "run", *LISTEN, "--data-dir", str(tmp_path / "data"))


@pytest.mark.parametrize("how", ["text", "header only", "torn", "of another program", "newer"])
def test_a_database_that_is_none_of_ours(tmp_path: Path, how: str) -> None:
    site = Site(tmp_path / "data")
    site.server.signal()
    assert site.server.exit_code() == 0
    path = tmp_path / "data" / "proxy-engine.sqlite"
    good = path.read_bytes()
    for extra in tmp_path.glob("data/*.sqlite-*"):
        extra.unlink()
    if how == "text":
        path.write_bytes(b"this is no database\n" * 500)
    elif how == "header only":
        path.write_bytes(good[:100])
    elif how == "torn":
        path.write_bytes(good[:100] + b"\xff" * (len(good) - 100))
    else:
        path.unlink()
        with sqlite3.connect(path) as database:
            if how == "newer":
                database.execute("PRAGMA user_version = 999")
            else:
                database.execute("CREATE TABLE tokens (other TEXT)")
        database.close()
    before = path.read_bytes()
    assert_fails(1, "proxy-engine.sqlite", "run", *LISTEN, "--data-dir", str(tmp_path / "data"))
    # Whatever it is, it is somebody's: not touched, but that a database is in WAL mode now.
    assert path.read_bytes()[100:] == before[100:]


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("connect",), "--server"),
        (("connect", "--server", "http://x"), "--http"),
        (("connect", "--server", "ftp://x", "--http", "web=127.0.0.1:1"), "ftp://x"),
        (("connect", "--server", "http://x:port", "--http", "web=127.0.0.1:1"), "x:port"),
        (("connect", "--server", "http://x/path", "--http", "web=127.0.0.1:1"), "path"),
        ((*CONNECT, "--http", "Web=127.0.0.1:1"), "Web"),
        ((*CONNECT, "--http", "web=127.0.0.1"), "web"),
        ((*CONNECT, "--transport", "quic"), "quic"),
        ((*CONNECT, "--token-file", "/nonexistent/token"), "/nonexistent/token"),
        ((*CONNECT, "--engine", "nonsense=1"), "nonsense"),
        ((*CONNECT, "--servr", "x"), "--server"),
        (("conect",), "connect"),
    ],
)
def test_a_command_line_with_a_mistake(args: tuple[str, ...], says: str) -> None:
    environ = {} if "--token-file" in args else {"PROXY_ENGINE_TOKEN": TOKEN}
    assert_fails(2, says, *args, **environ)


@pytest.mark.parametrize("token", ["", " ", "pe_with space", "pe_\x01"])
def test_a_token_that_can_not_be_one(token: str) -> None:
    assert_fails(2, "token", *CONNECT, PROXY_ENGINE_TOKEN=token)


def test_a_server_that_is_no_proxy_engine(tmp_path: Path) -> None:
    listener = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        peer, _ = listener.accept()
        peer.recv(65536)
        peer.sendall(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n"
            b"Upgrade: proxy-engine-yamux\r\n\r\n"
        )
        peer.recv(1)
        peer.close()

    threading.Thread(target=answer, daemon=True).start()
    port = listener.getsockname()[1]
    assert_fails(
        1, "not a proxy-engine server", "connect", "--server", f"http://127.0.0.1:{port}",
        "--http", "web=127.0.0.1:1", "--transport", "tcp", PROXY_ENGINE_TOKEN=TOKEN,
    )  # fmt: skip
    listener.close()
