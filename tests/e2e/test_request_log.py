"""The request log: every request once, with what happened to it and no secrets."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest

from tests.e2e.harness import Pair, RecordingTarget, Tunnel, ok, reply, wait_until
from tests.e2e.processes import run


def test_a_record_tells_all_there_is(any_tunnel: Tunnel) -> None:
    any_tunnel.target.handler = reply(ok(b"x" * 1000))
    request = any_tunnel.head("POST /a/b?c=d HTTP/1.1", "Content-Length: 5") + b"hello"
    start = time.time()
    with any_tunnel.visitor() as visitor:
        visitor.send(request)
        response = visitor.response()
    row = any_tunnel.pair.row(response.id)
    assert {name: row[name] for name in (
        "visitor", "method", "host", "path", "status", "reason", "flags", "tunnel", "device",
        "bytes_in", "bytes_out",
    )} == {
        "visitor": "127.0.0.1",
        "method": "POST",
        "host": f"{any_tunnel.name}.localhost",
        "path": "/a/b?c=d",
        "status": 200,
        "reason": "",
        "flags": 0,
        "tunnel": any_tunnel.name,
        "device": "default",
        "bytes_in": len(request),
        "bytes_out": len(response.head) + 1000,
    }  # fmt: skip
    assert start - 1 < row["time_us"] / 1e6 < time.time() + 1
    assert row["first_byte_us"] == row["proxy_us"] + row["link_us"] + row["target_us"]
    assert 0 < row["first_byte_us"] <= row["total_us"] < 15_000_000
    assert (row["trace_id"], row["parent_id"], row["span_id"]) == ("", "", "")


def test_every_request_is_logged_once(any_tunnel: Tunnel) -> None:
    with any_tunnel.visitor() as visitor:
        visitor.send(b"".join(any_tunnel.head(f"GET /{number} HTTP/1.1") for number in range(500)))
        ids = [visitor.response().id for _ in range(500)]
    rows = any_tunnel.pair.wait_rows(500, host=any_tunnel.host.decode())
    assert [row["request_id"] for row in rows] == ids
    assert [row["path"] for row in rows] == [f"/{number}" for number in range(500)]
    assert [row["flags"] for row in rows] == [0] + [1] * 499  # reused


@pytest.mark.parametrize(
    ("path", "logged"),
    [
        ("/?token=hunter2", "/?token=[redacted]"),
        ("/?a=1&PASSWORD=hunter2&b=2", "/?a=1&PASSWORD=[redacted]&b=2"),
        ("/?%74oken=hunter2", "/?%74oken=[redacted]"),
        ("/?access_token=hunter2;key=hunter2", "/?access_token=[redacted];key=[redacted]"),
        ("/token=hunter3?x", "/token=hunter3?x"),
    ],
)
def test_secrets_of_a_query_are_passed_on_but_not_written_down(
    tunnel: Tunnel, path: str, logged: str
) -> None:
    response = tunnel.ask(f"GET {path} HTTP/1.1", "Authorization: Bearer hunter2")
    assert [request.path for request in tunnel.target.requests] == [path]
    row = tunnel.pair.row(response.id)
    assert row["path"] == logged
    assert "hunter2" not in json.dumps(row)


def test_a_long_path_is_cut_in_the_log_only(tunnel: Tunnel) -> None:
    path = "/" + "x" * 3000
    response = tunnel.ask(f"GET {path} HTTP/1.1")
    assert [request.path for request in tunnel.target.requests] == [path]
    assert tunnel.pair.row(response.id)["path"] == path[:1024]


def test_tail_and_api_show_the_same_records(tunnel: Tunnel) -> None:
    response = tunnel.ask("GET /shown HTTP/1.1")
    row = tunnel.pair.row(response.id)
    tail = run(
        "requests", "tail", "--json", "-n", "1000", "--data-dir", str(tunnel.pair.data_dir)
    )  # fmt: skip
    shown = [json.loads(line) for line in tail.stdout.splitlines()]
    [of_tail] = [item for item in shown if item["request_id"] == response.id]
    listed = tunnel.pair.api("/api/v1/requests?limit=1000")["items"]
    [of_api] = [item for item in listed if item["request_id"] == response.id]
    assert of_tail == of_api
    for name in ("path", "status", "tunnel", "device", "bytes_out", "total_us"):
        assert of_api[name] == row[name]


def test_counters_and_records_agree(tunnel: Tunnel) -> None:

    def at_rest() -> dict[str, int] | None:
        """Nothing of the tests before is still to be written down."""
        found = tunnel.pair.settled()
        is_so = found["log_records"] == found["requests"] - found["auth_asked"]
        return found if is_so else None

    before = wait_until(at_rest)
    assert before is not None
    for _ in range(5):
        tunnel.ask()
    tunnel.pair.get("nobody")
    tunnel.ask("GET / HTTP/1.1", "X : 1")
    wait_until(lambda: tunnel.pair.stats()["log_records"] == before["log_records"] + 7)
    after = tunnel.pair.settled()
    grown = {name: after[name] - before[name] for name in after}
    assert (grown["requests"], grown["responses"], grown["responses_local"]) == (7, 5, 2)
    assert grown["bad_requests"] == 1
    wait_until(
        lambda: tunnel.pair.stats()["request_log_written"] >= before["request_log_written"] + 7
    )


def test_the_visitor_behind_a_trusted_proxy_is_logged(
    target: RecordingTarget, tmp_path: Path
) -> None:
    pair = Pair(tmp_path / "data", server_args=["--trusted-proxy", "127.0.0.0/8,10.0.0.0/8"])
    try:
        pair.connect({"web": target.port})
        response = pair.get("web", "/", "X-Forwarded-For: 203.0.113.9, 192.0.2.7, 10.0.0.1")
        assert response.status == 200
        assert pair.row(response.id)["visitor"] == "192.0.2.7"
        [request] = target.requests
        assert request.values("x-forwarded-for") == ["203.0.113.9, 192.0.2.7, 10.0.0.1, 127.0.0.1"]
    finally:
        pair.close()


def test_the_log_is_searched_counted_and_exported(tunnel: Tunnel) -> None:
    tunnel.target.handler = reply(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")
    response = tunnel.ask("GET /for/the/search HTTP/1.1")
    tunnel.pair.row(response.id)
    data_dir = ("--data-dir", str(tunnel.pair.data_dir))
    wanted = ("--tunnel", tunnel.name, "--status", "5xx", "--since", "1h", "--path", "THE/SEARCH")
    listed = run("requests", "list", "--json", *wanted, *data_dir).stdout.splitlines()
    assert [json.loads(line)["request_id"] for line in listed] == [response.id]
    exported = run("requests", "export", "--format", "csv", *wanted, *data_dir).stdout.splitlines()
    assert len(exported) == 2
    assert response.id in exported[1]
    shown = run("requests", "show", response.id, *data_dir).stdout
    first, second, *_ = shown.splitlines()
    assert first.split() == ["request", "GET", f"{tunnel.name}.localhost/for/the/search"]
    assert second.split() == ["id", response.id]
    assert re.search(r"\nfirst byte  after \S+: proxy \S+, link \S+, target \S+\n", shown)
    unknown = run("requests", "show", "no-such-id", *data_dir)
    assert unknown.returncode == 1
    assert unknown.stderr == "proxy-engine: error: there is no such request in the log\n"
    stats = run("requests", "stats", *wanted, *data_dir).stdout
    assert stats.startswith("1 requests, ")
    assert "1 /for/the/search" in stats
    one = tunnel.pair.api(f"/api/v1/requests/{response.id}")
    assert (one["path"], one["status"], one["state"]) == ("/for/the/search", 503, "closed")
