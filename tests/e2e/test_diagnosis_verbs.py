"""doctor, diag and top against real servers and agents."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import sys
import tarfile
import termios
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from tests.e2e.harness import RecordingTarget, wait_until
from tests.e2e.processes import ENVIRON, run
from tests.e2e.site import Site

# Each is set somewhere below, and may be nowhere in the bundle.
SECRETS = {
    "webhook": "hush-webhook-signs",
    "webhook_path": "T00000000/B000/hush-webhook-path",
    "webhook_query": "hush-webhook-query",
    "redis": "hush-redis-password",
    "redis_url": "hush-redis-in-url",
    "basic": "hush-basic-password",
    "token": "hush-agent-token",
    "header": "hush-header-value",
    "proxy": "hush-proxy-password",
    "tunnel_basic": "hush-tunnel-password",
    "tunnel_header": "hush-tunnel-header",
    "mongo": "hush-mongo-password",
    "log": "pe_hushhushhushhushhushhushhush",
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("verbs") / "data", server_args=("--debug",))
    target = RecordingTarget()
    made.connect({"web": target.port})
    made.get("web")
    yield made
    made.close()
    target.close()


def findings(*words: str, **environ: str) -> tuple[int, dict[str, str]]:
    done = run("doctor", "--json", *words, **environ)
    assert done.stderr == ""
    answer = json.loads(done.stdout)
    assert answer["is_well"] is (done.returncode == 0)
    return done.returncode, {each["check"]: each["status"] for each in answer["findings"]}


def test_a_running_server_is_found_to_be_itself(site: Site) -> None:
    code, found = findings(
        "--role", "server", "--listen", f"127.0.0.1:{site.port}", "--data-dir", str(site.data_dir),
        PROXY_ENGINE_ADMIN=f"127.0.0.1:{site.admin_port}",
    )  # fmt: skip
    assert (found["ports.listen"], found["ports.admin"], found["store"]) == ("ok", "ok", "ok")
    assert code == int("error" in found.values())


def test_a_port_of_somebody_else_is_an_error(site: Site, tmp_path: Path) -> None:
    code, found = findings(
        "--listen", f"127.0.0.1:{site.port}", "--data-dir", str(tmp_path),
        PROXY_ENGINE_ADMIN="127.0.0.1:1",
    )  # fmt: skip
    assert (code, found["ports.listen"]) == (1, "error")
    assert list(tmp_path.iterdir()) == []


def test_an_agent_finds_its_server_and_its_target(site: Site) -> None:
    token = {"PROXY_ENGINE_TOKEN": site.device_token}
    code, found = findings(
        "--server", f"http://127.0.0.1:{site.port}", PROXY_ENGINE_HTTP="web=127.0.0.1:1", **token
    )
    assert (found["server"], found["server.answer"], found["token"]) == ("ok", "ok", "ok")
    assert found["target.web"] == "warning"
    assert code == int("error" in found.values())
    wrong = {"PROXY_ENGINE_TOKEN": "pe_" + "x" * 40}
    code, found = findings("--server", f"http://127.0.0.1:{site.port}", **wrong)
    assert (code, found["token"]) == (1, "error")
    # A listener that is no proxy-engine's public one.
    code, found = findings("--server", f"http://127.0.0.1:{site.admin_port}", **token)
    assert (code, found["server.answer"]) == (1, "error")


def test_settings_that_are_wrong_are_a_finding(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text("domian = 'x'\n")
    done = run("doctor", "--config", str(file))
    assert done.returncode == 1
    assert "ERROR" in done.stdout
    assert "did you mean" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def texts(file: Path) -> dict[str, str]:
    with tarfile.open(file) as bundle:
        found = {}
        for entry in bundle:
            stream = bundle.extractfile(entry)
            assert stream is not None
            assert entry.mode == 0o600
            found[entry.name.partition("/")[2]] = stream.read().decode()
    return found


def test_no_secret_is_in_the_bundle(site: Site, tmp_path: Path) -> None:
    config = tmp_path / "all.toml"
    (tmp_path / "redis").write_text(SECRETS["redis"] + "\n")
    config.write_text(f"""
