"""SIGHUP to an agent: other tunnels and targets, on the links there are, or the last good ones."""

from __future__ import annotations

import base64
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.harness import wait_until
from tests.e2e.processes import Process, run
from tests.e2e.site import Site
from tests.e2e.target import Target


class Place:
    def __init__(self, folder: Path) -> None:
        self.file = folder / "agent.toml"
        self.site = Site(folder / "data")
        self.agent: Process
        self.reloads = 0

    def start(self, text: str) -> None:
        self.file.write_text(text)
        self.agent = Process(
            "connect", "--config", str(self.file), "--log-format", "json",
            "--server", f"http://127.0.0.1:{self.site.port}",
            PROXY_ENGINE_TOKEN=self.site.device_token,
        )  # fmt: skip
        self.site.processes.append(self.agent)
        self.agent.printed("connected")

    def reload(self, text: str) -> dict[str, Any]:
        self.file.write_text(text)
        self.reloads += 1
        self.agent.signal(signal.SIGHUP)
        return self.agent.log("settings reloaded", self.reloads)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    found = Place(tmp_path)
    yield found
    found.site.close()


@pytest.fixture
def target() -> Iterator[Target]:
    with Target() as found:
        yield found


def test_tunnels_come_go_and_lead_elsewhere_and_what_stays_notices_nothing(
    place: Place, target: Target
) -> None:
    site, other = place.site, Target()
    web = f'web = "127.0.0.1:{target.port}"\n'
    place.start("[http]\n" + web)
    visitor = site.begin("/upgrade", "Connection: Upgrade", "Upgrade: websocket",
                         "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
                         "Sec-WebSocket-Version: 13")  # fmt: skip
    assert visitor.head().status == 101
    with other:
        place.reload(f"[http]\n{web}api = '127.0.0.1:{other.port}'\n")
        site.wait_online("api")
        assert site.get("api", "/kib").status == 200

        # An idle connection to the old target, which still answers, is not used again.
        done = place.reload(f"[http]\n{web}api = '127.0.0.1:{target.port}'\n")
        assert (done["changed"], done["tunnels"]) == ("http", 2)
        site.server.log("tunnels registered", 3)
        came = len(other.requests)
        assert site.get("api", "/kib").status == 200
        assert len(other.requests) == came

    place.reload("[http]\n" + web)
    site.wait_online("api", False)
    assert site.get("api", "/kib").status in (404, 503)
    assert site.get("web", "/kib").status == 200

    visitor.send(b"still here")
    assert visitor.take(10) == b"still here"
    assert site.stats()["links_closed"] == 0
    assert place.agent.popen.poll() is None


def test_what_is_wrong_changes_nothing(place: Place, target: Target, tmp_path: Path) -> None:
    site = place.site
    web = f'[http]\nweb = "127.0.0.1:{target.port}"\n'
    place.start(web)
    for number, (text, complaint) in enumerate(
        {
            web + "grace = [\n": "not TOML",
            "grcae = 1\n" + web: 'did you mean "grace"?',
            'allow = "web=nowhere"\n' + web: "--allow",
            "log_level = 'debug'\n": "which services?",
            f'basic_auth_file = "{tmp_path}/none"\n{web}': "basic auth file",
        }.items(),
        1,
    ):
        place.file.write_text(text)
        place.agent.signal(signal.SIGHUP)
        failed = place.agent.log("settings not reloaded, the last good ones stay", number)
        assert complaint in failed["error"]
        assert site.get("web", "/kib").status == 200
    users = tmp_path / "users"
    users.write_text("ann:secret\n")
    guarded = f'basic_auth_file = "{users}"\nlinks = 3\n' + web
    assert "basic_auth_file" in place.reload(guarded)["changed"]
    assert place.agent.log("settings wait for a restart")["settings"] == "links"
    wait_until(lambda: site.get("web", "/kib").status == 401)
    users.unlink()
    assert "basic_auth_file" in place.reload(web)["changed"]
    wait_until(lambda: site.get("web", "/kib").status == 200)
    assert site.stats()["links_closed"] == 0


