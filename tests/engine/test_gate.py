"""Who may come to a tunnel with options, by changes while visitors are there."""

from __future__ import annotations

import hashlib
import itertools
import json
import socket
from base64 import b64encode
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pytest

from tests.engine.harness import (
    DATA,
    OK_HELLO,
    RST,
    WORKERS,
    Device,
    Server,
    Visitor,
    serving,
    wait_until,
)

if TYPE_CHECKING:
    from proxy_engine_core.core import BasicAuth, RoutePolicy

SALT = b"0123456789abcdef"
HERE = "127.0.0.0/8"
ELSEWHERE = "192.0.2.0/24"
UPGRADE = "Connection: Upgrade\r\nUpgrade: echo\r\n"
SWITCHED = b"HTTP/1.1 101 S\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"


def set_policy(server: Server, devices: Sequence[Device], policy: RoutePolicy | None) -> None:
    links = [device.link for device in devices]
    server.routes(
        [
            ("set", "host:web.test", 5, links, "web", policy),
            ("set", "name:web", 5, links, "web", policy),
        ]
    )
    server.settle()


def login(user: str, password: str) -> str:
    token = b64encode(f"{user}:{password}".encode()).decode()
    return f"Authorization: Basic {token}\r\n"


def auth(*who: tuple[str, str]) -> BasicAuth:
    tokens = [b64encode(f"{user}:{password}".encode()) for user, password in who]
    digests = [hashlib.sha256(SALT + token).digest() for token in tokens]
    return {"realm": "The shed", "salt": SALT, "digests": digests}


def serve_one(device: Device, stream: int | None = None) -> tuple[int, str]:
    """Answer the next request: its stream and its head."""
    stream, head = device.request(stream=stream)
    device.data(stream, OK_HELLO)
    return stream, head.decode()


def refused(server: Server, visitor: Visitor, status: int, reason: str) -> dict[str, str]:
    """The fields of an answer of our own, which the log has as well."""
    answer = visitor.response()
    assert (answer.status, json.loads(answer.body)["error"]) == (status, reason)
    record = server.log()
    assert (record.status, record.reason, record.route) == (status, reason, 5)
    return answer.fields


# --- requests ---------------------------------------------------------------------------------


def test_each_change_is_for_the_next_request_of_an_open_connection() -> None:
    with serving() as server:
        device = server.device(tunnel=None)
        visitor = server.visitor()
        stream = None
        changes: list[tuple[RoutePolicy, int, str]] = [
            ({"disabled": True}, 404, "tunnel_disabled"),
            ({"deny": [HERE]}, 403, "address_denied"),
            ({"allow": [ELSEWHERE]}, 403, "address_denied"),
            ({"maintenance": {}}, 503, "maintenance"),
            ({"basic_auth": auth(("ann", "secret"))}, 401, "unauthorized"),
        ]
        for policy, status, reason in changes:
            set_policy(server, [device], None)
            visitor.get("/free")
            stream, _ = serve_one(device, stream)
            assert visitor.response().body == b"hello"
            assert server.log().reason == ""
            set_policy(server, [device], policy)
            visitor.get("/ruled")
            refused(server, visitor, status, reason)
        assert server.stat("tunnel_disabled") == 1
        assert server.stat("address_denied") == 2
        assert server.stat("maintenance_answers") == 1
        assert server.stat("unauthorized") == 1
        assert server.stat("accepted") <= 2


def test_the_answers_come_in_their_order_and_without_a_device() -> None:
    everything: RoutePolicy = {
        "disabled": True,
        "deny": [HERE],
        "maintenance": {},
        "basic_auth": auth(("ann", "secret")),
    }
    with serving() as server:
        visitor = server.visitor()
        for option, status, reason in [
            ("disabled", 404, "tunnel_disabled"),
            ("deny", 403, "address_denied"),
            ("maintenance", 503, "maintenance"),
            ("basic_auth", 401, "unauthorized"),
            ("", 503, "device_offline"),
        ]:
            set_policy(server, [], everything)
            visitor.get()
            refused(server, visitor, status, reason)
            everything.pop(option, None)  # type: ignore[misc]