webhook_url = "https://u:hush-userinfo@hooks.example/{SECRETS["webhook_path"]}?key={SECRETS["webhook_query"]}"
webhook_secret = "{SECRETS["webhook"]}"
redis_url = "redis://someone:{SECRETS["redis_url"]}@127.0.0.1:1/0"
redis_password_file = "{tmp_path / "redis"}"
basic_auth = ["web=user:{SECRETS["basic"]}"]
token = "{SECRETS["token"]}"
request_header = ["web=Authorization: Bearer {SECRETS["header"]}"]
proxy = "http://me:{SECRETS["proxy"]}@proxy.example:3128"
mongodb_uri = "mongodb://app:{SECRETS["mongo"]}@127.0.0.1:1/x?serverSelectionTimeoutMS=100"
data_dir = "{site.data_dir}"

[[tunnels]]
name = "api"
target = "127.0.0.1:1"
basic_auth = ["ann:{SECRETS["tunnel_basic"]}"]
request_headers = ["X-Key: {SECRETS["tunnel_header"]}"]
""")
    log = tmp_path / "server.log"
    log.write_text(
        f"token {SECRETS['log']}\nGET http://a:hush-in-log@b/ {SECRETS['redis']}\n"
        f"{SECRETS['tunnel_header']} and {site.admin_token}\n"
    )
    file = tmp_path / "bundle.tar.gz"
    done = run(
        "diag", "--config", str(config), "--admin", f"http://127.0.0.1:{site.admin_port}",
        "--log", str(log), "-o", str(file), PROXY_ENGINE_ADMIN_TOKEN=site.admin_token,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert file.stat().st_mode & 0o777 == 0o600
    found = texts(file)
    assert {"versions.json", "config.json", "doctor.json", "health.json", "stats.json",
            "engine.json", "slow.json", "stacks.json", "kernel/self.limits", "logs/server.log",
            } <= set(found)  # fmt: skip
    for name, text in found.items():
        for secret in (*SECRETS.values(), site.admin_token, site.device_token, "hush-"):
            assert secret not in text, (name, secret)
        if name.endswith(".json"):
            json.loads(text)
    # What is left says something.
    engine: Any = json.loads(found["engine.json"])
    assert engine["links"][0]["device"] == "default"
    assert json.loads(found["stats.json"])["links_opened"] >= 1
    settings = json.loads(found["config.json"])
    assert settings["webhook_secret"]["value"] == "[redacted]"
    assert settings["data_dir"]["value"] == str(site.data_dir)
    assert settings["data_dir"]["source"].endswith("all.toml: data_dir")
    assert "token pe_[redacted]" in found["logs/server.log"]


def test_secrets_that_only_the_server_knows_stay_there(tmp_path: Path) -> None:
    options = tmp_path / "hooks.toml"
    options.write_text(
        'webhook_url = "https://hooks.example/T0/hush-path?key=hush-query"\n'
        'hooks = ["logger"]\n[hook_options.logger]\nsample = 1\n'
    )
    site = Site(tmp_path / "data", server_args=("--config", str(options)))
    try:
        file = tmp_path / "bundle.tar.gz"
        done = run(
            "diag", "--admin", f"http://127.0.0.1:{site.admin_port}", "-o", str(file),
            PROXY_ENGINE_ADMIN_TOKEN=site.admin_token,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    finally:
        site.close()
    found = texts(file)
    assert not [name for name, text in found.items() if "hush-" in text]
    settings = {
        each["name"]: each["value"] for each in json.loads(found["running-config.json"])["settings"]
    }
    assert settings["webhook_url"] == "https://hooks.example/[redacted]"
    assert settings["hook_options"] == {"logger": {"sample": "[redacted]"}}


def test_a_bundle_overwrites_nothing_and_works_without_a_server(tmp_path: Path) -> None:
    file = tmp_path / "x.tar.gz"
    words = ("diag", "--data-dir", str(tmp_path / "none"), "-o", str(file))
    assert run(*words).returncode == 0
    assert "health.json" not in texts(file)
    again = run(*words)
    assert (again.returncode, "is there already" in again.stderr) == (1, True)
    assert run("diag", "-o", str(tmp_path / "x.zip")).returncode == 2
    gone = run("diag", "-o", str(tmp_path / "y.tar.gz"), "--log", str(tmp_path / "no.log"))
    assert (gone.returncode, "no.log" in gone.stderr) == (2, True)
    away = run("diag", "-o", str(tmp_path / "z.tar.gz"), "--admin", "http://127.0.0.1:1",
               PROXY_ENGINE_ADMIN_TOKEN="pe_x")  # fmt: skip
    assert away.returncode == 0
    assert "not_known" in texts(tmp_path / "z.tar.gz")["health.json"]


class Terminal:
    """`proxy-engine ...` on a terminal of its own."""

    def __init__(self, *words: str, **environ: str) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execve(sys.executable, [sys.executable, "-m", "proxy_engine", *words],
                      {**ENVIRON, "TERM": "xterm", **environ})  # fmt: skip
        self.said = b""

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.said = b""

    def screen(self) -> str:
        """What was drawn last."""
        while select.select([self.fd], [], [], 0.05)[0]:
            try:
                self.said += os.read(self.fd, 65536)
            except OSError:
                break
        return self.said.decode(errors="ignore").rpartition("\x1b[H")[2]

    def wait_for(self, text: str) -> str:
        def look() -> str:
            found = self.screen()
            return found if text in found else ""

        return wait_until(look)

    def type(self, keys: str) -> None:
        os.write(self.fd, keys.encode())

    def end(self) -> int:
        """Its exit code."""

        def gone() -> tuple[int, int] | None:
            self.screen()
            found = os.waitpid(self.pid, os.WNOHANG)
            return found if found[0] else None

        ended = wait_until(gone)
        assert ended is not None
        self.screen()  # its last words
        return os.waitstatus_to_exitcode(ended[1])


def top(site: Site, *words: str) -> CompletedProcess[str]:
    return run("top", "--admin", f"http://127.0.0.1:{site.admin_port}", *words,
               PROXY_ENGINE_ADMIN_TOKEN=site.admin_token)  # fmt: skip


def test_top_prints_once_where_there_is_no_terminal(site: Site) -> None:
    done = top(site, "-d", "500ms")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    assert "TUNNEL" in done.stdout
    assert "web" in done.stdout


def test_top_as_json_has_everything(site: Site) -> None:
    done = top(site, "--once", "--json", "-d", "500ms")
    assert done.returncode == 0
    found = json.loads(done.stdout)
    assert found["status"] == "ok"
    assert [each["name"] for each in found["tunnels"]] == ["web"]
    assert found["devices"][0]["links"] >= 1
    assert len(found["workers"]) >= 1


def test_top_says_what_it_needs(site: Site) -> None:
    assert run("top").returncode == 2
    assert run("top", "--admin", "http://127.0.0.1:1", "--once",
               PROXY_ENGINE_ADMIN_TOKEN="pe_x").returncode == 1  # fmt: skip
    assert top(site, "-d", "1ms").returncode == 2
    wrong = run("top", "--admin", f"http://127.0.0.1:{site.admin_port}", "--once",
                PROXY_ENGINE_ADMIN_TOKEN="pe_" + "x" * 40)  # fmt: skip
    assert (wrong.returncode, "Traceback" in wrong.stderr) == (1, False)


def test_top_on_a_terminal_sorts_resizes_and_outlives_its_server(tmp_path: Path) -> None:
    site = Site(tmp_path / "data")
    target = RecordingTarget()
    terminal = Terminal(
        "top", "--admin", f"http://127.0.0.1:{site.admin_port}", "-d", "300ms",
        PROXY_ENGINE_ADMIN_TOKEN=site.admin_token,
    )  # fmt: skip
    try:
        terminal.resize(100, 30)
        site.connect({"web": target.port})
        terminal.wait_for("web ")
        terminal.type("d")
        terminal.wait_for("LINKS")
        terminal.resize(40, 10)
        os.kill(terminal.pid, signal.SIGWINCH)

        def is_narrow() -> bool:  # once what was drawn before is read
            drawn = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", terminal.screen())
            return "requests/s" in drawn and all(len(line) <= 40 for line in drawn.splitlines())

        wait_until(is_narrow)
        site.server.end()
        terminal.resize(100, 30)
        terminal.wait_for("trying again")
        terminal.type("q")
        assert terminal.end() == 0
        assert terminal.said.endswith(b"\x1b[?25h\x1b[?1049l")
    finally:
        site.close()
        target.close()
