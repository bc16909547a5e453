"""What a tunnel's options change in its requests and responses, on live connections."""

from __future__ import annotations

from typing import Any

import h11
import pytest

from tests.engine.harness import DATA, OK_HELLO, REFUSED, WORKERS, Device, Visitor, serving
from tests.engine.test_gate import refused, serve_one, set_policy

EVERYTHING: Any = {
    "strip_prefix": "/api",
    "host": "app.internal",
    "request_headers": [("set", "X-Tenant", "shed"), ("remove", "Cookie")],
    "response_headers": [("set", "Server", "shed"), ("remove", "X-Powered-By")],
}


def answer(device: Device, stream: int, head: str, body: bytes = b"hello") -> None:
    size = f"Content-Length: {len(body)}\r\n\r\n".encode()
    device.data(stream, f"HTTP/1.1 {head}\r\n".encode() + size + body)


def test_both_directions_and_a_log_of_what_the_visitor_asked_for() -> None:
    with serving() as server:
        device = server.device(tunnel=None)
        visitor = server.visitor()
        set_policy(server, [device], EVERYTHING)
        visitor.get("/api/jobs?n=1", fields="Cookie: a=b\r\nX_Tenant: root\r\n")
        stream, head = device.request()
        found = head.decode().split("\r\n")
        assert found[:2] == ["GET /jobs?n=1 HTTP/1.1", "Host: app.internal"]
        assert {"X-Tenant: shed", "X-Forwarded-Host: web.test", "X-Forwarded-Prefix: /api"} <= set(
            found
        )
        assert "root" not in head.decode()
        assert "Cookie" not in head.decode()
        answer(device, stream, "302 F\r\nLocation: http://app.internal/x\r\nX-Powered-By: y")
        response = visitor.response()
        assert (response.status, response.body) == (302, b"hello")
        assert (response.fields["location"], response.fields["server"]) == ("/api/x", "shed")
        assert "x-powered-by" not in response.fields
        record = server.log()
        assert (record.path, record.host, record.reason) == ("/api/jobs?n=1", "web.test", "")
        # The next request of both connections is by the options of then.
        set_policy(server, [device], None)
        visitor.get("/api/jobs?n=1", fields="Cookie: a=b\r\n")
        _, text = serve_one(device, stream)
        assert text.startswith("GET /api/jobs?n=1 HTTP/1.1\r\nHost: web.test\r\nCookie: a=b\r\n")
        assert "server" not in visitor.response().fields


@pytest.mark.parametrize(("proto", "moved"), [("http", False), ("https", True)])
def test_a_redirect_to_https_behind_a_trusted_proxy(proto: str, moved: bool) -> None:
    with serving(WORKERS, ("127.0.0.1",)) as server:
        device = server.device(tunnel=None)
        set_policy(server, [device], {"host": "app.internal"})
        visitor = server.visitor()
        visitor.get(fields=f"X-Forwarded-Proto: {proto}\r\n")
        stream, _ = device.request()
        answer(device, stream, "302 F\r\nLocation: https://app.internal/x")
        assert visitor.response().fields["location"] == (
            "/x" if moved else "https://app.internal/x"
        )


@pytest.mark.parametrize(
    ("path", "status", "reason"),
    [("/apix", 404, "outside_prefix"), ("/api/../x", 400, "ambiguous_path")],
)
def test_a_path_that_is_refused_leaves_the_connection_open(
    path: str, status: int, reason: str
) -> None:
    with serving() as server:
        device = server.device(tunnel=None)
        set_policy(server, [device], EVERYTHING)
        visitor = server.visitor()
        visitor.get(path)
        refused(server, visitor, status, reason)
        visitor.get("/api/fine")
        serve_one(device)
        assert visitor.response().body == b"hello"
        assert server.stat("paths_refused") == 1
        assert server.stat("accepted") <= 2


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("change", ["other", "none", "delete"])
def test_a_response_is_changed_as_its_request_was(change: str, workers: int) -> None:
    # Its route and policy are gone by then.
    with serving(workers) as server:
        device = server.device(tunnel=None)
        visitors: list[tuple[Visitor, int]] = []
        for _ in range(5):
            set_policy(server, [device], EVERYTHING)
            visitor = server.visitor()
            visitor.get("/api/slow")
            visitors.append((visitor, device.request()[0]))
        if change == "delete":
            server.routes([("delete", "host:web.test"), ("delete", "name:web")])
        elif change == "none":
            set_policy(server, [device], None)
        else:
            set_policy(server, [device], {"response_headers": [("set", "Server", "other")]})
        server.settle()
        for visitor, stream in visitors:
            answer(device, stream, "200 OK\r\nServer: target")
            response = visitor.response()
            assert (response.body, response.fields["server"]) == (b"hello", "shed")