def test_a_refusal_comes_before_the_body_and_ends_the_connection() -> None:
    with serving() as server:
        set_policy(server, [], {"deny": [HERE]})
        visitor = server.visitor()
        visitor.send(b"POST / HTTP/1.1\r\nHost: web.test\r\nContent-Length: 1000000\r\n\r\n")
        assert refused(server, visitor, 403, "address_denied")["connection"] == "close"
        assert visitor.rest() == b""


@pytest.mark.parametrize("wait", ["pipelined", "waiting"])
def test_requests_that_came_before_the_change_meet_it(wait: str) -> None:
    with serving(1) as server:
        device = server.device(tunnel=None, streams_max=1)
        set_policy(server, [device], None)
        first = server.visitor()
        first.get("/first")
        stream, _ = device.request()
        second = first if wait == "pipelined" else server.visitor()
        second.get("/second")
        if wait == "waiting":
            server.wait_stat("requests_queued", 1)
        set_policy(server, [device], {"disabled": True})
        device.data(stream, OK_HELLO)
        assert first.response().body == b"hello"
        assert server.log().reason == ""
        refused(server, second, 404, "tunnel_disabled")


def test_a_visitor_that_moves_is_asked_where_it_arrives() -> None:
    with serving(2) as server:
        device = server.device(tunnel=None, worker=1)
        for index in range(20):
            policy: RoutePolicy = {"deny": [HERE if index % 2 else ELSEWHERE]}
            set_policy(server, [device], policy)
            visitor = server.visitor()
            visitor.get(fields="Connection: close\r\n")
            if index % 2:
                refused(server, visitor, 403, "address_denied")
            else:
                stream, _ = device.request()
                device.data(stream, OK_HELLO.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n"))
                assert visitor.response().body == b"hello"
                assert server.log().status == 200


# --- addresses --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "address", "passes"),
    [
        ({"deny": ["192.0.2.0/24"]}, "192.0.2.7", False),
        ({"deny": ["192.0.2.0/24"]}, "192.0.3.7", True),
        ({"deny": ["192.0.2.0/24"]}, "::ffff:192.0.2.7", False),
        ({"deny": ["2001:db8::/33"]}, "2001:db8:7fff::1", False),
        ({"deny": ["2001:db8::/33"]}, "2001:db8:8000::1", True),
        ({"deny": ["::/0"]}, "192.0.2.7", False),
        ({"deny": ["0.0.0.0/0"]}, "2001:db8::1", True),
        ({"allow": ["192.0.2.7"]}, "192.0.2.7", True),
        ({"allow": ["192.0.2.7"]}, "192.0.2.8", False),
        ({"allow": ["192.0.2.0/24", "2001:db8::1"]}, "2001:db8::1", True),
        ({"allow": ["192.0.2.0/24"], "deny": ["192.0.2.7"]}, "192.0.2.7", False),
        ({"allow": ["192.0.2.0/24"], "deny": ["192.0.2.7"]}, "192.0.2.6", True),
        ({"allow": ["10.0.0.1"] * 1000 + ["192.0.2.7"]}, "192.0.2.7", True),
        # Who says nothing is the proxy itself, and left of a wrong hop nothing is believed.
        ({"allow": ["192.0.2.7"]}, "", False),
        ({"allow": ["127.0.0.1"]}, "", True),
        ({"allow": ["192.0.2.7"]}, "192.0.2.7, nonsense", False),
        ({"allow": ["192.0.2.7"]}, "192.0.2.7, 198.51.100.1", False),
    ],
    ids=str,
)
def test_the_visitor_of_a_trusted_proxy(policy: Any, address: str, passes: bool) -> None:
    with serving(WORKERS, ("127.0.0.1",)) as server:
        set_policy(server, [], policy)
        visitor = server.visitor()
        visitor.get(fields=f"X-Forwarded-For: {address}\r\n" if address else "")
        status, reason = (503, "device_offline") if passes else (403, "address_denied")
        refused(server, visitor, status, reason)


def test_who_is_no_trusted_proxy_is_not_believed() -> None:
    with serving() as server:
        set_policy(server, [], {"allow": ["192.0.2.7"]})
        visitor = server.visitor()
        visitor.get(fields="X-Forwarded-For: 192.0.2.7\r\nX-Real-IP: 192.0.2.7\r\n")
        refused(server, visitor, 403, "address_denied")


