"""Server and agent as users run them: two processes, a service, a visitor."""

from __future__ import annotations

import contextlib
import functools
import http.client
import http.server
import json
import os
import signal
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.harness import wait_until
from tests.e2e.processes import TIMEOUT, Process, run
from tests.ports import refusing_port

pytest.importorskip("proxy_engine_core.core", reason="the engine is not built")


class Service(http.server.BaseHTTPRequestHandler):
    """Says its path; /slow waits until the test lets it go."""

    protocol_version = "HTTP/1.1"
    release = threading.Event()
    entered = threading.Event()

    def do_GET(self) -> None:
        if self.path == "/slow":
            self.entered.set()
            self.release.wait(TIMEOUT)
        body = f"you asked for {self.path}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        with contextlib.suppress(OSError):  # the visitor may have been cut off
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def service() -> Iterator[int]:
    Service.release.clear()
    Service.entered.clear()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Service)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server.server_port
    Service.release.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def start() -> Iterator[Callable[..., Process]]:
    started: list[Process] = []

    def begin(*args: str, **environ: str) -> Process:
        logs = ("--log-format", "json") if args[0] in ("run", "connect") else ()
        started.append(Process(*args, *logs, **environ))
        return started[-1]

    yield begin
    for process in started:
        process.end()


class Site:
    """A server on free ports, and what it said on its first run."""

    def __init__(self, start: Callable[..., Process], data_dir: Path, *args: str) -> None:
        self.start = start
        self.data_dir = data_dir
        # A drain waits for idle streams too; not as long as usual here.
        where = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
        where += ["--engine", "pool_idle_ms=200"]
        self.server = start("run", *where, "--data-dir", str(data_dir), *args)
        ready = self.server.log("listening")
        self.port = int(ready["listen"].rpartition(":")[2])
        self.admin_port = int(ready["admin"].rpartition(":")[2])
        self.first = self.server.printed("first_run")
        self.url = f"http://127.0.0.1:{self.port}"

    def connect(self, port: int, *args: str, name: str = "web", token: str = "") -> Process:
        return self.start(
            "connect",
            *("--server", self.url, "--http", f"{name}=127.0.0.1:{port}", *args),
            PROXY_ENGINE_TOKEN=token or self.first["device_token"],
        )

    def get(self, path: str = "/", host: str = "web.localhost") -> tuple[int, str]:
        visitor = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT)
        try:
            visitor.request("GET", path, headers={"Host": f"{host}:{self.port}"})
            response = visitor.getresponse()
            return response.status, response.read().decode()
        finally:
            visitor.close()

    def try_get(self, path: str) -> None:
        """For a visitor whose connection is going to be cut."""
        with contextlib.suppress(OSError, http.client.HTTPException):
            self.get(path)

    def admin(self, path: str) -> tuple[int, Any]:
        client = http.client.HTTPConnection("127.0.0.1", self.admin_port, timeout=TIMEOUT)
        try:
            token = self.first["admin_token"]
            client.request("GET", path, headers={"Authorization": f"Bearer {token}"})
            response = client.getresponse()
            return response.status, json.loads(response.read())
        finally:
            client.close()

    def make_token(self, name: str) -> str:
        made = run("token", "create", "--name", name, "--data-dir", str(self.data_dir))
        assert made.returncode == 0, made.stderr
        return made.stdout.strip()


@pytest.fixture
def site(start: Callable[..., Process], tmp_path: Path) -> Site:
    return Site(start, tmp_path / "data")


@pytest.mark.parametrize("transport", ["ws", "tcp"])
def test_a_request_goes_through_and_is_logged(site: Site, service: int, transport: str) -> None:
    agent = site.connect(service, "--transport", transport)
    public = agent.printed("connected")["tunnels"]
    assert [(x["name"], x["url"]) for x in public] == [
        ("web", f"http://web.localhost:{site.port}/")
    ]
    status, text = site.get("/hello?token=hunter2")
    assert (status, text) == (200, "you asked for /hello?token=hunter2")
    assert site.get("/", "nobody.localhost")[0] == 404

    def logged() -> list[Any]:
        lines = run("requests", "tail", "--json", "--data-dir", str(site.data_dir)).stdout
        found = [json.loads(line) for line in lines.splitlines()]
        return found if len(found) == 2 else []

    # Two connections, perhaps of two workers: their records come in either order.
    first, second = sorted(site.server.wait_for(logged), key=lambda found: found["status"])
    assert (first["path"], first["status"]) == ("/hello?token=[redacted]", 200)
    assert (first["tunnel"], first["device"]) == ("web", "default")
    assert first["visitor"] == "127.0.0.1"
    assert (second["status"], second["reason"]) == (404, "unknown_tunnel")


