"""The log of real processes, also where nobody reads it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.fixtures import own_target
from tests.e2e.harness import Visitor, wait_until
from tests.e2e.processes import ENVIRON, TIMEOUT
from tests.e2e.site import Site
from tests.e2e.target import Target
from tests.ports import free_port

target = own_target()


class Server:
    """A server whose stdout and stderr are the test's."""

    def __init__(self, data_dir: Path, *args: str, **streams: Any) -> None:
        self.port, self.admin = free_port(), free_port()
        self.data_dir = data_dir
        self.popen = subprocess.Popen(
            [
                *(sys.executable, "-m", "proxy_engine", "run", "--log-level", "debug"),
                *("--listen", f"127.0.0.1:{self.port}", "--admin", f"127.0.0.1:{self.admin}"),
                *("--data-dir", str(data_dir), "--log-format", "json", "--access-log", *args),
            ],
            env=ENVIRON,
            stdin=subprocess.DEVNULL,
            **{"stdout": subprocess.DEVNULL, **streams},
        )
        wait_until(self.is_ready)

    def is_ready(self) -> bool:
        assert self.popen.poll() is None
        with contextlib.suppress(OSError):
            return b'"ok"' in self.probe("/readyz")
        return False

    def probe(self, path: str) -> bytes:
        url = f"http://127.0.0.1:{self.admin}{path}"
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:
            body: bytes = answer.read()
        return body

    def ask(self, count: int) -> None:
        """Requests that match no tunnel, each with a line of 2 KiB in the access log."""
        with Visitor(self.port) as visitor:
            for _ in range(count):
                path = b"/" + b"x" * 1000
                visitor.send(b"GET " + path + b" HTTP/1.1\r\nHost: none.localhost\r\n\r\n")
                assert visitor.response().status == 404

    def stats(self) -> dict[str, int]:
        token = subprocess.run(
            [sys.executable, "-m", "proxy_engine", "token", "create", "--kind", "admin", "--name",
             os.urandom(4).hex(), "--data-dir", str(self.data_dir)],
            env=ENVIRON, capture_output=True, text=True, check=True, timeout=TIMEOUT,
        ).stdout.strip()  # fmt: skip
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.admin}/api/v1/stats",
            headers={"Authorization": f"Bearer {token}"},
        )
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            counters: dict[str, int] = json.load(answer)
        return counters

    def end(self) -> int:
        """The exit code after SIGTERM."""
        self.popen.send_signal(signal.SIGTERM)
        return self.popen.wait(TIMEOUT)

    def kill(self) -> None:
        self.popen.kill()
        self.popen.wait()


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    for fd in (reader, writer):
        with contextlib.suppress(OSError):
            os.close(fd)