def test_a_response_that_never_comes_gives_its_policy_back() -> None:
    # Held by requests that are aborted, at either end, and by those of the end.
    with serving() as server:
        device = server.device(tunnel=None)
        set_policy(server, [device], EVERYTHING)
        leaving, failing, last = (server.visitor() for _ in range(3))
        for visitor in (leaving, failing, last):
            visitor.get("/api/slow")
            device.request()
        set_policy(server, [device], None)
        leaving.abort()
        assert server.log().reason == "visitor_gone"
        device.reset(4)
        assert failing.response().status == 502


def test_a_retry_is_changed_by_the_options_of_then() -> None:
    with serving() as server:
        device = server.device(tunnel=None)
        set_policy(server, [device], EVERYTHING)
        visitor = server.visitor()
        visitor.get("/api/first", fields="X-Tenant: root\r\n")
        stream, _ = serve_one(device)
        assert visitor.response().body == b"hello"
        visitor.get("/api/second", fields="X-Tenant: root\r\nCookie: a=b\r\n")
        assert device.request(stream=stream)[1].startswith(b"GET /second ")
        policy = {"strip_prefix": "/api/second", "response_headers": [("set", "Server", "new")]}
        set_policy(server, [device], policy)  # type: ignore[arg-type]
        device.fin(stream)  # the idle connection was closed meanwhile
        stream, text = serve_one(device)
        assert text.startswith("GET / HTTP/1.1\r\nHost: web.test\r\n")
        assert "X-Tenant: root\r\nCookie: a=b\r\n" in text
        assert "X-Tenant: shed" not in text
        assert visitor.response().fields["server"] == "new"
        assert server.stat("requests_retried") == 1


def test_a_retry_of_what_the_agent_refused_may_meet_a_closed_door() -> None:
    with serving() as server:
        device = server.device(tunnel=None)
        set_policy(server, [device], EVERYTHING)
        visitor = server.visitor()
        visitor.get("/api/x")
        stream, _ = device.request(accept=False)
        set_policy(server, [device], {"disabled": True})
        device.reset(stream, REFUSED)
        refused(server, visitor, 404, "tunnel_disabled")


