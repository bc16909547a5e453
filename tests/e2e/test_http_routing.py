"""Which tunnel a request goes to, and what is answered when it can not go there."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.harness import Pair, Peer, RecordingTarget, Request, Tunnel, reply
from tests.ports import refusing_port

# --- routes ---


@pytest.mark.parametrize("form", ["{}.localhost", "{}.LocalHost", "{}.localhost:8080"])
def test_the_host_label_names_the_tunnel_in_any_case_and_with_any_port(
    tunnel: Tunnel, form: str
) -> None:
    host = form.format(tunnel.name.upper() if "L" in form else tunnel.name)
    with tunnel.visitor() as visitor:
        visitor.send(f"GET /x HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        response = visitor.response()
    assert (response.status, response.body) == (200, b"ok")
    [request] = tunnel.target.requests
    assert request.values("host") == [host]  # as the visitor wrote it
    tunnel.pair.expect_row(response.id, tunnel=tunnel.name, device="default", path="/x")


def test_the_authority_of_an_absolute_target_wins_over_host(tunnel: Tunnel) -> None:
    with tunnel.visitor() as visitor:
        visitor.send(b"GET http://%b/p?q HTTP/1.1\r\nHost: elsewhere.example\r\n\r\n" % tunnel.host)
        assert visitor.response().status == 200
    [request] = tunnel.target.requests
    assert (request.path, request.values("host")) == ("/p?q", [tunnel.host.decode()])


def test_x_proxy_tunnel_names_the_tunnel_and_is_not_passed_on(tunnel: Tunnel) -> None:
    with tunnel.visitor() as visitor:
        name = tunnel.name.upper().encode()
        visitor.send(b"GET / HTTP/1.1\r\nHost: any.example\r\nx-proxy-TUNNEL: %b\r\n\r\n" % name)
        assert visitor.response().status == 200
    [request] = tunnel.target.requests
    assert request.values("x-proxy-tunnel") == []
    assert request.values("host") == ["any.example"]


def test_x_proxy_tunnel_is_never_swapped_for_the_hosts_tunnel(tunnel: Tunnel) -> None:
    response = tunnel.ask("GET / HTTP/1.1", "X-Proxy-Tunnel: nobody")
    assert (response.status, response.json()["error"]) == (404, "unknown_tunnel")
    assert tunnel.target.requests == []


def test_two_tunnels_of_one_connection_are_kept_apart(tunnel: Tunnel) -> None:
    other = Tunnel(tunnel.pair, tunnel.target, tunnel.pair.tunnel())
    with tunnel.visitor() as visitor:
        visitor.send(tunnel.head() + other.head() + tunnel.head())
        ids = [visitor.response().id for _ in range(3)]
    rows = [tunnel.pair.row(found)["tunnel"] for found in ids]
    assert rows == [tunnel.name, other.name, tunnel.name]
    # The third went over the first one's connection, not the second one's.
    hosts = [[r.values("host")[0] for r in peer.requests] for peer in tunnel.target.peers]
    assert sorted(map(len, hosts)) == [1, 2]
    assert all(len(set(of_peer)) == 1 for of_peer in hosts)


@pytest.fixture
def own_pair(tmp_path: Path) -> Iterator[Callable[..., Pair]]:
    """A pair for one test, with server flags of its own."""
    pairs: list[Pair] = []

    def start(*args: str, **engine: int) -> Pair:
        pairs.append(Pair(tmp_path / "data", server_args=args, engine=engine))
        return pairs[-1]

    yield start
    for pair in pairs:
        pair.close()


def test_the_default_tunnel_gets_what_matches_no_other(
    own_pair: Callable[..., Pair], target: RecordingTarget
) -> None:
    pair = own_pair("--default-tunnel", "t3")
    pair.connect_all(target.port)
    assert pair.get("whatever").status == 200
    with pair.visitor() as visitor:
        visitor.send(b"GET / HTTP/1.0\r\n\r\n")  # no host at all
        without_host = visitor.response()
    assert without_host.status == 200
    assert pair.row(without_host.id)["tunnel"] == "t3"
    assert pair.row(pair.get("t4").id)["tunnel"] == "t4"


# --- answers of the proxy itself ---


def test_a_tunnel_nobody_knows_is_404(tunnel: Tunnel) -> None:
    before = tunnel.pair.stats()
    response = tunnel.pair.get("nobody")
    assert response.status == 404
    assert response.json() == {
        "status": 404,
        "error": "unknown_tunnel",
        "message": "There is no such tunnel here.",
        "request_id": response.id,
    }
    assert response.values("cache-control") == ["no-store"]
    row = tunnel.pair.row(response.id)
    assert (row["status"], row["reason"], row["tunnel"]) == (404, "unknown_tunnel", None)
    after = tunnel.pair.stats()
    assert after["responses_local"] == before["responses_local"] + 1
    assert tunnel.target.requests == []


def test_a_404_keeps_the_connection(tunnel: Tunnel) -> None:
    with tunnel.visitor() as visitor:
        visitor.send(b"GET / HTTP/1.1\r\nHost: nobody.localhost\r\n\r\n" + tunnel.head())
        assert visitor.response().status == 404
        assert visitor.response().status == 200


def test_a_404_for_a_request_with_a_body_closes_and_the_body_is_no_request(
    tunnel: Tunnel,
) -> None:
    smuggled = tunnel.head("GET /smuggled HTTP/1.1")
    with tunnel.visitor() as visitor:
        visitor.send(
            b"POST / HTTP/1.1\r\nHost: nobody.localhost\r\nContent-Length: %d\r\n\r\n%b"
            % (len(smuggled), smuggled)
        )
        response = visitor.response()
        assert (response.status, response.values("connection")) == (404, ["close"])
        assert visitor.is_closed()
    assert tunnel.target.requests == []


@pytest.mark.parametrize("carrier", ["ws", "tcp"])
def test_a_device_that_is_away_is_503(
    own_pair: Callable[..., Pair], target: RecordingTarget, carrier: str
) -> None:
    pair = own_pair(pool_idle_ms=60_000)
    pair.connect({"web": target.port}, transport=carrier)
    assert pair.get("web").status == 200
    assert pair.agent is not None
    start = time.monotonic()
    pair.agent.signal()
    assert pair.agent.exit_code() == 0
    # It waits for requests in flight only, not until idle connections time out.
    assert time.monotonic() - start < 20
    pair.server.log("link down")
    response = pair.get("web")
    assert (response.status, response.json()["error"]) == (503, "device_offline")
    assert response.values("retry-after") == ["2"]
    row = pair.row(response.id)
    assert (row["reason"], row["tunnel"]) == ("device_offline", "web")


def test_a_target_that_is_down_is_502(
    own_pair: Callable[..., Pair], target: RecordingTarget
) -> None:
    pair = own_pair()
    with refusing_port() as port:
        pair.connect({"web": target.port, "down": port})
        response = pair.get("down")
    assert (response.status, response.json()["error"]) == (502, "refused")
    row = pair.row(response.id)
    assert (row["status"], row["reason"], row["tunnel"]) == (502, "refused", "down")
    assert pair.get("web").status == 200


async def never(peer: Peer, request: Request) -> None:
    """Take the request and say nothing."""
    await peer.wait_ended()


def test_a_slow_target_is_504_and_its_connection_is_given_up(
    tunnel_with: Callable[..., Tunnel],
) -> None:
    tunnel = tunnel_with(response_timeout_ms=1000)
    tunnel.target.handler = never
    before = tunnel.pair.stats()
    with tunnel.visitor() as visitor:
        visitor.send(tunnel.head())
        response = visitor.response()
        assert (response.status, response.json()["error"]) == (504, "response_timeout")
        tunnel.target.handler = reply(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        visitor.send(tunnel.head())  # ... while the visitor's goes on
        assert visitor.response().status == 200
    row = tunnel.pair.row(response.id)
    assert (row["status"], row["reason"]) == (504, "response_timeout")
    assert row["total_us"] >= 1_000_000
    assert tunnel.pair.stats()["timeouts"] == before["timeouts"] + 1
    assert [len(peer.requests) for peer in tunnel.target.peers] == [1, 1]


def test_a_head_that_does_not_come_to_an_end_is_408(tunnel_with: Callable[..., Tunnel]) -> None:
    tunnel = tunnel_with(head_timeout_ms=200)
    with tunnel.visitor() as visitor:
        visitor.send(tunnel.head()[:-2])
        response = visitor.response()
        assert (response.status, response.json()["error"]) == (408, "head_timeout")
        assert visitor.is_closed()
    tunnel.pair.expect_row(response.id, status=408, reason="head_timeout")
    assert tunnel.target.requests == []


def test_a_body_that_does_not_go_on_is_408(tunnel_with: Callable[..., Tunnel]) -> None:
    tunnel = tunnel_with(body_timeout_ms=200)
    with tunnel.visitor() as visitor:
        visitor.send(tunnel.head("POST / HTTP/1.1", "Content-Length: 10") + b"12345")
        response = visitor.response()
        assert (response.status, response.json()["error"]) == (408, "body_timeout")
        assert visitor.is_closed()
    tunnel.pair.expect_row(response.id, status=408, reason="body_timeout")


def test_an_idle_connection_is_closed_without_a_word(tunnel_with: Callable[..., Tunnel]) -> None:
    tunnel = tunnel_with(keepalive_timeout_ms=1000)
    with tunnel.visitor() as visitor:
        visitor.send(tunnel.head())
        assert visitor.response().status == 200
        assert visitor.is_closed()


# --- their form ---


@pytest.mark.parametrize(
    ("accept", "is_html"),
    [
        ("text/html,application/xhtml+xml;q=0.9,*/*;q=0.8", True),
        ("TEXT/HTML;q=0.5", True),
        ("application/json", False),
        ("*/*", False),
        ("text/htmlx", False),
    ],
)
def test_errors_are_html_for_browsers_and_json_for_all_others(
    tunnel: Tunnel, accept: str, is_html: bool
) -> None:
    response = tunnel.pair.get("nobody", "/", f"Accept: {accept}")
    kind = response.values("content-type")
    text = response.body.decode()
    assert response.status == 404
    if is_html:
        assert kind == ["text/html; charset=utf-8"]
        assert text.startswith("<!doctype html>")
        assert re.findall(r"request id: ([0-9a-f]{32})<", text) == [response.id]
        assert "unknown_tunnel" in text
    else:
        assert kind == ["application/json"]
        assert json.loads(text)["request_id"] == response.id


def test_the_visitors_own_request_id_is_in_body_header_and_log(tunnel: Tunnel) -> None:
    mine = f"mine-{tunnel.name}"
    response = tunnel.pair.get("nobody", "/", f"X-Request-Id: {mine}")
    assert (response.id, response.json()["request_id"]) == (mine, mine)
    assert tunnel.pair.row(mine)["reason"] == "unknown_tunnel"


def test_an_error_answer_to_head_has_no_body(tunnel: Tunnel) -> None:
    with tunnel.visitor() as visitor:
        visitor.send(b"HEAD / HTTP/1.1\r\nHost: nobody.localhost\r\n\r\n" + tunnel.head())
        response = visitor.response("HEAD")
        assert (response.status, response.body) == (404, b"")
        assert int(response.values("content-length")[0]) > 0
        assert visitor.response().status == 200  # right behind the head
