"""What operators change of a tunnel, seen by a visitor whose connection stays open."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from tests.e2e.harness import RecordingTarget, Response, Visitor, ok, reply, wait_until
from tests.e2e.processes import run
from tests.e2e.site import Site

TO_ANYWHERE = ("--allow-remote-config", "--allow-target", "127.0.0.0/8")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("site") / "data")
    yield site
    site.close()


@pytest.fixture
def target() -> Iterator[RecordingTarget]:
    target = RecordingTarget()
    target.handler = reply(ok(b"one"))
    yield target
    target.close()


@pytest.fixture
def online(site: Site, target: RecordingTarget) -> Iterator[Site]:
    agent = site.connect({"web": target.port}, *TO_ANYWHERE)
    yield site
    tunnel(site, "delete", "web")
    agent.end()


def tunnel(site: Site, *words: str, stdin: str = "", code: int = 0) -> CompletedProcess[str]:
    result = run(
        "tunnel", *words, "--admin", f"http://127.0.0.1:{site.admin_port}",
        PROXY_ENGINE_ADMIN_TOKEN=site.admin_token, stdin=stdin,
    )  # fmt: skip
    assert result.returncode == code, result.stderr
    assert result.stderr.count("\n") == (1 if code else 0)
    return result


class Client:
    """One connection, kept alive throughout."""

    def __init__(self, site: Site) -> None:
        self._visitor: Visitor = site.visitor()

    def get(self, path: str = "/", *fields: str, host: str = "web.localhost") -> Response:
        lines = "".join(f"{line}\r\n" for line in (f"Host: {host}", *fields))
        self._visitor.send(f"GET {path} HTTP/1.1\r\n{lines}\r\n".encode())
        return self._visitor.response()

    def until(self, status: int, *fields: str, host: str = "web.localhost") -> Response:
        """What the server was told is true for every worker a moment later."""
        found: list[Response] = []

        def look() -> bool:
            found.append(self.get("/", *fields, host=host))
            return found[-1].status == status

        wait_until(look)
        return found[-1]


@pytest.fixture
def client(online: Site) -> Client:
    client = Client(online)
    assert client.get().body == b"one"
    return client


def reason(response: Response) -> str:
    found: str = response.json()["error"]
    return found


def test_networks_disabling_and_maintenance_over_one_connection(
    online: Site, client: Client
) -> None:
    tunnel(online, "set", "web", "--deny", "127.0.0.0/8")
    assert reason(client.until(403)) == "address_denied"
    tunnel(online, "set", "web", "--unset", "deny", "--allow", "192.0.2.1")
    assert reason(client.until(403)) == "address_denied"
    tunnel(online, "set", "web", "--allow", "127.0.0.1", "--allow", "192.0.2.1")
    client.until(200)
    tunnel(online, "disable", "web")
    assert reason(client.until(404)) == "tunnel_disabled"
    tunnel(online, "enable", "web")
    client.until(200)
    tunnel(online, "maintenance", "on", "web", "--page", "-", "--retry-after", "1h",
           stdin="<h1>soon</h1>")  # fmt: skip
    page = client.until(503)
    assert page.body == b"<h1>soon</h1>"
    assert page.values("retry-after") == ["3600"]
    assert page.values("content-type") == ["text/html; charset=utf-8"]
    tunnel(online, "maintenance", "off", "web")
    assert client.until(200).body == b"one"


def test_passwords_over_one_connection(
    online: Site, client: Client, target: RecordingTarget, tmp_path: Path
) -> None:
    users = tmp_path / "users.txt"
    users.write_text("ann:correct horse\nbob:battery staple\n")
    tunnel(online, "set", "web", "--basic-auth-file", str(users), "--realm", "Printers")
    refused = client.until(401)
    assert 'Basic realm="Printers"' in refused.values("www-authenticate")[0]
    right = "Authorization: Basic " + base64.b64encode(b"ann:correct horse").decode()
    wrong = "Authorization: Basic " + base64.b64encode(b"ann:battery staple").decode()
    assert client.get("/", right).body == b"one"
    assert client.get("/", wrong).status == 401
    assert b"correct" not in target.received
    shown = tunnel(online, "show", "web").stdout
    assert 'ann bob (realm "Printers")' in shown
    tunnel(online, "set", "web", "--unset", "basic-auth")
    client.until(200)
    assert "horse" not in online.output() + shown


def test_rewriting_over_one_connection(
    online: Site, client: Client, target: RecordingTarget
) -> None:
    tunnel(
        online, "set", "web", "--strip-prefix", "/api", "--host-header", "app.internal:8080",
        "--request-header", "X-From: proxy", "--request-header", "Cookie:",
        "--response-header", "+X-Tag: a", "--response-header", "Content-Type: text/x",
    )  # fmt: skip
    assert reason(client.until(404)) == "outside_prefix"
    answer = client.get("/api/users?a=b", "Cookie: a=b", "X-From: me")
    assert (answer.status, answer.body) == (200, b"one")
    assert answer.values("x-tag") == ["a"]
    assert answer.values("content-type") == ["text/x"]
    seen = target.requests[-1]
    assert seen.path == "/users?a=b"
    assert seen.values("host") == ["app.internal:8080"]
    assert seen.values("x-from") == ["proxy"]
    assert seen.values("cookie") == []
    unset = [f"--unset={name}" for name in ("strip-prefix", "host-header", "request-headers")]
    tunnel(online, "set", "web", *unset)
    client.until(200)
    client.get("/api/users", "Cookie: a=b")
    assert target.requests[-1].path == "/api/users"
    assert target.requests[-1].values("cookie") == ["a=b"]


def test_options_and_domains_that_the_agent_wants(
    site: Site, target: RecordingTarget, tmp_path: Path
) -> None:
    file = tmp_path / "agent.toml"
    file.write_text(
        f"""
        [[tunnels]]
        name = "mine"
        target = "127.0.0.1:{target.port}"
        domains = ["mine.example.com"]
        basic_auth = ["ann:correct horse"]
        host_header = "rewrite"
        """
    )
    token = site.make_token("owner", "--scope", "domain=*.example.com")
    agent = site.connect({}, "--config", str(file), "--strip-prefix", "/v1", token=token)
    try:
        client = Client(site)
        assert client.get("/v1/a", host="mine.example.com").status == 401
        right = "Authorization: Basic " + base64.b64encode(b"ann:correct horse").decode()
        assert client.get("/v1/a", right, host="mine.example.com").body == b"one"
        assert target.requests[-1].path == "/a"
        assert target.requests[-1].values("host") == [f"127.0.0.1:{target.port}"]
        shown = tunnel(site, "show", "mine").stdout
        assert "mine.example.com (agent)" in shown
        assert "ann (agent)" in shown
        tunnel(site, "set", "mine", "--basic-auth", "none")
        assert client.until(404, host="mine.example.com").status == 404  # only the prefix is left
        assert "horse" not in site.output() + tunnel(site, "show", "mine", "--json").stdout
    finally:
        agent.end()
    thief = site.connect(
        {"theirs": target.port, "other": target.port}, "--domain", "other=mine.example.com",
        token=site.make_token("robber", "--scope", "domain=*"),
    )  # fmt: skip
    try:
        assert thief.log("tunnel refused")["code"] == "domain_taken"
    finally:
        thief.end()


def test_custom_domains_over_one_connection(online: Site, client: Client) -> None:
    for host in ("www.example.com", "any.example.com"):
        assert client.get(host=host).status == 404
    tunnel(online, "domain", "add", "web", "www.example.com")
    assert client.until(200, host="www.example.com").body == b"one"
    assert client.get(host="any.example.com").status == 404
    tunnel(online, "domain", "add", "web", "*.example.com")
    assert client.until(200, host="any.example.com").body == b"one"
    taken = tunnel(online, "create", "third", "--device", "default", "--domain", "www.example.com",
                   code=1)  # fmt: skip
    assert "another tunnel has the domain www.example.com" in taken.stderr
    tunnel(online, "domain", "remove", "web", "*.example.com")
    client.until(404, host="any.example.com")
    assert client.get(host="www.example.com").status == 200


def test_another_target_over_one_connection(online: Site, client: Client) -> None:
    other = RecordingTarget()
    other.handler = reply(ok(b"two"))
    try:
        tunnel(online, "target", "web", f"127.0.0.1:{other.port}")
        assert client.get().body == b"two"  # at once: the answer is the agent's
        shown = json.loads(tunnel(online, "show", "web", "--json").stdout)
        assert shown["target"] == f"127.0.0.1:{other.port}"
        refused = tunnel(online, "target", "web", "192.0.2.1:80", code=1)
        assert "--allow-target" in refused.stderr
        assert client.get().body == b"two"
        assert online.agent is not None
        online.agent.log("the server changed a target")
        tunnel(online, "target", "web", "--own")
        assert client.get().body == b"one"
    finally:
        other.close()


def test_an_agent_that_does_not_allow_it_says_so(site: Site, target: RecordingTarget) -> None:
    agent = site.connect({"web": target.port})
    try:
        refused = tunnel(site, "target", "web", "127.0.0.1:1", code=1)
        assert "--allow-remote-config" in refused.stderr
        assert site.get("web").body == b"one"
    finally:
        agent.end()
    site.wait_online("web", False)
    assert "not connected" in tunnel(site, "target", "web", "127.0.0.1:1", code=1).stderr


def test_a_tunnel_made_ahead_is_waiting_for_its_device(site: Site, target: RecordingTarget) -> None:
    tunnel(site, "create", "ahead", "--device", "default", "--deny", "192.0.2.0/24")
    client = Client(site)
    assert reason(client.get(host="ahead.localhost")) == "device_offline"
    other = site.make_token("thief")
    thief = site.connect({"loot": target.port, "ahead": target.port}, token=other)
    try:
        refused = thief.log("tunnel refused")
        assert (refused["tunnel"], refused["code"]) == ("ahead", "tunnel_taken")
    finally:
        thief.end()
    owner = site.connect({"ahead": target.port})
    try:
        assert client.until(200, host="ahead.localhost").body == b"one"
    finally:
        owner.end()


def test_a_change_in_the_store_is_picked_up(online: Site, client: Client) -> None:
    """As another server makes it, or a command on this machine."""
    there = ("--data-dir", str(online.data_dir))
    assert run("tunnel", "disable", "web", *there).returncode == 0
    assert reason(client.until(404)) == "tunnel_disabled"
    assert run("tunnel", "enable", "web", *there).returncode == 0
    client.until(200)
    result = run("tunnel", "target", "web", "127.0.0.1:1", *there)
    assert (result.returncode, "--admin URL" in result.stderr) == (2, True)


def test_what_is_wrong_is_one_line(site: Site) -> None:
    def said(*words: str) -> Any:
        return tunnel(site, *words, code=2).stderr

    tunnel(site, "create", "line", "--device", "default")
    assert "set what?" in said("set", "line")
    assert 'did you mean "--allow"?' in said("set", "line", "--alow", "x")
    assert "not an address or a network" in said("set", "line", "--allow", "10.0.0.0/33")
    assert "Content-Length" in said("set", "line", "--request-header", "Content-Length: 1")
    assert "USER:PASSWORD" in said("set", "line", "--basic-auth", "secretword")
    assert "secretword" not in said("set", "line", "--basic-auth", "secretword")
    assert "is not a domain" in said("domain", "add", "line", "a b")
    assert "where to?" in said("target", "line")
    assert 'no tunnel named "none"' in tunnel(site, "disable", "none", code=1).stderr