def test_the_data_dir_is_private_and_the_first_run_happens_once(
    site: Site, start: Callable[..., Process]
) -> None:
    assert stat.S_IMODE(os.stat(site.data_dir).st_mode) == 0o700
    site.server.signal()
    assert site.server.exit_code() == 0
    again = start(
        "run", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0",
        "--data-dir", str(site.data_dir),
    )  # fmt: skip
    again.log("listening")
    again.signal(signal.SIGINT)
    assert again.exit_code() == 0
    assert again.out == []


def test_the_api_shows_device_tunnel_and_counters(site: Site, service: int) -> None:
    site.connect(service).printed("connected")
    assert site.admin("/health")[1]["links"] == 1
    [device] = site.admin("/api/v1/devices")[1]["items"]
    assert device["name"] == "default"
    assert device["links"][0]["agent"].startswith("proxy-engine/")
    [tunnel] = site.admin("/api/v1/tunnels")[1]["items"]
    assert tunnel["is_online"] is True
    status, stats = site.admin("/api/v1/stats")
    assert status == 200
    assert all(isinstance(value, int) for value in stats.values())


def test_a_device_away_is_503_and_back_is_200(site: Site, service: int) -> None:
    agent = site.connect(service)
    agent.printed("connected")
    agent.signal()
    assert agent.exit_code() == 0
    site.server.log("link down")
    status, text = site.get()
    assert (status, "device_offline" in text) == (503, True)
    site.connect(service).printed("connected")
    assert site.get()[0] == 200


def test_the_agent_comes_back_after_the_server_did(
    site: Site, service: int, start: Callable[..., Process]
) -> None:
    agent = site.connect(service)
    agent.printed("connected")
    site.server.signal()
    assert site.server.exit_code() == 0
    assert site.server.err and "stopped" in site.server.err[-1]
    again = start(
        "run", "--listen", f"127.0.0.1:{site.port}", "--admin", "127.0.0.1:0",
        "--data-dir", str(site.data_dir),
    )  # fmt: skip
    again.log("tunnels registered")
    assert site.get()[0] == 200


def test_draining_finishes_what_is_in_flight(site: Site, service: int) -> None:
    site.connect(service).printed("connected")
    answers: list[tuple[int, str]] = []
    visitor = threading.Thread(target=lambda: answers.append(site.get("/slow")))
    visitor.start()
    assert Service.entered.wait(TIMEOUT)
    site.server.signal()
    site.server.log("draining")
    assert site.admin("/readyz")[0] == 503
    assert site.admin("/livez")[0] == 200
    Service.release.set()
    visitor.join(TIMEOUT)
    assert answers == [(200, "you asked for /slow")]
    assert site.server.exit_code() == 0
    tail = run("requests", "tail", "--json", "--data-dir", str(site.data_dir))
    assert [json.loads(line)["path"] for line in tail.stdout.splitlines()] == ["/slow"]


def test_a_second_signal_ends_at_once(site: Site, service: int) -> None:
    site.connect(service).printed("connected")
    visitor = threading.Thread(target=lambda: site.try_get("/slow"))
    visitor.start()
    assert Service.entered.wait(TIMEOUT)
    site.server.signal()
    site.server.log("draining")
    start = time.monotonic()
    site.server.signal()
    assert site.server.exit_code() == 1
    assert time.monotonic() - start < 20  # the grace is 30
    visitor.join(TIMEOUT)
    tail = run("requests", "tail", "--json", "--data-dir", str(site.data_dir))
    [cut] = [json.loads(line) for line in tail.stdout.splitlines()]
    assert (cut["path"], cut["reason"]) == ("/slow", "link_lost")