def test_interim_responses_and_switched_protocols_are_not_changed() -> None:
    with serving() as server:
        device = server.device(tunnel=None)
        set_policy(server, [device], EVERYTHING)
        visitor = server.visitor()
        visitor.get("/api/x", fields="Connection: Upgrade\r\nUpgrade: echo\r\n")
        stream, head = device.request()
        assert b"X-Tenant: shed\r\n" in head
        assert b"Connection: Upgrade\r\nUpgrade: echo\r\n" in head
        device.data(stream, b"HTTP/1.1 103 Early\r\nLink: </a>\r\n\r\n")
        assert visitor.response().fields == {"link": "</a>"}
        device.data(stream, b"HTTP/1.1 101 S\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
        switched = visitor.response()
        assert (switched.status, "server" in switched.fields) == (101, False)
        device.data(stream, b"bytes")
        assert visitor.take(5) == b"bytes"


def test_the_largest_rules_on_the_largest_heads() -> None:
    value = "v" * 8000
    policy: Any = {
        "request_headers": [("set", "X-Long", value)],
        "response_headers": [("set", "X-Long", value)],
        "strip_prefix": "/" + "p" * 1000,
    }
    fields = "".join(f"X-Pad-{index}: {'x' * 1000}\r\n" for index in range(29))
    with serving() as server:
        device = server.device(tunnel=None)
        set_policy(server, [device], policy)
        visitor = server.visitor()
        stream = None
        for _ in range(3):
            visitor.get("/" + "p" * 1000 + "/" + "q" * 1000, fields=fields)
            stream, head = device.request(stream=stream)
            assert head.count(b"X-Pad-") == 29
            assert f"X-Long: {value}\r\n".encode() in head
            answer(device, stream, "200 OK\r\n" + fields.strip())
            response = visitor.response()
            assert response.fields["x-long"] == value
            assert response.fields["x-pad-28"] == "x" * 1000


def test_a_body_follows_its_changed_head() -> None:
    with serving() as server:
        device = server.device(tunnel=None)
        set_policy(server, [device], EVERYTHING)
        visitor = server.visitor()
        body = bytes(range(256)) * 400
        visitor.send(
            b"POST /api/up HTTP/1.1\r\nHost: web.test\r\nContent-Length: %d\r\n\r\n" % len(body)
            + body
        )
        stream, head = device.request()
        received = head.partition(b"\r\n\r\n")[2]
        assert head.startswith(b"POST /up HTTP/1.1\r\nHost: app.internal\r\n")
        while len(received) < len(body):
            received += device.next(stream, DATA).payload
        assert received == body
        answer(device, stream, "200 OK")
        assert visitor.response().body == b"hello"


# --- smuggling ------------------------------------------------------------------------------------


ATTACKS = [
    b"POST /api/x HTTP/1.1\r\nHost: web.test\r\nContent-Length: 4\r\nTransfer-Encoding: chunked"
    b"\r\n\r\n0\r\n\r\nGET /api/smuggled HTTP/1.1\r\nHost: web.test\r\n\r\n",
    b"POST /api/x HTTP/1.1\r\nHost: web.test\r\nContent-Length: 44\r\nContent-Length: 0\r\n\r\n"
    b"GET /api/smuggled HTTP/1.1\r\nHost: web.test\r\n\r\n",
    b"GET /api/x HTTP/1.1\r\nHost: web.test\r\nX-Tenant: a\n\nGET /api/smuggled HTTP/1.1\r\n\r\n",
    b"GET /api HTTP/1.1\r\nX: y HTTP/1.1\r\nHost: web.test\r\n\r\n",
    b"GET /api/x%0d%0aHost:%20evil HTTP/1.1\r\nHost: web.test\r\n\r\n",
    b"GET /api?\rGET /smuggled HTTP/1.1\r\nHost: web.test\r\n\r\n",
    b"GET /api/x HTTP/1.1\r\nHost: web.test\r\nHost: app.internal\r\n\r\n",
    b"GET http://app.internal/api/x HTTP/1.1\r\nHost: web.test\r\n\r\n",
    b"GET /api/x HTTP/1.1\r\nHost: web.test\r\nCookie: a\r\n b: c\r\n\r\n",
    b"GET /api/x HTTP/1.1\r\nHost: web.test\r\nConnection: X-Tenant, Host\r\n\r\n",
    b"GET /api/x HTTP/1.1\r\nHost: web.test\r\nX-Tenant : root\r\n\r\n",
    b"POST /api/x HTTP/1.1\r\nHost: web.test\r\nTransfer_Encoding: chunked\r\n\r\n0\r\n\r\n",
]


@pytest.mark.parametrize("raw", ATTACKS, ids=range(len(ATTACKS)))
def test_an_origin_reads_one_request_or_none(raw: bytes) -> None:
    """A strict origin on the stream, which answers what it understands."""
    with serving(head_timeout_ms=500) as server:
        device = server.device(tunnel=None)
        set_policy(server, [device], EVERYTHING)
        visitor = server.visitor()
        visitor.send(raw)
        origin = h11.Connection(h11.SERVER)
        paths: list[bytes] = []
        preamble = True
        while True:
            server.logs += server.engine.poll_logs()
            if server.logs:
                break
            device.unwrap()  # what came in behind the 101
            if not device.is_readable(0.01):
                continue
            device.pump()
            for frame in device.held:
                payload = frame.payload
                if frame.type != DATA or not payload:
                    continue
                if preamble:
                    device.accept(frame.stream)
                    payload = payload[16 + int.from_bytes(payload[14:16], "big") :]
                    preamble = False
                if not payload:
                    continue
                origin.receive_data(payload)
                while isinstance(event := origin.next_event(), h11.Event):
                    if isinstance(event, h11.Request):
                        paths.append(event.target)
                        hosts = [value for name, value in event.headers if name == b"host"]
                        assert hosts == [b"app.internal"]
                        tenants = [value for name, value in event.headers if name == b"x-tenant"]
                        assert tenants == [b"shed"]
                    if isinstance(event, h11.EndOfMessage):
                        device.data(frame.stream, OK_HELLO)
                        break
            device.held.clear()
        assert origin.trailing_data[0] == b""
        assert not [path for path in paths if b"smuggled" in path]
        assert len(paths) == (1 if server.logs[0].status == 200 else 0)
        assert all(path == b"/" or path.startswith(b"/x") for path in paths)
