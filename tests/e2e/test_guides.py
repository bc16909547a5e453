"""What the guides say, done as they say it: commands are taken from the pages."""

from __future__ import annotations

import re
import shlex
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from tests.e2e.fixtures import own_target
from tests.e2e.harness import wait_until
from tests.e2e.processes import ENVIRON, ROOT, TIMEOUT, Process, run
from tests.e2e.site import Site
from tests.e2e.target import Target

target = own_target()
DOCS = ROOT / "docs"


def block(page: str, holds: str, kind: str = "") -> str:
    """The code block of a page that has this text in it."""
    found = re.findall(rf"^ *```{kind}\n(.*?)^ *```", (DOCS / page).read_text(), re.M | re.S)
    [text] = [each for each in found if holds in each]
    return str(text)


def arguments(page: str, start: str) -> list[str]:
    """The one command of ours on a page that begins so, without the name of the program."""
    lines = re.sub(r"\\\n", " ", block(page, f"proxy-engine {start}")).splitlines()
    [line] = [line for line in lines if f"proxy-engine {start}" in line]
    return shlex.split(line.strip().removeprefix("$ "), comments=True)[1:]


def test_private_access(tmp_path: Path, target: Target) -> None:
    site = Site(tmp_path / "data")
    try:
        device = site.make_token("pi")
        connect = arguments("private-access.md", "connect")
        at = {"http://localhost:8080": f"http://127.0.0.1:{site.port}"}
        at["db=127.0.0.1:5432"] = f"db=127.0.0.1:{target.port}"
        (tmp_path / "token").write_text(device)
        at["token"] = str(tmp_path / "token")
        agent = Process(*(at.get(word, word) for word in connect), "--log-format", "json")
        site.processes.append(agent)
        site.wait_online("db")
        made = run(
            *arguments("private-access.md", "token create"), "--data-dir", str(site.data_dir)
        )
        assert made.returncode == 0, made.stderr
        (tmp_path / "my-token").write_text(made.stdout)
        at |= {"5432": "0", "my-token": str(tmp_path / "my-token")}
        forward = Process(
            *(at.get(word, word) for word in arguments("private-access.md", "forward"))
        )
        site.processes.append(forward)
        [line] = forward.wait_for(lambda: list(forward.out))
        port = int(line.partition(" ")[0].rpartition(":")[2])
        assert line.endswith("-> pi/db")
        with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT) as visitor:
            visitor.sendall(b"GET /echo HTTP/1.1\r\nHost: db\r\nConnection: close\r\n\r\n")
            assert visitor.recv(12).startswith(b"HTTP/1.1")
    finally:
        site.close()


def test_a_domain_of_ones_own(tmp_path: Path, target: Target) -> None:
    site = Site(tmp_path / "data")
    try:
        site.connect({"web": target.port})
        store = ["--data-dir", str(site.data_dir)]
        added = run(*arguments("domains.md", "tunnel domain add"), *store)
        assert added.returncode == 0, added.stderr

        def answers() -> bool:
            with site.visitor() as visitor:
                visitor.send(b"GET / HTTP/1.1\r\nHost: www.example.com\r\n\r\n")
                return visitor.response().status != 404

        wait_until(answers)
        made = run(*arguments("domains.md", "token create"), *store)
        assert made.returncode == 0, made.stderr
    finally:
        site.close()


def test_tokens_with_limits(tmp_path: Path) -> None:
    site = Site(tmp_path / "data")
    try:
        store = ["--data-dir", str(site.data_dir)]
        assert run(*arguments("limits.md", "token create"), *store).returncode == 0
        changed = run(*arguments("limits.md", "token set"), *store)
        assert "bandwidth=40MB/s" in changed.stdout
    finally:
        site.close()


def test_a_backup_is_a_database_to_go_on_with(tmp_path: Path) -> None:
    home = tmp_path / "home"
    data_dir = home / ".local/share/proxy-engine"
    data_dir.mkdir(parents=True)
    site = Site(data_dir)
    try:
        site.make_token("kept")
        environ = {**ENVIRON, "HOME": str(home)}
        subprocess.run(
            ["bash", "-ec", block("backup.md", "python3 -c")],
            cwd=tmp_path, env=environ, check=True, timeout=TIMEOUT,
        )  # fmt: skip
    finally:
        site.close()
    again = tmp_path / "again"
    again.mkdir()
    shutil.copy(tmp_path / "copy.sqlite", again / "proxy-engine.sqlite")
    listed = run("token", "list", "--data-dir", str(again))
    assert "kept" in listed.stdout, listed.stderr


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
@pytest.mark.parametrize("verb", ["run", "connect"])
def test_units_are_what_systemd_takes(tmp_path: Path, verb: str) -> None:
    unit = tmp_path / f"proxy-engine-{verb}.service"
    text = block("systemd.md", f"proxy-engine {verb} --config", "ini")
    unit.write_text(text.replace("/usr/local/bin/proxy-engine", "/bin/true"))
    checked = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)],
        capture_output=True, text=True, timeout=TIMEOUT,
    )  # fmt: skip
    said = [line for line in checked.stderr.splitlines() if unit.name in line]
    assert said == []