def test_a_log_that_nobody_reads_holds_up_nothing(tmp_path: Path, pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    server = Server(tmp_path, stderr=writer)
    try:
        os.close(writer)
        server.ask(8000)  # far more than the pipe and the queue hold
        dropped = wait_until(lambda: server.stats()["log_lines_dropped"])
        assert dropped > 0
        server.ask(10)
        assert b'"ok"' in server.probe("/readyz")
        # Somebody looks after all: the lines are whole, and the log says how many are not there.
        os.set_blocking(reader, False)
        text = b""

        def lost() -> int:
            nonlocal text
            with contextlib.suppress(BlockingIOError):
                while chunk := os.read(reader, 1 << 20):
                    text += chunk
            said = [json.loads(line) for line in text.rpartition(b"\n")[0].splitlines()]
            return sum(
                line["count"]
                for line in said
                if line["message"] == "log lines were lost" and line["reason"] == "nobody read them"
            )

        wait_until(lambda: lost() >= dropped)
        server.ask(1)
        wait_until(lambda: lost() == server.stats()["log_lines_dropped"])
        assert server.end() == 0
    finally:
        server.kill()


def test_a_server_ends_although_nobody_reads_its_log(tmp_path: Path, pipe: tuple[int, int]) -> None:
    _, writer = pipe
    server = Server(tmp_path, "--grace", "1s", stderr=writer, stdout=writer)
    try:
        server.ask(300)
        assert server.end() == 0
    finally:
        server.kill()


def test_a_full_disk_under_the_log_is_no_reason_to_stop(tmp_path: Path) -> None:
    with open("/dev/full", "wb") as full:
        server = Server(tmp_path, stderr=full, stdout=full)
    try:
        server.ask(100)
        wait_until(lambda: server.stats()["log_lines_dropped"] > 100)
        assert server.stats()["log_lines_written"] == 0
        assert server.end() == 0
    finally:
        server.kill()


def test_the_reader_of_the_log_may_be_killed(tmp_path: Path, pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    cat = subprocess.Popen(["cat"], stdin=reader, stdout=subprocess.DEVNULL)
    server = Server(tmp_path, stderr=writer)
    try:
        os.close(reader)
        os.close(writer)
        server.ask(100)
        cat.kill()
        cat.wait()
        server.ask(100)
        wait_until(lambda: server.stats()["log_lines_dropped"] >= 100)
        assert b'"ok"' in server.probe("/readyz")
        assert server.end() == 0
    finally:
        cat.kill()
        server.kill()


def test_a_closed_stderr_is_not_written_to(tmp_path: Path) -> None:
    # Its number would be a socket's: a log line in there would be an answer to somebody.
    server = Server(tmp_path, preexec_fn=lambda: os.close(2))
    try:
        server.ask(100)
        assert server.stats()["log_lines_written"] == 0
        assert server.end() == 0
    finally:
        server.kill()


def test_an_agent_connects_although_nobody_reads_what_it_says(
    tmp_path: Path, target: Target, pipe: tuple[int, int]
) -> None:
    _, writer = pipe
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while os.write(writer, b"x" * 4096):
            pass
    os.set_blocking(writer, True)
    site = Site(tmp_path)
    agent = subprocess.Popen(
        [
            *(sys.executable, "-m", "proxy_engine", "connect", "--log-format", "json"),
            *(
                "--server",
                f"http://127.0.0.1:{site.port}",
                "--http",
                f"web=127.0.0.1:{target.port}",
            ),
            *("--token", site.make_token("pi")),
        ],
        env=ENVIRON,
        stdin=subprocess.DEVNULL,
        stdout=writer,
        stderr=writer,
    )
    try:
        site.wait_online("web")
        agent.send_signal(signal.SIGTERM)
        assert agent.wait(TIMEOUT) == 0
    finally:
        agent.kill()
        agent.wait()
        site.close()


def test_a_crash_says_where_and_the_lines_before_it_are_there(
    tmp_path: Path, pipe: tuple[int, int]
) -> None:
    reader, writer = pipe
    server = Server(tmp_path, stderr=writer)
    try:
        os.close(writer)
        server.ask(1)
        text = b""
        while b'"reason":"unknown_tunnel"' not in text:  # lines are written in batches
            text += os.read(reader, 1 << 16)
        server.popen.send_signal(signal.SIGABRT)
        assert server.popen.wait(TIMEOUT) == -signal.SIGABRT
        while chunk := os.read(reader, 1 << 16):
            text += chunk
        assert b'"message": "listening"' in text
        assert b"Fatal Python error: Aborted" in text
    finally:
        server.kill()


ACCESS_FIELDS = {
    *("time", "level", "component", "message", "request_id", "visitor", "method", "host", "path"),
    *("status", "reason", "bytes_in", "bytes_out", "total_us", "first_byte_us", "target_us"),
    *("proxy_us", "link_us", "tunnel", "device"),
}


def level(site: Site) -> str:
    settings = site.api("/api/v1/config")["settings"]
    [value] = [each["value"] for each in settings if each["name"] == "log_level"]
    return str(value)


def test_a_line_for_each_request_when_asked_for(tmp_path: Path, target: Target) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("access_log = true\n")
    site = Site(tmp_path / "data", server_args=["--config", str(file)])
    try:
        site.connect({"web": target.port})
        answer = site.get("web", "/a?token=hidden&x=%1b", "X-Request-Id: abc-1")
        assert answer.status == 200
        line = site.server.log("request")
        assert set(line) >= ACCESS_FIELDS
        assert line["component"] == "access"
        assert (line["request_id"], line["tunnel"], line["device"]) == ("abc-1", "web", "default")
        assert (line["status"], line["reason"], line["method"]) == (200, "", "GET")
        assert line["path"] == "/a?token=[redacted]&x=%1b"
        refused = site.get("none", "/b")
        line = site.server.log("request", 2)
        assert (line["status"], line["reason"], line["tunnel"]) == (404, "unknown_tunnel", None)
        assert line["request_id"] == refused.id
        # Off, and on again, while the server runs.
        file.write_text('log_level = "warning"\n')
        site.server.signal(signal.SIGHUP)
        wait_until(lambda: level(site) == "warning")
        site.wait_rows(path="/quiet", request_id=site.get("web", "/quiet").id)
        file.write_text('access_log = true\nlog_level = "error"\n')
        site.server.signal(signal.SIGHUP)
        wait_until(lambda: level(site) == "error")
        site.get("web", "/loud")
        assert site.server.log("request", 3)["path"] == "/loud"
    finally:
        site.close()


def test_a_request_of_the_api_has_an_id_in_answer_and_log(tmp_path: Path) -> None:
    site = Site(tmp_path)
    try:
        token = site.make_token("boss", "--kind", "admin")
        request = urllib.request.Request(
            f"http://127.0.0.1:{site.admin_port}/api/v1/tokens",
            data=b'{"name": "pi"}',
            headers={
                "Authorization": f"Bearer {token}",
                "Content-Type": "application/json",
                "X-Request-Id": "mine-7",
            },
        )
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            assert answer.headers["X-Request-Id"] == "mine-7"
        assert site.server.log("admin write")["request_id"] == "mine-7"
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(f"http://127.0.0.1:{site.admin_port}/api/v1/none")
        problem = json.load(caught.value)
        assert re.fullmatch("[0-9a-f]{32}", problem["request_id"])
        assert caught.value.headers["X-Request-Id"] == problem["request_id"]
    finally:
        site.close()


def test_a_burst_of_one_line_is_one_with_a_count(tmp_path: Path) -> None:
    site = Site(tmp_path / "data")
    try:
        file = tmp_path / "none.toml"
        assert not file.exists()
        before = time.monotonic()

        def said() -> list[dict[str, Any]]:
            # Nothing changed: each would be the same line. Signals that meet are one.
            site.server.signal(signal.SIGHUP)
            lines = site.server._json(site.server.err)
            return [line for line in lines if line["message"] == "settings reloaded"]

        wait_until(lambda: any("repeated" in line for line in said()))
        # One, and then one a second that counts the others.
        assert len(said()) <= time.monotonic() - before + 2
    finally:
        site.close()
