"""What a running agent tells of itself, and to whom."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families as parse

from tests.e2e.processes import TIMEOUT, Process, run
from tests.e2e.site import Site
from tests.e2e.target import Target

PATHS = ("/livez", "/readyz", "/health", "/metrics")
DEBUG = ("/debug/stacks", "/debug/slow", "/debug/profile?seconds=0.1")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    found = Site(tmp_path / "data")
    yield found
    found.close()


@pytest.fixture
def target() -> Iterator[Target]:
    with Target() as found:
        yield found


class Agent:
    def __init__(self, site: Site, target: Target, *args: str, **environ: str) -> None:
        self.process = Process(
            "connect", "--server", f"http://127.0.0.1:{site.port}", "--log-format", "json",
            "--http", f"web=127.0.0.1:{target.port}", *args,
            **{"PROXY_ENGINE_TOKEN": site.device_token, **environ},
        )  # fmt: skip
        site.processes.append(self.process)
        self.port = int(self.process.log("listening")["admin"].rpartition(":")[2])

    def ask(self, path: str, **headers: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT)
        try:
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()


def test_probes_and_metrics_say_how_it_is(site: Site, target: Target) -> None:
    agent = Agent(site, target, "--admin", "127.0.0.1:0")
    agent.process.printed("connected")
    assert site.get("web", "/kib").status == 200
    for path in PATHS:
        assert agent.ask(path)[0] == 200, path
    assert agent.ask("/debug/stacks")[0] == 404  # not asked for
    health = json.loads(agent.ask("/health")[1])
    assert (health["status"], health["links"]) == ("ok", 1)
    assert [each["name"] for each in health["tunnels"]] == ["web"]
    values = {
        sample.name: sample.value
        for each in parse(agent.ask("/metrics")[1].decode())
        for sample in each.samples
    }
    assert values["proxy_engine_links"] == values["proxy_engine_tunnels"] == 1
    assert values["proxy_engine_targets_connected_total"] == 1
    assert values["proxy_engine_link_received_bytes_total"] > 100
    assert "proxy_engine_requests_total" not in values
    # A page may point its own name at 127.0.0.1.
    assert agent.ask("/metrics", Host="evil.example")[0] == 421
    site.server.end()
    agent.process.log("not connected, trying again")
    assert json.loads(agent.ask("/readyz")[1]) == {"status": "connecting"}
    assert agent.ask("/readyz")[0] == 503
    assert agent.ask("/livez")[0] == 200


def test_debug_tells_of_threads(site: Site, target: Target) -> None:
    agent = Agent(site, target, "--admin", "127.0.0.1:0", "--debug")
    agent.process.printed("connected")
    for path in DEBUG:
        assert agent.ask(path)[0] == 200, path
    stacks = json.loads(agent.ask("/debug/stacks")[1])["threads"]
    assert {"engine-0", "MainThread"} <= {each["name"] for each in stacks}
    assert json.loads(agent.ask("/debug/slow")[1])["slow_ms"] == 100


def test_what_goes_wrong_is_a_problem_as_in_the_api(site: Site, target: Target) -> None:
    agent = Agent(site, target, "--admin", "127.0.0.1:0", "--debug")
    for path, status, code, detail in (
        ("/debug/profile?seconds=many", 400, "bad_query", "seconds: expected `float`"),
        ("/debug/profile?second=1", 400, "bad_query", 'did you mean "seconds"?'),
        ("/debug/profile?rate=9&rate=9", 400, "bad_query", "rate is given twice"),
        ("/debug/stacks?x=1", 400, "bad_query", 'unknown name "x"'),
        ("/debug/none", 404, "not_found", "there is nothing at /debug/none"),
    ):
        found, body = agent.ask(path)
        problem = json.loads(body)
        assert (found, problem["status"], problem["code"]) == (status, status, code), path
        assert detail in problem["detail"]
        assert problem["type"] == f"urn:proxy-engine:{code}"
        assert problem["title"] in ("Bad Request", "Not Found")
    connection = http.client.HTTPConnection("127.0.0.1", agent.port, timeout=15)
    connection.request("POST", "/livez")
    response = connection.getresponse()
    assert (response.status, response.headers["Allow"]) == (405, "GET,HEAD")
    assert response.headers["Content-Type"] == "application/problem+json"
    assert json.loads(response.read())["code"] == "method_not_allowed"
    connection.close()


def test_what_does_nothing_without_the_listener_is_said(site: Site, target: Target) -> None:
    agent = Process(
        "connect", "--server", f"http://127.0.0.1:{site.port}", "--log-format", "json",
        "--http", f"web=127.0.0.1:{target.port}", "--debug", "--admin-token-file", "none",
        PROXY_ENGINE_TOKEN=site.device_token,
    )  # fmt: skip
    site.processes.append(agent)
    said = agent.log("settings do nothing without agent_admin (--admin HOST:PORT)")
    assert said["settings"] == "debug,agent_admin_token_file"
    agent.printed("connected")


def test_others_need_a_token_and_probes_do_not(site: Site, target: Target, tmp_path: Path) -> None:
    refused = run(
        "connect", "--server", f"http://127.0.0.1:{site.port}", "--http", "web=127.0.0.1:1",
        "--admin", "0.0.0.0:0", PROXY_ENGINE_TOKEN=site.device_token,
    )  # fmt: skip
    assert refused.returncode == 2
    assert "others can reach 0.0.0.0:0: give agent_admin_token_file" in refused.stderr
    file = tmp_path / "token"
    file.write_text("let-me-see\n")
    agent = Agent(site, target, "--admin", "0.0.0.0:0", "--admin-token-file", str(file), "--debug")
    agent.process.printed("connected")
    for path in PATHS[:3]:
        assert agent.ask(path)[0] == 200
    for path in ("/metrics", "/debug/stacks", "/debug/nothing", "/other"):
        assert agent.ask(path)[0] == 401
        assert agent.ask(path, Authorization="Bearer let-me")[0] == 401
    assert agent.ask("/metrics", Authorization="Bearer let-me-see", Host="pi.lan")[0] == 200
    agent.process.signal()
    assert agent.process.exit_code() == 0


def test_an_address_that_is_taken_is_one_line(site: Site) -> None:
    result = run(
        "connect", "--server", f"http://127.0.0.1:{site.port}", "--http", "web=127.0.0.1:1",
        "--admin", f"127.0.0.1:{site.admin_port}", PROXY_ENGINE_TOKEN=site.device_token,
    )  # fmt: skip
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "Address already in use" in result.stderr
