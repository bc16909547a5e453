"""Verbs that ask a server over its API, as one would from another machine."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from tests.e2e.harness import RecordingTarget, wait_until
from tests.e2e.processes import Process, run
from tests.e2e.site import Site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("site") / "data")
    yield site
    site.close()


def where(site: Site) -> tuple[str, str]:
    return "--admin", f"http://127.0.0.1:{site.admin_port}"


def ask(site: Site, *words: str, token: str = "") -> CompletedProcess[str]:
    return run(*words, *where(site), PROXY_ENGINE_ADMIN_TOKEN=token or site.admin_token)


def one_error(result: CompletedProcess[str], code: int = 1) -> str:
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (code, "", 1), result
    return result.stderr


def test_requests_are_read_from_afar(site: Site, shared_target: RecordingTarget) -> None:
    agent = site.connect({"web": shared_target.port})
    for number in range(5):
        site.get("web", f"/{number}")
    tail = Process(
        "requests", "tail", "-f", "--json", *where(site),
        PROXY_ENGINE_ADMIN_TOKEN=site.admin_token,
    )  # fmt: skip
    try:
        tail.wait_for(lambda: tail.has_printed('"/4"'))
        site.get("web", "/new")
        tail.wait_for(lambda: tail.has_printed('"/new"'))
        tail.signal(signal.SIGINT)
        assert tail.exit_code() == 0
    finally:
        tail.end()
        agent.end()
    last = ask(site, "requests", "tail", "-n", "3", "--json")
    paths = [json.loads(line)["path"] for line in last.stdout.splitlines()]
    assert paths == ["/3", "/4", "/new"]
    here = run("requests", "tail", "-n", "3", "--json", "--data-dir", str(site.data_dir))
    assert here.stdout == last.stdout
    assert ask(site, "requests", "tail", "-n", "0").stdout == ""


def test_the_address_and_the_token_may_come_from_anywhere(site: Site, tmp_path: Path) -> None:
    secret = tmp_path / "admin-token"
    secret.write_text(site.admin_token + "\n")
    flags = run("requests", "tail", *where(site), "--admin-token-file", str(secret))
    assert flags.returncode == 0, flags.stderr
    file = tmp_path / "admin.toml"
    file.write_text(f'admin_url = "{where(site)[1]}/"\nadmin_token_file = "{secret}"\n')
    assert run("requests", "tail", "--config", str(file)).stdout == flags.stdout
    variables = run("requests", "tail", PROXY_ENGINE_ADMIN_URL=where(site)[1],
                    PROXY_ENGINE_ADMIN_TOKEN=site.admin_token)  # fmt: skip
    assert variables.stdout == flags.stdout


def test_what_goes_wrong_is_one_line(site: Site, tmp_path: Path) -> None:
    tail = ("requests", "tail")
    assert "which admin token?" in one_error(run(*tail, *where(site)), 2)
    wrong = one_error(ask(site, *tail, token="pe_" + "x" * 43))
    assert "this token opens nothing" in wrong
    assert "device token" in one_error(ask(site, *tail, token=site.device_token))
    environ = {"PROXY_ENGINE_ADMIN_TOKEN": site.admin_token}
    assert "Connection refused" in one_error(run(*tail, "--admin", "http://127.0.0.1:1", **environ))
    assert "--admin" in one_error(run(*tail, "--admin", "127.0.0.1:8081", **environ), 2)
    # Visitors' port: something answers, but not the API.
    one_error(run(*tail, "--admin", f"http://127.0.0.1:{site.port}", **environ))


def test_tunnels_are_listed_and_only_the_server_knows_who_is_there(
    site: Site, shared_target: RecordingTarget
) -> None:
    agent = site.connect({"api": shared_target.port})
    try:
        there = json.loads(ask(site, "tunnel", "list", "--json").stdout)
        assert [(each["name"], each["is_online"]) for each in there if each["name"] == "api"] == [
            ("api", True)
        ]
        here = json.loads(run("tunnel", "list", "--json", "--data-dir", str(site.data_dir)).stdout)
        assert [each["name"] for each in here] == [each["name"] for each in there]
        table = ask(site, "tunnel", "list").stdout.splitlines()
        assert table[0].split("\t")[:3] == ["name", "kind", "device"]
        assert "online" in table[1]
    finally:
        agent.end()


def test_tokens_are_made_rotated_and_revoked_from_afar(site: Site) -> None:
    made = ask(site, "token", "create", "--name", "far", "--expires", "1h", "--scope", "tunnel=a-*")
    assert made.stdout.startswith("pe_"), made.stderr
    assert '"far" already' in one_error(ask(site, "token", "create", "--name", "far"))
    rotated = ask(site, "token", "rotate", "far", "--overlap", "5m").stdout
    assert rotated.startswith("pe_")
    assert rotated != made.stdout

    def listed(*words: str) -> dict[str, object]:
        found = json.loads(ask(site, "token", "list", "--json").stdout)
        local = run("token", "list", "--json", "--data-dir", str(site.data_dir))
        here = json.loads(local.stdout)
        for each in (*found, *here):  # the admin's is used each time
            del each["last_used_at"]
        assert here == found
        [token] = [each for each in found if each["name"] == "far"]
        return token

    assert (listed()["state"], listed()["scopes"]) == ("live", ["tunnel=a-*"])
    assert ask(site, "token", "revoke", "far").returncode == 0
    assert listed()["state"] == "revoked"
    assert 'no live token named "far"' in one_error(ask(site, "token", "revoke", "far"))
    one_error(ask(site, "token", "create", "--name", "a", "--kind", "admin", "--device", "b"), 2)


def test_devices_are_looked_after_from_afar(site: Site, shared_target: RecordingTarget) -> None:
    agent = site.connect({"dev": shared_target.port})
    try:

        def shown() -> dict[str, Any]:
            found: dict[str, Any] = json.loads(
                ask(site, "device", "show", "default", "--json").stdout
            )
            return found

        assert shown()["is_online"]
        # What happened is written down a moment later.
        wait_until(lambda: shown()["history"][:1] and shown()["history"][0]["kind"] == "online")
        assert "online" in ask(site, "device", "list").stdout
        here = run("device", "show", "default", "--data-dir", str(site.data_dir))
        assert here.returncode == 0, here.stderr
        assert ask(site, "device", "kick", "default").returncode == 0
        agent.log("not connected, trying again")
    finally:
        agent.end()
    for words in (("block", "default"), ("label", "default", "place=lab"), ("create", "new one")):
        result = ask(site, "device", *words)
        assert result.returncode == (2 if words[0] == "create" else 0), result.stderr
    found = shown()
    assert (found["is_blocked"], found["labels"]) == (True, {"place": "lab"})
    assert ask(site, "device", "unblock", "default").returncode == 0
    assert 'no device named "none"' in one_error(ask(site, "device", "kick", "none"))


def test_who_may_only_look_changes_nothing_and_writes_are_audited(site: Site) -> None:
    reader = ask(
        site, "token", "create", "--name", "reader", "--kind", "admin", "--scope", "read-only"
    ).stdout.strip()
    assert ask(site, "token", "list", token=reader).returncode == 0
    refused = one_error(ask(site, "token", "revoke", "reader", token=reader))
    assert "may look and not change" in refused
    there = run("device", "create", "local-one", "--data-dir", str(site.data_dir))
    assert there.returncode == 0, there.stderr
    audit = [json.loads(x) for x in ask(site, "audit", "list", "--json").stdout.splitlines()]
    writes = [(each["actor"], each["action"], each["subject"]) for each in audit]
    assert ("admin", "create_token", "reader") in writes
    assert ("local", "create_device", "local-one") in writes