def test_an_upgrade_is_denied_like_any_request() -> None:
    with serving() as server:
        set_policy(server, [], {"deny": [HERE]})
        visitor = server.visitor()
        visitor.get(fields=UPGRADE)
        refused(server, visitor, 403, "address_denied")


# --- maintenance ------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2000, 32 * 1024])
@pytest.mark.parametrize(
    ("kind", "type_"),
    [
        ("html", "text/html; charset=utf-8"),
        ("json", "application/json"),
        ("text", "text/plain; charset=utf-8"),
    ],
)
def test_a_page_of_its_own(kind: Any, type_: str, size: int) -> None:
    body = bytes(itertools.islice(itertools.cycle(b"back at nine "), size))
    page: RoutePolicy = {"maintenance": {"retry_after": 77, "kind": kind, "body": body}}
    with serving() as server:
        set_policy(server, [], page)
        visitor = server.visitor()
        for _ in range(3):
            visitor.get(fields="Accept: text/html\r\n")
            answer = visitor.response()
            assert (answer.status, answer.body) == (503, body)
            assert answer.fields["content-type"] == type_
            assert answer.fields["retry-after"] == "77"
            assert answer.fields["cache-control"] == "no-store"
            assert answer.fields["connection"] == "keep-alive"
            record = server.log()
            assert (record.reason, record.bytes_out > size) == ("maintenance", True)
        visitor.send(b"HEAD / HTTP/1.1\r\nHost: web.test\r\n\r\n")
        answer = visitor.response(is_head=True)
        assert answer.fields["content-length"] == str(size)
        visitor.get()
        assert visitor.response().body == body


def test_without_a_page_the_answer_is_ours() -> None:
    with serving() as server:
        set_policy(server, [], {"maintenance": {}})
        visitor = server.visitor()
        visitor.get()
        assert refused(server, visitor, 503, "maintenance")["retry-after"] == "300"
        visitor.get(fields="Accept: text/html\r\n")
        answer = visitor.response()
        assert answer.fields["content-type"] == "text/html; charset=utf-8"
        assert b"reason: maintenance" in answer.body


def test_a_slow_reader_of_a_page_outlives_the_policy() -> None:
    body = b"x" * 32768
    with serving() as server:
        set_policy(server, [], {"maintenance": {"body": body}})
        visitor = server.visitor(receive_buffer=4096)
        asked = 40
        for _ in range(asked):
            visitor.get()
        server.wait_stat("responses_local", 3)
        set_policy(server, [], None)
        statuses = [visitor.response() for _ in range(asked)]
        assert {answer.body for answer in statuses if answer.status == 503} >= {body}


# --- basic auth -------------------------------------------------------------------------------


def test_who_knows_a_password_passes_and_the_target_does_not_hear_it() -> None:
    with serving() as server:
        device = server.device(tunnel=None)
        set_policy(server, [device], {"basic_auth": auth(("ann", "secret"), ("bob", "päss:word"))})
        visitor = server.visitor()
        visitor.get()
        fields = refused(server, visitor, 401, "unauthorized")
        assert fields["www-authenticate"] == 'Basic realm="The shed", charset="UTF-8"'
        stream = None
        for who in (("ann", "secret"), ("bob", "päss:word")):
            for scheme in ("Basic", "basic", "BASIC ", "Basic  "):
                line = login(*who).replace("Basic", scheme)
                visitor.get(fields=f"X-Before: 1\r\n{line}X-Behind: 2\r\n")
                stream, head = serve_one(device, stream)
                assert visitor.response().body == b"hello"
                assert "authorization" not in head.lower()
                assert "X-Before: 1\r\nX-Behind: 2\r\n" in head


