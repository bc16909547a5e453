"""How agents reach their server: proxies, several servers, carriers, lines that go dead."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.connectproxy import ConnectProxy
from tests.e2e.harness import Visitor, wait_until
from tests.e2e.processes import Process
from tests.e2e.site import Site
from tests.e2e.target import Target
from tests.e2e.test_lifecycle_many_links import links

USER = "some%20one:se%3Acret"
PING = {"ping_interval_ms": 1600}  # dead within three of these: 5 s


@pytest.fixture
def target() -> Iterator[Target]:
    with Target() as target:
        yield target


@pytest.fixture
def site(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Site]:
    site = Site(tmp_path / "data", engine=getattr(request, "param", None))
    yield site
    site.close()


def connect(site: Site, target: Target, *args: str, **environ: str) -> Process:
    """An agent that is told everything else by the test."""
    agent = Process(
        "connect", "--log-format", "json", f"--http=web=127.0.0.1:{target.port}", *args,
        PROXY_ENGINE_TOKEN=site.device_token, **environ,
    )  # fmt: skip
    site.processes.append(agent)
    return agent


def test_through_a_proxy_that_wants_a_password(site: Site, target: Target) -> None:
    with ConnectProxy(site.port, user="some one:se:cret") as proxy:
        url = f"http://{USER}@127.0.0.1:{proxy.port}"
        agent = connect(site, target, "--server", "http://server.test:99", HTTP_PROXY=url)
        agent.printed("connected")
        assert site.get("web", "/kib").status == 200
        assert set(proxy.asked) == {"CONNECT server.test:99 HTTP/1.1"}
        assert "cret" not in "\n".join([*agent.out, *agent.err])


def test_a_proxy_that_refuses_is_told_and_tried_again(site: Site, target: Target) -> None:
    with ConnectProxy(site.port, user="a:b") as proxy:
        url = f"http://a:wrong@127.0.0.1:{proxy.port}"
        agent = connect(site, target, "--server", "http://server.test", "--proxy", url)
        said = agent.log("not connected, trying again")
        assert "answered 407 Proxy Authentication Required to CONNECT" in said["reason"]
        wait_until(lambda: len(proxy.asked) >= 2)
        assert agent.popen.poll() is None


def test_where_raw_does_not_pass_websocket_does_and_is_remembered(
    site: Site, target: Target
) -> None:
    with ConnectProxy(site.port, forbids=b"Upgrade: proxy-engine-yamux") as proxy:
        url = f"http://127.0.0.1:{proxy.port}"
        agent = connect(site, target, "--server", "http://server.test", "--proxy", url)
        agent.printed("connected")
        assert site.get("web", "/kib").status == 200
        carriers = [b"Upgrade: websocket" in first for first in proxy.firsts]
        assert carriers == [False, True]
        site.server.signal()
        site.server.exit_code()
        site.restart_server()
        wait_until(lambda: site.is_online("web"))
        assert all(b"Upgrade: websocket" in first for first in proxy.firsts[1:])


def test_raw_is_what_is_used_when_nothing_is_in_the_way(site: Site, target: Target) -> None:
    with ConnectProxy(site.port) as proxy:
        url = f"http://127.0.0.1:{proxy.port}"
        agent = connect(site, target, "--server", "http://server.test", "--proxy", url)
        agent.printed("connected")
        [first] = proxy.firsts
        assert b"Upgrade: proxy-engine-yamux" in first


def test_when_a_server_goes_the_next_one_takes_over(
    site: Site, target: Target, tmp_path: Path
) -> None:
    shutil.copytree(tmp_path / "data", tmp_path / "other")
    other = Process(
        "run", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--log-format", "json",
        "--data-dir", str(tmp_path / "other"),
    )  # fmt: skip
    site.processes.append(other)
    port = int(other.log("listening")["listen"].rpartition(":")[2])
    servers = f"http://127.0.0.1:{site.port},http://localhost:{port}"
    agent = connect(site, target, "--server", servers)
    agent.printed("connected")
    assert site.get("web", "/kib").status == 200
    site.server.popen.kill()
    other.log("tunnels registered")
    with Visitor(port) as visitor:
        visitor.send(b"GET /kib HTTP/1.1\r\nHost: web.localhost\r\n\r\n")
        assert visitor.response().status == 200
    assert agent.popen.poll() is None


def test_a_target_that_is_not_allowed_is_never_connected(site: Site, target: Target) -> None:
    agent = connect(
        site, target, "--server", f"http://127.0.0.1:{site.port}",
        "--allow-target", f"127.0.0.1:{target.port + 1}", "--allow-target", "10.0.0.0/8",
    )  # fmt: skip
    agent.printed("connected")
    assert agent.log("target not allowed")["addresses"] == "127.0.0.1"
    assert site.get("web", "/kib").status == 502
    assert target.requests == []


@contextmanager
def silence(port: int) -> Iterator[None]:
    """The kernel drops everything between this local port and whom it talks to."""
    rules = [
        ["INPUT", "-p", "tcp", side, str(port), "-j", "DROP"] for side in ("--dport", "--sport")
    ]
    try:
        for rule in rules:
            subprocess.run(["iptables", "-w", "-I", *rule], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no iptables: {error}")
    try:
        yield
    finally:
        for rule in rules:
            subprocess.run(["iptables", "-w", "-D", *rule], check=False, capture_output=True)


@pytest.mark.parametrize("site", [PING], indirect=True)
def test_a_line_that_goes_dead_is_found_and_made_anew(site: Site, target: Target) -> None:
    agent = site.connect({"web": target.port}, transport="tcp")
    [link] = links(site)
    with silence(int(link["peer"].rpartition(":")[2])):
        started = time.monotonic()
        down = site.server.log("link down")
        lost = agent.log("not connected, trying again")
        took = time.monotonic() - started
    assert took < 5 + 10  # what a loaded machine adds; by default it is 45
    assert "ping_timeout" in lost["reason"]
    # The agent may have been faster, and back already.
    assert down["reason"] in ("ping_timeout", "replaced")
    wait_until(lambda: site.is_online("web"))
    assert site.get("web", "/kib").status == 200
    site.settled()
    wait_until(lambda: (now := site.stats())["links_opened"] - now["links_closed"] == 1)