def test_revoking_a_token_ends_its_agent_with_one_line(site: Site, service: int) -> None:
    agent = site.connect(service, token=site.make_token("pi"))
    agent.printed("connected")
    assert run("token", "revoke", "pi", "--data-dir", str(site.data_dir)).returncode == 0
    assert agent.exit_code() == 1
    errors = [line for line in agent.err if line.startswith("proxy-engine: error:")]
    assert errors == ["proxy-engine: error: the server refused the token: "
                      "the token was revoked (401)"]  # fmt: skip
    assert site.get()[0] == 503


@pytest.mark.parametrize("kind", ["unknown", "admin"])
def test_a_wrong_token_ends_the_agent_with_one_line(site: Site, service: int, kind: str) -> None:
    token = site.first["admin_token"] if kind == "admin" else "pe_" + "A" * 43
    agent = site.connect(service, token=token)
    assert agent.exit_code() == 1
    assert len(agent.err) == 1
    assert agent.err[0].startswith("proxy-engine: error: the server refused the token")
    assert token not in "".join(site.server.err + agent.err + agent.out)


def test_a_tunnel_of_another_device_is_refused_with_one_line(site: Site, service: int) -> None:
    site.connect(service).printed("connected")
    other = site.connect(service, token=site.make_token("pi"))
    assert other.exit_code() == 1
    errors = [line for line in other.err if line.startswith("proxy-engine: error:")]
    assert len(errors) == 1 and '"web" refused' in errors[0] and "tunnel_taken" in errors[0]


def test_the_newest_agent_of_a_device_takes_over(site: Site, service: int) -> None:
    first = site.connect(service)
    first.printed("connected")
    second = site.connect(service)
    second.printed("connected")
    assert first.exit_code() == 1
    [line] = [line for line in first.err if line.startswith("proxy-engine: error:")]
    assert "replaced by another agent run" in line
    assert site.get()[0] == 200
    wait_until(lambda: site.admin("/health")[1]["links"] == 1)


def test_a_service_that_is_down_is_502(site: Site) -> None:
    with refusing_port() as port:
        agent = site.connect(port)
        agent.printed("connected")
        status, text = site.get()
        assert (status, "refused" in text) == (502, True)
        assert agent.log("target can not be connected")["tunnel"] == "web"


def test_the_default_tunnel_gets_what_no_other_does(
    start: Callable[..., Process], tmp_path: Path, service: int
) -> None:
    site = Site(start, tmp_path / "data", "--default-tunnel", "web")
    site.connect(service).printed("connected")
    assert site.get("/", "anything.example")[0] == 200


