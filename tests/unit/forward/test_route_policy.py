"""What routes_apply() takes for a tunnel's options, and what it refuses."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from proxy_engine_core.core import Engine

DIGEST = b"d" * 32
AUTH = {"realm": "Printers", "salt": b"salt", "digests": [DIGEST]}


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    engine = Engine("server")
    yield engine
    engine.stop()


def apply(engine: Engine, policy: Any, key: str = "host:web.test") -> None:
    engine.routes_apply([("set", key, 1, (), "web", policy)])


@pytest.mark.parametrize(
    "policy",
    [
        None,
        {},
        {"disabled": True},
        {"allow": ["192.0.2.0/24", "2001:db8::/32"], "deny": ["192.0.2.7"]},
        {"deny": ["10.0.0.0/8"] * 1024},
        {"maintenance": {}},
        {"maintenance": {"retry_after": 604800, "kind": "json", "body": b"x" * 32768}},
        {"basic_auth": AUTH},
        {"basic_auth": {**AUTH, "digests": [DIGEST] * 64}},
        {"strip_prefix": "/api"},
        {"profile": "latency"},
        {"profile": "balanced"},
        {"strip_prefix": "/a/b.c/@d,e"},
        {"host": "app.internal"},
        {"host": "[::1]:8080"},
        {"request_headers": [("set", "Authorization", "Bearer x"), ("remove", "Cookie")]},
        {"response_headers": [("add", "Link", "</a>; rel=preload"), ("set", "Server", "")]},
    ],
    ids=lambda policy: str(policy)[:40],
)
def test_a_policy_that_is_taken(engine: Engine, policy: Any) -> None:
    apply(engine, policy)


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ({"dsabled": True}, "unknown option 'dsabled'; there are allow, basic_auth"),
        ({"allow": ["192.0.2.1/24"]}, "host bits set"),
        ({"profile": "fast"}, "unknown profile 'fast'; there are balanced, latency, throughput"),
        ({"profile": 1}, "unknown profile 1"),
        ({"deny": ["printer"]}, "'printer' is not a network"),
        ({"deny": ["10.0.0.0/8"] * 1000, "allow": ["::/0"] * 25}, "more than 1024 networks"),
        ({"maintenance": {"retry_after": 0}}, "1 to 604800 seconds"),
        ({"maintenance": {"retry_after": "soon"}}, "1 to 604800 seconds"),
        ({"maintenance": {"kind": "pdf"}}, "html, json or text, not 'pdf'"),
        ({"maintenance": {"body": b"x" * 32769}}, "0 to 32768 bytes"),
        ({"maintenance": {"body": "text"}}, "0 to 32768 bytes"),
        ({"maintenance": {"pages": 1}}, "unknown maintenance option 'pages'"),
        ({"maintenance": True}, "come as a dict"),
        ({"basic_auth": {**AUTH, "realm": 'a"b'}}, "a realm has 1 to 128"),
        ({"basic_auth": {**AUTH, "realm": "a\r\nb"}}, "printable ASCII"),
        ({"basic_auth": {**AUTH, "realm": ""}}, "a realm has 1 to 128"),
        ({"basic_auth": {**AUTH, "salt": b""}}, "a salt takes 1 to 64"),
        ({"basic_auth": {**AUTH, "digests": []}}, "1 to 64 digests"),
        ({"basic_auth": {**AUTH, "digests": [DIGEST] * 65}}, "1 to 64 digests"),
        ({"basic_auth": {**AUTH, "digests": [b"short"]}}, "a digest takes 32"),
        ({"basic_auth": {**AUTH, "password": "x"}}, "unknown basic_auth option 'password'"),
        ({"basic_auth": {"realm": "x", "digests": [DIGEST]}}, "a salt takes"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_policy_that_is_refused(engine: Engine, policy: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        apply(engine, policy)


@pytest.mark.parametrize(
    "prefix",
    ["api", "/", "/api/", "//api", "/a//b", "/a/./b", "/a/../b", "/..", "/%61pi", "/a?b", "/a#b",
     "/a b", "/a\\b", "/a;b", "/é", "/a\r\n", "/" + "a" * 1024],
)  # fmt: skip
def test_a_prefix_that_is_no_plain_path(engine: Engine, prefix: str) -> None:
    with pytest.raises(ValueError, match="strip_prefix takes a path such as /api"):
        apply(engine, {"strip_prefix": prefix})


@pytest.mark.parametrize(
    "host", ["a b", "a/b", "user@host", "a:b", "a:70000", "a:", "a\r\nX: y", "http://a", "::1"]
)
def test_a_host_that_is_none(engine: Engine, host: str) -> None:
    with pytest.raises(ValueError, match="host takes a name or an address"):
        apply(engine, {"host": host})


@pytest.mark.parametrize(
    "name",
    ["Host", "content-length", "Transfer-Encoding", "TRANSFER_ENCODING", "Connection", "Keep-Alive",
     "TE", "Trailer", "Upgrade", "Expect", "Via", "Forwarded", "X-Forwarded-For", "x_forwarded_for",
     "X-Forwarded-Prefix", "X-Real-IP", "X-Request-Id", "X-Proxy-Tunnel", "Proxy-Connection",
     "Proxy-Authorization", "Proxy-Engine-Window", "HTTP2-Settings", "Sec-WebSocket-Key",
     "Sec_WebSocket_Extensions"],
)  # fmt: skip
@pytest.mark.parametrize("direction", ["request_headers", "response_headers"])
def test_a_field_that_rules_can_not_touch(engine: Engine, direction: str, name: str) -> None:
    rules: list[tuple[str, ...]] = [("remove", name), ("set", name, "x"), ("add", name, "x")]
    for rule in rules:
        with pytest.raises(ValueError, match=f"header rules can not touch {name}"):
            apply(engine, {direction: [rule]})


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (("set", "", "x"), "is not the name of a header"),
        (("set", "A:", "x"), "is not the name of a header"),
        (("set", "A B", "x"), "is not the name of a header"),
        (("remove", "A\r\nB"), "is not the name of a header"),
        (("remove", "É"), "is not the name of a header"),
        (("set", "A" * 129, "x"), "is not the name of a header"),
        (("set", "A", "x\r\nHost: y"), "printable ASCII"),
        (("set", "A", "x\0"), "printable ASCII"),
        (("set", "A", "é"), "printable ASCII"),
        (("set", "A", " x"), "without spaces"),
        (("set", "A", "x" * 8190), "more than 8192"),
        (("set", "A"), "a header rule is"),
        (("set", "A", 1), "a header rule is"),
        (("remove", "A", "x"), "a header rule is"),
        (("drop", "A"), "a header rule is"),
        ("set", "a header rule is"),
        (None, "a header rule is"),
    ],
)
def test_a_rule_that_is_refused(engine: Engine, rule: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        apply(engine, {"request_headers": [rule]})


def test_a_number_of_rules_that_is_refused(engine: Engine) -> None:
    with pytest.raises(ValueError, match="more than 64 header rules"):
        apply(engine, {"response_headers": [("remove", "A")] * 65})


@pytest.mark.parametrize("key", ["tcp:db", "tcp::5432"])
def test_tcp_routes_take_what_needs_no_request(engine: Engine, key: str) -> None:
    apply(engine, {"disabled": False, "allow": ["::/0"], "deny": ["192.0.2.1"]}, key)
    for option in ("maintenance", "basic_auth", "strip_prefix", "host", "request_headers"):
        with pytest.raises(ValueError, match=f"unknown option '{option}'; there are allow, deny"):
            apply(engine, {option: {}}, key)