@pytest.mark.parametrize(
    "fields",
    [
        login("ann", "Secret"),
        login("ann", ""),
        login("Ann", "secret"),
        login("ann", "secret "),
        login("", ""),
        login("ann", "secret").replace("Basic", "Bearer"),
        login("ann", "secret").replace("Basic ", "Basic"),
        login("ann", "secret").replace("Basic ", "Basic\t"),
        login("ann", "secret").replace("=\r\n", "\r\n"),
        login("ann", "secret").replace("=\r\n", "==\r\n"),
        login("ann", "secret").replace("\r\n", ", Basic x\r\n"),
        login("ann", "secret") * 2,
        login("ann", "secret") + "Authorization: Bearer x\r\n",
        login("ann", "secret").replace("Authorization", "Proxy-Authorization"),
        login("ann", "x" * 2000),
        "Authorization: Basic\r\n",
        "Authorization: Basic \r\n",
        "Authorization: ann:secret\r\n",
        "Authorization:\r\n",
    ],
)
def test_who_does_not_is_asked(fields: str) -> None:
    with serving() as server:
        set_policy(server, [], {"basic_auth": auth(("ann", "secret"), ("bob", "x"))})
        visitor = server.visitor()
        visitor.get(fields=fields)
        refused(server, visitor, 401, "unauthorized")
        visitor.get(fields=login("ann", "secret"))
        refused(server, visitor, 503, "device_offline")


# --- connections that are open when the options change ------------------------------------------


def upgraded(server: Server, device: Device, fields: str = "") -> tuple[Visitor, int]:
    visitor = server.visitor()
    visitor.get(fields=UPGRADE + fields)
    stream, _ = device.request()
    device.data(stream, SWITCHED)
    assert visitor.response().status == 101
    return visitor, stream


def reset_of(device: Device, stream: int) -> None:
    while not device.next(stream).flags & RST:
        pass


@pytest.mark.parametrize(
    ("policy", "reason"),
    [({"disabled": True}, "tunnel_disabled"), ({"deny": [HERE]}, "address_denied")],
    ids=["disabled", "denied"],
)
def test_an_open_websocket_is_closed(policy: Any, reason: str) -> None:
    with serving() as server:
        device = server.device(tunnel=None)
        set_policy(server, [device], {"deny": [ELSEWHERE]})
        visitor, stream = upgraded(server, device)
        visitor.send(b"ping")
        assert device.next(stream, DATA).payload == b"ping"
        set_policy(server, [device], policy)
        reset_of(device, stream)
        assert visitor.is_cut_off()
        record = server.log()
        assert (record.status, record.reason) == (101, reason)
        assert server.stat("tunnels_turned_away") == 1


def test_only_those_who_are_turned_away_are_closed() -> None:
    with serving(WORKERS, ("127.0.0.1",)) as server:
        device = server.device(tunnel=None)
        set_policy(server, [device], None)
        good = upgraded(server, device, "X-Forwarded-For: 192.0.2.1\r\n")
        bad = upgraded(server, device, "X-Forwarded-For: 192.0.2.2\r\n")
        # A tunnel of another name, by the same visitor.
        server.routes([("set", "host:api.test", 6, [device.link], "api")])
        other = server.visitor()
        other.get(host="api.test", fields=UPGRADE + "X-Forwarded-For: 192.0.2.2\r\n")
        stream, _ = device.request()
        device.data(stream, SWITCHED)
        assert other.response().status == 101
        policies: list[RoutePolicy] = [
            {"basic_auth": auth(("ann", "secret")), "maintenance": {}},
            {"deny": ["192.0.2.2"]},
            {"deny": ["192.0.2.2"], "allow": ["192.0.2.0/24"]},
        ]
        for policy in policies:
            set_policy(server, [device], policy)
        reset_of(device, bad[1])
        assert bad[0].is_cut_off()
        for visitor, number in (good, (other, stream)):
            visitor.send(b"still here")
            assert device.next(number, DATA).payload == b"still here"
        assert server.stat("tunnels_turned_away") == 1