@pytest.mark.parametrize("which", ["--listen", "--admin"])
def test_a_port_in_use_is_one_line_and_nothing_is_left(tmp_path: Path, which: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = {"--listen": "127.0.0.1:0", "--admin": "127.0.0.1:0"}
        ports[which] = f"127.0.0.1:{taken.getsockname()[1]}"
        flags = [part for pair in ports.items() for part in pair]
        result = run("run", *flags, "--data-dir", str(tmp_path / "data"))
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.count("\n") == 1
    assert "Address already in use" in result.stderr
    assert not list(tmp_path.iterdir())


def test_a_data_dir_that_can_not_be_used_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = run(
        "run", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0",
        "--data-dir", str(tmp_path / "file"),
    )  # fmt: skip
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (1, "", 1)


def test_a_mistyped_engine_option_is_a_usage_error(tmp_path: Path) -> None:
    result = run(
        "run", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0",
        "--data-dir", str(tmp_path / "data"), "--engine", "head_timeot_ms=5",
    )  # fmt: skip
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert 'did you mean "head_timeout_ms"' in result.stderr


def test_the_demo_checks_itself() -> None:
    result = run("demo", "--once")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "FAILED" not in result.stdout
    assert "http://web.localhost:" in result.stdout


def test_an_agent_that_ends_finishes_what_is_in_flight(site: Site, service: int) -> None:
    agent = site.connect(service)
    agent.printed("connected")
    answers: list[tuple[int, str]] = []
    visitor = threading.Thread(target=lambda: answers.append(site.get("/slow")))
    visitor.start()
    assert Service.entered.wait(TIMEOUT)
    agent.signal()
    site.server.log("device drains")
    # Routes reach the engine's thread a moment later: until then a request is still served.
    site.server.wait_for(lambda: site.get()[0] == 503)
    Service.release.set()
    visitor.join(TIMEOUT)
    assert answers == [(200, "you asked for /slow")]
    assert agent.exit_code() == 0


def test_an_agent_survives_a_server_that_was_killed(
    site: Site, service: int, start: Callable[..., Process]
) -> None:
    agent = site.connect(service)
    agent.printed("connected")
    site.get("/before")
    tail = ("requests", "tail", "--json", "--data-dir", str(site.data_dir))
    wait_until(lambda: "/before" in run(*tail).stdout)  # a killed server writes nothing more
    site.server.signal(signal.SIGKILL)
    site.server.exit_code()
    assert "link ended" in agent.log("not connected, trying again")["reason"]
    again = start(
        "run", "--listen", f"127.0.0.1:{site.port}", "--admin", "127.0.0.1:0",
        "--data-dir", str(site.data_dir),
    )  # fmt: skip
    again.log("tunnels registered")
    assert site.get()[0] == 200
    agent.log("connected", 2)
    assert json.loads(run(*tail).stdout.splitlines()[0])["path"] == "/before"


def test_an_agent_started_before_its_server_waits_for_it(
    site: Site, service: int, start: Callable[..., Process]
) -> None:
    site.server.signal()
    site.server.exit_code()
    agent = site.connect(service)
    assert agent.log("not connected, trying again")["reason"] == "Connection refused"
    start(
        "run", "--listen", f"127.0.0.1:{site.port}", "--admin", "127.0.0.1:0",
        "--data-dir", str(site.data_dir),
    )  # fmt: skip
    agent.printed("connected")


def test_requests_are_followed_until_interrupted(site: Site, service: int) -> None:
    site.connect(service).printed("connected")
    tail = site.start("requests", "tail", "-f", "--data-dir", str(site.data_dir))
    for path in ("/one", "/two"):
        site.get(path)
        tail.wait_for(functools.partial(tail.has_printed, path))
    assert all(" 200 GET " in line for line in tail.out)
    tail.signal(signal.SIGINT)
    assert tail.exit_code() == 0
    assert tail.err == []


def test_only_requests_that_match_are_followed(site: Site, service: int) -> None:
    site.connect(service).printed("connected")
    tail = site.start("requests", "tail", "-f", "--path", "/YES", "--data-dir", str(site.data_dir))
    for number in range(3):
        site.get(f"/no/{number}")
        site.get(f"/yes/{number}")
        tail.wait_for(functools.partial(tail.has_printed, f"/yes/{number}"))
    tail.signal(signal.SIGINT)
    assert tail.exit_code() == 0
    assert len(tail.out) == 3 and tail.err == []


def test_a_config_file_does_what_flags_do(
    site: Site, service: int, start: Callable[..., Process], tmp_path: Path
) -> None:
    (tmp_path / "token").write_text(site.first["device_token"] + "\n")
    (tmp_path / "agent.toml").write_text(
        f'server = "{site.url}"\ntoken_file = "{tmp_path / "token"}"\ntransport = "tcp"\n'
        f'[http]\nweb = "127.0.0.1:{service}"\napi = "127.0.0.1:{service}"\n'
    )
    agent = start("connect", "--config", str(tmp_path / "agent.toml"))
    assert {tunnel["name"] for tunnel in agent.printed("connected")["tunnels"]} == {"web", "api"}
    assert site.get("/", "api.localhost")[0] == 200
    command_line = Path(f"/proc/{agent.popen.pid}/cmdline").read_bytes().decode()
    assert site.first["device_token"] not in command_line


def test_a_token_given_as_a_flag_leaves_the_command_line(
    site: Site, service: int, start: Callable[..., Process]
) -> None:
    token = site.first["device_token"]
    agent = start(
        "connect", "--server", site.url, "--token", token, "--http", f"web=127.0.0.1:{service}"
    )
    agent.printed("connected")
    command_line = Path(f"/proc/{agent.popen.pid}/cmdline").read_bytes().decode()
    assert token not in command_line
    assert f"web=127.0.0.1:{service}" in command_line
    assert site.get("/")[0] == 200
