"""`config` verbs, and a server whose file changes under it."""

from __future__ import annotations

import http.server
import json
import signal
import sqlite3
import threading
import tomllib
from pathlib import Path
from typing import Any

from proxy_engine.storage.sqlite import database_path
from tests.e2e.harness import wait_until
from tests.e2e.processes import Process, run
from tests.e2e.site import Site
from tests.e2e.target import Target


def test_what_is_shown_is_a_file_that_gives_the_same(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text('domain = "example.com"\nadmin_hosts = ["x.example"]\n[engine]\nbacklog = 9\n')
    shown = run("config", "show", "--config", str(file), PROXY_ENGINE_GRACE="5s")
    assert shown.returncode == 0, shown.stderr
    assert tomllib.loads(shown.stdout) == {
        "domain": "example.com",
        "admin_hosts": ["x.example"],
        "engine": {"backlog": 9},
        "grace": 5.0,
    }
    again = tmp_path / "b.toml"
    again.write_text(shown.stdout)
    assert run("config", "show", "--config", str(again)).stdout == shown.stdout
    sources = run("config", "show", "--sources", "--json", PROXY_ENGINE_TOKEN="pe_secret")
    found = json.loads(sources.stdout)
    assert found["token"] == {
        "value": "[redacted]", "source": "PROXY_ENGINE_TOKEN", "is_live": False,
    }  # fmt: skip
    assert found["login_failures"]["is_live"]
    assert found["listen"]["source"] == "default"
    assert "pe_secret" not in sources.stdout
    table = run("config", "show", "--sources", "--config", str(file)).stdout
    assert f"# {file}: domain; restart to change" in table
    assert table.count("admin_hosts =") == 1 and "admin_hosts; restart" not in table
    assert tomllib.loads(table)["engine"] == {"backlog": 9}


def test_validate_finds_what_is_wrong_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    for text, complaint in (
        ('domian = "x"\n', 'unknown key "domian", did you mean "domain"?'),
        ("[engine]\nbacklogs = 9\n", 'did you mean "backlog"?'),
        ("[engine]\nbacklog = 0\n", "backlog"),
        ('listen = "x"\n', "listen"),
        ("domain = \n", "not TOML"),
        (f'admin_token_file = "{tmp_path}/none"\n', "No such file"),
    ):
        file.write_text(text)
        result = run("config", "validate", "--config", str(file))
        assert (result.returncode, result.stdout) == (2, ""), text
        assert complaint in result.stderr, result.stderr
        assert result.stderr.count("\n") == 1, result.stderr
    file.write_text("workers = 2\n")
    result = run("config", "validate", "--config", str(file))
    assert (result.returncode, result.stderr) == (0, "")


def test_sighup_takes_over_what_can_change_and_keeps_the_last_good(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text('domain = "one.example"\n')
    site = Site(tmp_path / "data", server_args=("--config", str(file)))
    try:

        def shown(name: str) -> tuple[Any, str]:
            settings = site.api("/api/v1/config")["settings"]
            [found] = [each for each in settings if each["name"] == name]
            return found["value"], found["source"]

        def reload(text: str) -> None:
            file.write_text(text)
            site.server.signal(signal.SIGHUP)

        assert shown("domain") == ("one.example", f"{file}: domain")
        reload('domain = "one.example"\nadmin_hosts = ["x.example"]\ngrace = "7s"\n')
        assert site.server.log("settings reloaded")["changed"] == "admin_hosts,grace"
        assert shown("grace") == (7.0, f"{file}: grace")

        reload('domain = "one.example"\ngarce = "9s"\n')
        failed = site.server.log("settings not reloaded, the last good ones stay")
        assert 'did you mean "grace"?' in failed["error"]
        reload("[engine]\nbacklog = 0\n")
        site.server.log("settings not reloaded, the last good ones stay", 2)
        assert shown("grace")[0] == 7.0

        reload('domain = "two.example"\n')
        assert site.server.log("settings wait for a restart")["settings"] == "domain"
        assert shown("domain") == ("one.example", f"{file}: domain")
        assert shown("grace") == (30.0, "default")
        assert site.server.popen.poll() is None
    finally:
        site.close()


def test_every_reload_has_an_audit_record(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text('grace = "7s"\n')
    site = Site(tmp_path / "data", server_args=("--config", str(file)))

    def records() -> list[tuple[str, str, str]]:
        found = site.api("/api/v1/audit")["items"]
        return [
            (each["actor"], each["address"], each["outcome"])
            for each in reversed(found)
            if each["action"] == "reload_config"
        ]

    try:
        site.server.signal(signal.SIGHUP)
        accepted = ("signal", "", "ok")
        wait_until(lambda: records() == [accepted])
        file.write_text('garce = "9s"\n')
        site.server.signal(signal.SIGHUP)
        wait_until(lambda: len(records()) == 2 and records()[1][2] != "")
        actor, address, outcome = records()[1]
        assert (actor, address) == ("signal", "")
        assert outcome.startswith("failed: ")
        assert 'unknown key "garce"' in outcome
    finally:
        site.close()


def test_without_a_record_there_is_no_reload(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text('grace = "7s"\n')
    site = Site(tmp_path / "data", server_args=("--config", str(file)))
    try:
        with sqlite3.connect(database_path(site.data_dir)) as other:
            other.execute("DROP TABLE audit")
        other.close()
        file.write_text('grace = "9s"\n')
        site.server.signal(signal.SIGHUP)
        failed = site.server.log("settings not reloaded, the last good ones stay")
        assert "audit" in failed["error"]
        settings = site.api("/api/v1/config")["settings"]
        assert [each["value"] for each in settings if each["name"] == "grace"] == [7.0]
    finally:
        site.close()


def test_sighup_while_it_starts_is_answered_when_it_has(tmp_path: Path) -> None:
    data = tmp_path / "data"
    Site(data).close()
    other = sqlite3.connect(database_path(data), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")  # for which the start waits
    server = Process(
        "run", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--log-format", "json",
        "--data-dir", str(data),
    )  # fmt: skip
    try:
        files = Path(f"/proc/{server.popen.pid}/fd")
        wait_until(lambda: any(file.resolve() == database_path(data) for file in files.iterdir()))
        server.signal(signal.SIGHUP)
        other.execute("ROLLBACK")
        server.log("listening")
        assert server.log("settings reloaded")["changed"] == "nothing"
        assert server.popen.poll() is None
    finally:
        server.end()
        other.close()


def test_what_changes_live_is_used_at_once(tmp_path: Path) -> None:
    got: list[tuple[str, str]] = []

    class Receiver(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            got.append((json.loads(body)["type"], self.headers.get("Proxy-Engine-Signature", "")))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    receiver = http.server.HTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=receiver.serve_forever, daemon=True).start()
    file, secret = tmp_path / "a.toml", tmp_path / "secret"
    file.write_text("")
    secret.write_text("first\n")
    site = Site(tmp_path / "data", server_args=("--config", str(file)))
    try:
        with Target() as target:
            site.connect({"web": target.port}).end()
            site.wait_online("web", False)
            file.write_text(
                f'webhook_url = "http://127.0.0.1:{receiver.server_port}/"\n'
                f'webhook_secret_file = "{secret}"\n'
                'login_failures = 1\nrequest_redact = ["pin"]\nrequest_sample = 1\n'
                "tcp_ports = []\nlink_busy_share = 50\n"
            )
            site.server.signal(signal.SIGHUP)
            changed = site.server.log("settings reloaded")["changed"].split(",")
            assert {"webhook_url", "login_failures", "tcp_ports"} <= set(changed)
            assert "wait for a restart" not in site.output()
            site.connect({"web": target.port})
            wait_until(lambda: [kind for kind, _ in got] == ["device.online"])
            assert got[0][1].startswith("t=")
            site.get("web", "/?pin=1234")
            wait_until(lambda: [row["path"] for row in site.rows()] == ["/?pin=[redacted]"])
            secret.unlink()  # a file that is gone: the last good ones stay
            site.server.signal(signal.SIGHUP)
            failed = site.server.log("settings not reloaded, the last good ones stay")
            assert "webhook secret file" in failed["error"]
    finally:
        site.close()
        receiver.shutdown()