@pytest.mark.parametrize("workers", [1, 2])
def test_a_thousand_changes_in_one_turn(workers: int) -> None:
    with serving(workers) as server:
        device = server.device(tunnel=None)
        set_policy(server, [device], None)
        open_ones = [upgraded(server, device) for _ in range(10)]
        link = [device.link]
        ops: list[Any] = [
            ("set", f"host:t{index}.test", 1000 + index, link, "t", {"deny": [HERE]})
            for index in range(1000)
        ]
        again: Any = ("set", "host:web.test", 5, link, "web", {"deny": [HERE]})
        # Set, replaced by the same, taken away and set again before anybody has looked.
        server.routes([*ops[:500], again, again, ("delete", "host:web.test"), again, again, *ops])
        for visitor, stream in open_ones:
            reset_of(device, stream)
            assert visitor.is_cut_off()
        assert server.stat("tunnels_turned_away") == 10
        server.routes([("delete", op[1]) for op in ops])


# --- TCP tunnels --------------------------------------------------------------------------------


class Tcp:
    def __init__(self, server: Server) -> None:
        self.server = server
        self.port = server.engine.tcp_listen("127.0.0.1", 0)

    def set(self, device: Device | None, policy: RoutePolicy | None) -> None:
        links = [] if device is None else [device.link]
        self.server.routes([("set", f"tcp::{self.port}", 3, links, "db", policy)])
        self.server.settle()

    def connect(self) -> Visitor:
        visitor = Visitor(self.port)
        self.server.wires.append(visitor)
        return visitor


@pytest.mark.parametrize(
    ("policy", "reason"),
    [({"disabled": True}, "tunnel_disabled"), ({"allow": [ELSEWHERE]}, "address_denied")],
    ids=["disabled", "denied"],
)
def test_a_tcp_tunnel_refuses_and_closes(policy: Any, reason: str) -> None:
    with serving() as server:
        tcp = Tcp(server)
        device = server.device(tunnel=None)
        tcp.set(device, {"allow": [HERE]})
        open_one = tcp.connect()
        stream = device.opened()
        connecting = tcp.connect()  # the target has not accepted it yet
        second = device.opened()
        device.accept(stream)
        device.data(stream, b"220 hello")
        assert open_one.take(9) == b"220 hello"
        tcp.set(device, policy)
        for visitor, number in ((open_one, stream), (connecting, second)):
            reset_of(device, number)
            assert visitor.is_cut_off()
            assert server.log().reason == reason
        late = tcp.connect()
        assert late.is_cut_off()
        record = server.log()
        assert (record.method, record.status, record.reason) == ("TCP", 0, reason)
        assert server.stat("tunnels_turned_away") == 2
        assert server.stat("tcp_refused") == 1
        tcp.set(device, None)
        again = tcp.connect()
        device.accept(device.opened())
        again.send(b"welcome")


def test_the_address_of_a_tcp_visitor_is_the_one_of_its_proxy_header() -> None:
    with serving(WORKERS, ("127.0.0.1",), tcp_proxy_protocol=1) as server:
        tcp = Tcp(server)
        tcp.set(None, {"deny": ["192.0.2.7"]})
        for address, reason in (("192.0.2.7", "address_denied"), ("192.0.2.8", "device_offline")):
            visitor = tcp.connect()
            visitor.send(f"PROXY TCP4 {address} 127.0.0.1 1000 {tcp.port}\r\n".encode())
            assert visitor.is_cut_off()
            record = server.log()
            assert (record.visitor, record.reason) == (address, reason)


def test_the_address_of_who_joins_by_a_token_is_the_one_of_its_request() -> None:
    with serving(2, ("127.0.0.1",)) as server:
        device = server.device(tunnel=None, worker=1)
        server.routes([("set", "tcp:db", 3, [device.link], "db", {"deny": ["192.0.2.7"]})])
        for _ in range(6):  # on either worker
            sock = socket.create_connection(("127.0.0.1", server.port))
            visitor = Visitor.__new__(Visitor)
            super(Visitor, visitor).__init__(sock)
            server.wires.append(visitor)
            visitor.send(
                b"GET /_proxy/tcp/printer/db HTTP/1.1\r\nHost: x\r\n"
                b"X-Forwarded-For: 192.0.2.7\r\n\r\n"
            )
            ticket = server.event(1)[1]
            answer = b"HTTP/1.1 101 S\r\n\r\n"
            server.engine.auth_reply(ticket, answer, accept=True, tunnel="db")
            assert wait_until(visitor.is_cut_off)
            record = server.log()
            assert (record.visitor, record.reason) == ("192.0.2.7", "address_denied")