def test_a_file_of_users_is_read_again(place: Place, target: Target, tmp_path: Path) -> None:
    users = tmp_path / "users"
    users.write_text("ann:secret\n")
    text = (
        f'[[tunnels]]\nname = "web"\ntarget = "127.0.0.1:{target.port}"\n'
        f'basic_auth_file = "{users}"\n'
    )
    place.start(text)

    def status(password: str) -> int:
        given = base64.b64encode(f"ann:{password}".encode()).decode()
        return place.site.get("web", "/kib", f"Authorization: Basic {given}").status

    assert (status("secret"), status("other")) == (200, 401)
    users.write_text("ann:other\n")
    assert place.reload(text)["changed"] == "nothing"
    wait_until(lambda: (status("secret"), status("other")) == (401, 200))


def test_a_token_rotated_in_its_file_counts_from_the_next_link_on(
    place: Place, target: Target, tmp_path: Path
) -> None:
    site = place.site

    def rotate() -> str:
        args = ("token", "rotate", "pi", "--overlap", "1h", "--data-dir", str(site.data_dir))
        made = run(*args)
        assert made.returncode == 0, made.stderr
        return made.stdout.strip()

    file = tmp_path / "token"
    file.write_text(site.make_token("pi") + "\n")
    web = f'token_file = "{file}"\n[http]\nweb = "127.0.0.1:{target.port}"\n'
    place.file.write_text(web)
    agent = place.agent = Process(
        "connect", "--config", str(place.file), "--log-format", "json",
        "--server", f"http://127.0.0.1:{site.port}",
    )  # fmt: skip
    site.processes.append(agent)
    agent.printed("connected")

    file.write_text("not a token\n")
    agent.signal(signal.SIGHUP)
    refused = agent.log("settings not reloaded, the last good ones stay")
    assert refused["error"] == "the token holds characters that no token has"
    assert site.get("web", "/kib").status == 200

    file.write_text(rotate() + "\n")
    place.reload(web)
    assert agent.log("another token is in its file, the next link has it")["file"] == str(file)
    assert site.stats()["links_closed"] == 0
    second = rotate()  # ends the link that was made with the first
    agent.log("connected", 2)
    wait_until(lambda: site.get("web", "/kib").status == 200)

    file.write_text(second + "\n")  # nobody tells the agent
    rotate()
    agent.log("connected", 3)
    wait_until(lambda: site.get("web", "/kib").status == 200)
    assert agent.popen.poll() is None


def test_tunnels_that_the_server_refuses_end_no_agent_that_was_of_use(
    place: Place, target: Target
) -> None:
    site = place.site
    token = site.make_token("other", "--kind", "device", "--device", "other")
    other = Process(
        "connect", "--server", f"http://127.0.0.1:{site.port}", "--log-format", "json",
        "--http", f"taken=127.0.0.1:{target.port}", PROXY_ENGINE_TOKEN=token,
    )  # fmt: skip
    site.processes.append(other)
    other.printed("connected")
    web = f'[http]\nweb = "127.0.0.1:{target.port}"\n'
    place.start(web)
    place.reload(web.replace("web", "taken"))
    assert place.agent.log("tunnel refused")["code"] == "tunnel_taken"
    site.wait_online("web", False)
    place.reload(web)
    site.wait_online("web")
    assert site.get("web", "/kib").status == 200
    place.agent.signal()
    assert place.agent.exit_code() == 0


def test_targets_are_allowed_anew_and_the_level_of_the_log_changes(
    place: Place, target: Target
) -> None:
    web = f'[http]\nweb = "127.0.0.1:{target.port}"\n'
    place.start('allow_target = "127.0.0.0/8"\n' + web)
    assert place.site.get("web", "/kib").status == 200
    done = place.reload('allow_target = "10.0.0.0/8"\nlog_level = "debug"\n' + web)
    assert done["changed"] == "allow_target,log_level"
    place.agent.log("target not allowed")
    wait_until(lambda: place.site.get("web", "/kib").status == 502)
    place.reload('allow_target = "127.0.0.0/8"\n' + web)
    wait_until(lambda: place.site.get("web", "/kib").status == 200)
