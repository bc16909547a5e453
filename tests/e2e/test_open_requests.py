"""Requests are there to be seen while they run, and afterwards how they ended."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.harness import wait_until
from tests.e2e.processes import run
from tests.e2e.site import Site
from tests.e2e.target import Target
from tests.e2e.test_access import call, command
from tests.e2e.test_tcp import connect, echo


@pytest.fixture
def target() -> Iterator[Target]:
    with Target() as target:
        yield target


@pytest.fixture
def engine() -> dict[str, int]:
    return {}


@pytest.fixture
def site(tmp_path: Path, engine: dict[str, int]) -> Iterator[Site]:
    site = Site(
        tmp_path / "data", engine=engine,
        server_args=["--tcp-ports", "1024-65535", "--workers", "2"],
    )  # fmt: skip
    yield site
    site.close()


def requests(site: Site, query: str) -> list[dict[str, Any]]:
    status, page = call(site, "GET", f"/api/v1/requests?{query}")
    assert status == 200, page
    found: list[dict[str, Any]] = page["items"]
    return found


def admin(site: Site, *words: str) -> str:
    url = f"http://127.0.0.1:{site.admin_port}"
    done = run(*words, "--admin", url, PROXY_ENGINE_ADMIN_TOKEN=site.admin_token)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.sanitized
def test_what_runs_is_listed_found_and_gone_when_it_has_ended(site: Site, target: Target) -> None:
    with echo() as port, ExitStack() as stack:
        site.connect({"web": target.port}, f"--tcp=db:0=127.0.0.1:{port}")
        assert requests(site, "state=open") == []
        visitor = stack.enter_context(site.begin("/slow?token=hunter2", "X-Request-Id: mine"))
        download = stack.enter_context(site.begin_download("/endless")[0])
        url = next(each["url"] for each in call(site, "GET", "/api/v1/tunnels")[1]["items"]
                   if each["name"] == "db")  # fmt: skip
        stack.enter_context(connect(int(url.rpartition(":")[2])))
        wait_until(lambda: len(requests(site, "state=open")) == 3)
        found = {each["path"] or "tcp": each for each in requests(site, "state=open")}
        slow = found["/slow?token=[redacted]"]
        assert (slow["state"], slow["status"], slow["tunnel"], slow["device"]) == (
            "open", 0, "web", "default",
        )  # fmt: skip
        assert (found["/endless"]["status"], found["/endless"]["state"]) == (200, "open")
        assert found["/endless"]["bytes_out"] > 64 * 1024
        assert (found["tcp"]["method"], found["tcp"]["tunnel"]) == ("TCP", "db")

        for query, paths in [
            ("tunnel=web", {"/slow?token=[redacted]", "/endless"}), ("device=nobody", set()),
            ("method=TCP", {""}), ("path=SLOW", {"/slow?token=[redacted]"}),
            ("request_id=mine", {"/slow?token=[redacted]"}), ("status=2xx", {"/endless"}),
            ("min_ms=3600000", set()),
        ]:  # fmt: skip
            assert {each["path"] for each in requests(site, f"state=open&{query}")} == paths, query
        assert len(requests(site, "state=open&limit=1")) == 1
        assert call(site, "GET", "/api/v1/requests/mine")[1]["state"] == "open"
        assert call(site, "GET", "/api/v1/requests?state=open&cursor=x")[0] == 400
        assert call(site, "GET", "/api/v1/requests/stats?state=open")[0] == 400
        assert call(site, "GET", "/api/v1/requests/theirs")[0] == 404

        shown = admin(site, "requests", "list", "--state", "open", "--json")
        assert len(shown.splitlines()) == 3
        assert "hunter2" not in shown
        lines = admin(site, "requests", "list", "--state", "open", "--tunnel", "web").splitlines()
        assert ["/endless" in line for line in lines] in ([True, False], [False, True])
        exported = admin(site, "requests", "export", "--state", "open").splitlines()
        assert {json.loads(line)["state"] for line in exported} == {"open"}
        local = run("requests", "list", "--state", "open", "--data-dir", str(site.data_dir))
        assert local.returncode != 0
        assert "only a running server" in local.stderr

        visitor.reset()
        download.reset()
        wait_until(lambda: len(requests(site, "state=open")) == 1)
        wait_until(lambda: requests(site, "request_id=mine"))
        assert call(site, "GET", "/api/v1/requests/mine")[1]["state"] == "aborted"


def wait_ends(site: Site, state: str, wanted: set[tuple[int, str]]) -> None:
    """Until there are such records: those that ended so, with this status and reason."""

    def are_there() -> bool:
        found = requests(site, f"state={state}")
        assert {each["state"] for each in found} <= {state}
        return wanted <= {(each["status"], each["reason"]) for each in found}

    wait_until(are_there)


@pytest.mark.parametrize("engine", [{"response_timeout_ms": 5000}])
def test_how_requests_ended_is_searchable(site: Site, target: Target) -> None:
    agent = site.connect({"web": target.port, "none": 1})
    assert site.get("web", "/kib").status == 200
    assert site.get("none", "/").status == 502
    assert site.get("web", "/hang").status == 504
    site.begin("/endless").reset()
    with site.begin_download("/endless")[0] as visitor:
        visitor.reset()
    # What a visitor who has gone takes along is not what the agent does.
    wait_ends(site, "aborted", {(200, "visitor_gone")})
    agent.end()
    site.wait_online("web", False)
    assert site.get("web", "/gone").status == 503
    for state, wanted in [
        ("closed", {(200, "")}),
        ("unavailable", {(502, "refused"), (503, "device_offline")}),
        ("timeout", {(504, "response_timeout")}),
        ("aborted", {(200, "visitor_gone")}),
    ]:
        wait_ends(site, state, wanted)
    wait_until(lambda: requests(site, "state=open") == [])
    assert "hang" in command(site, "requests", "list", "--state", "timeout")
