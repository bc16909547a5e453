"""What a parsed head says, rule by rule; refusals are in the vectors."""

from __future__ import annotations

from typing import Any

import pytest

from proxy_engine_core._testing import http1

HOST = b"Host: web.example.com\r\n"
NONE, LENGTH, CHUNKED, CLOSE = range(4)


def request(
    fields: bytes = b"", *, line: bytes = b"GET / HTTP/1.1", host: bytes = HOST
) -> dict[str, Any]:
    head = http1.parse_request(line + b"\r\n" + host + fields + b"\r\n")
    assert isinstance(head, dict), head
    return head


def response(
    fields: bytes = b"", *, line: bytes = b"HTTP/1.1 200 OK", request_method: int = 1
) -> dict[str, Any]:
    head = http1.parse_response(line + b"\r\n" + fields + b"\r\n", request_method)
    assert isinstance(head, dict), head
    return head


def dropped(head: dict[str, Any]) -> list[bytes]:
    return [name for name, _, is_dropped in head["fields"] if is_dropped]


def test_head_end_is_found_at_every_offset_and_split() -> None:
    for size in range(70):
        head = b"a" * size + b"\r\n\r\n"
        assert http1.find_end([head + b"body"]) == (size + 4, 1)
        assert http1.find_end([head[at : at + 1] for at in range(len(head))]) == (
            size + 4,
            size + 4,
        )
    assert http1.find_end([b"\r\n\r", b"\r\n", b"\r\n"]) == (7, 3)
    assert http1.find_end([b"\r\n\r"]) == (0, 1)


def test_request_line_is_split_into_method_target_and_version() -> None:
    head = request(line=b"PROPFIND /a?b HTTP/1.0")
    assert (head["method_name"], head["target"], head["path"]) == (b"PROPFIND", b"/a?b", b"/a?b")
    assert (head["method"], head["minor_version"]) == (0, 0)


def test_well_known_methods_have_their_own_ids() -> None:
    names = [b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH"]
    assert [request(line=name + b" / HTTP/1.1")["method"] for name in names] == list(range(1, 8))


def test_newer_minor_version_is_treated_as_1_1() -> None:
    assert request(line=b"GET / HTTP/1.7")["minor_version"] == 1


def test_host_is_authority_without_port() -> None:
    head = request(host=b"Host: \t[2001:db8::1]:8080 \r\n")
    assert head["authority"] == b"[2001:db8::1]:8080"
    assert head["host"] == b"[2001:db8::1]"


def test_authority_of_an_absolute_target_wins_over_host() -> None:
    head = request(line=b"GET http://other.example:81/x HTTP/1.1")
    assert (head["authority"], head["host"]) == (b"other.example:81", b"other.example")
    assert head["target"] == b"http://other.example:81/x"


def test_http_1_0_without_host_has_no_authority() -> None:
    assert request(line=b"GET / HTTP/1.0", host=b"")["authority"] == b""


def test_values_lose_surrounding_white_space_only() -> None:
    head = request(b"X-A:\t b \t c \t\r\nX-B:   \r\n")
    assert head["fields"][1:] == [(b"X-A", b"b \t c", False), (b"X-B", b"", False)]


@pytest.mark.parametrize(
    ("line", "fields", "keep_alive"),
    [
        (b"GET / HTTP/1.1", b"", True),
        (b"GET / HTTP/1.1", b"Connection: close\r\n", False),
        (b"GET / HTTP/1.1", b"Connection: keep-alive, Close\r\n", False),
        (b"GET / HTTP/1.1", b"Connection: x\r\nConnection: , close ,\r\n", False),
        (b"GET / HTTP/1.0", b"", False),
        (b"GET / HTTP/1.0", b"Connection: Keep-Alive\r\n", True),
        (b"GET / HTTP/1.0", b"Connection: keep-alive\r\nConnection: close\r\n", False),
    ],
)
def test_keep_alive_follows_version_and_connection(
    line: bytes, fields: bytes, keep_alive: bool
) -> None:
    assert ("keep_alive" in request(fields, line=line)["flags"]) is keep_alive
    status_line = line[-8:] + b" 200 OK"
    assert ("keep_alive" in response(fields, line=status_line)["flags"]) is keep_alive


def test_hop_by_hop_and_forwarded_fields_are_dropped_from_requests() -> None:
    names = [
        b"Connection",
        b"Keep-Alive",
        b"Proxy-Connection",
        b"Proxy",
        b"TE",
        b"Upgrade",
        b"HTTP2-Settings",
        b"X-Forwarded-For",
        b"X-Forwarded-Host",
        b"X-Forwarded-Proto",
        b"X-Forwarded-Port",
        b"Forwarded",
        b"X-Real-IP",
        b"X-Proxy-Tunnel",
        b"X-Request-Id",
    ]
    kept = [
        b"Trailer",
        b"Via",
        b"Accept",
        b"Cookie",
        b"Authorization",
        b"Proxy-Authorization",
        b"User-Agent",
        b"X-Forwarded",
        b"X-Forwarded-",
        b"Sec-WebSocket-Protocol",
    ]
    head = request(b"".join(name + b": a\r\n" for name in names + kept))
    assert dropped(head) == [b"Host", *names]


def test_fields_nominated_by_connection_are_dropped() -> None:
    head = request(b"X-A: 1\r\nConnection: x-a, X-B\r\nConnection: via\r\nx-b: 2\r\nVia: 3\r\n")
    assert dropped(head) == [b"Host", b"X-A", b"Connection", b"Connection", b"x-b", b"Via"]
    head = response(b"Connection: X-A\r\nx-a: 1\r\nX-AB: 2\r\n")
    assert dropped(head) == [b"Connection", b"x-a"]


def test_connection_can_not_nominate_framing_routing_or_authentication() -> None:
    head = request(
        b"Connection: Host, Content-Length, Authorization, Cookie, Expect\r\n"
        b"Content-Length: 5\r\nAuthorization: a\r\nCookie: b\r\nExpect: 100-continue\r\n"
    )
    assert dropped(head) == [b"Host", b"Connection"]
    assert (head["content_length"], head["framing"]) == (5, LENGTH)
    head = request(b"Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n")
    assert dropped(head) == [b"Host", b"Connection"]
    assert head["framing"] == CHUNKED


def test_underscore_twins_of_our_fields_are_dropped() -> None:
    twins = [b"X_Forwarded_For", b"X-Real_IP", b"X_Forwarded_Client_Certificate", b"x_request_id"]
    others = [b"X_Other", b"_" * 40, b"X_Forwarded"]
    head = request(b"".join(name + b": 1\r\n" for name in twins + others))
    assert dropped(head) == [b"Host", *twins]


def test_te_keeps_its_meaning_only_for_trailers() -> None:
    assert "te_trailers" in request(b"TE: gzip, Trailers\r\n")["flags"]
    assert "te_trailers" not in request(b"TE: gzip\r\n")["flags"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"text/html", True),
        (b"*/*", False),
        (b"a/b, Text/HTML;q=0.9", True),
        (b"text/html ;q=1", True),
        (b"text/htmlx", False),
        (b"application/json", False),
        (b"", False),
    ],
)
def test_accepting_html_means_naming_it(value: bytes, expected: bool) -> None:
    assert ("accepts_html" in request(b"Accept: " + value + b"\r\n")["flags"]) is expected


def test_expect_is_ignored_and_dropped_in_http_1_0() -> None:
    fields = b"Expect: 100-continue\r\n"
    assert "expect_continue" in request(fields)["flags"]
    head = request(fields, line=b"POST / HTTP/1.0")
    assert "expect_continue" not in head["flags"]
    assert b"Expect" in dropped(head)


def test_upgrade_needs_http_1_1_and_the_connection_option() -> None:
    upgrade = b"Upgrade: WebSocket/13, x\r\n"
    head = request(upgrade + b"Connection: keep-alive, Upgrade\r\n")
    assert "upgrade" in head["flags"]
    assert head["upgrade"] == b"WebSocket/13, x"
    assert "upgrade" not in request(upgrade)["flags"]
    assert "upgrade" not in request(b"Connection: Upgrade\r\n")["flags"]
    head = request(upgrade + b"Connection: Upgrade\r\n", line=b"GET / HTTP/1.0")
    assert "upgrade" not in head["flags"]


def test_upgrade_is_ignored_for_h2c_and_for_requests_with_a_body() -> None:
    connection = b"Connection: Upgrade, HTTP2-Settings\r\n"
    for fields in (
        b"Upgrade: h2c\r\nHTTP2-Settings: AAA\r\n",
        b"Upgrade: a, H2C\r\n",
        b"Upgrade: a\r\nContent-Length: 1\r\n",
        b"Upgrade: a\r\nTransfer-Encoding: chunked\r\n",
    ):
        head = request(connection + fields)
        assert "upgrade" not in head["flags"]
        assert head["upgrade"] == b""
        assert b"Upgrade" in dropped(head)
    assert "upgrade" in request(connection + b"Upgrade: a\r\nContent-Length: 0\r\n")["flags"]


def test_tunnel_and_request_id_are_read() -> None:
    head = request(b"X-Proxy-Tunnel: web\r\nX-Request-Id: aZ0._:/+=@-\r\n")
    assert (head["tunnel"], head["request_id"]) == (b"web", b"aZ0._:/+=@-")


def test_request_id_of_a_visitor_is_only_used_when_it_is_harmless() -> None:
    assert request(b"X-Request-Id: " + b"a" * 128 + b"\r\n")["request_id"] == b"a" * 128
    for value in (b"", b"a" * 129, b"a b", b'a"', b"caf\xe9"):
        assert request(b"X-Request-Id: " + value + b"\r\n")["request_id"] == b""


def test_request_without_length_has_no_body() -> None:
    assert request()["framing"] == NONE
    assert request(b"Content-Length: 0\r\n")["framing"] == NONE


def test_answer_to_head_has_no_body() -> None:
    assert response(b"Content-Length: 5\r\n", request_method=2)["framing"] == NONE
    assert response(b"Transfer-Encoding: chunked\r\n", request_method=2)["framing"] == NONE
    assert response(request_method=2)["framing"] == NONE


def test_length_fields_of_bodiless_statuses_are_dropped() -> None:
    for status in (b"100", b"204"):
        head = response(b"Content-Length: 0\r\n", line=b"HTTP/1.1 " + status + b" X")
        assert dropped(head) == [b"Content-Length"]
    assert dropped(response(b"Content-Length: 9\r\n", line=b"HTTP/1.1 304 X")) == []


def test_only_a_101_upgrades() -> None:
    fields = b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
    assert response(fields, line=b"HTTP/1.1 101 X")["upgrade"] == b"websocket"
    assert "upgrade" not in response(fields)["flags"]
    assert "upgrade" not in response(fields, line=b"HTTP/1.0 101 X")["flags"]


def test_first_field_of_an_id_is_found() -> None:
    head = b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"
    host = http1.field_name_id(b"hOsT")
    assert http1.has_field(head, host)
    assert not http1.has_field(head, http1.field_name_id(b"cookie"))


def test_every_known_name_has_an_id_of_its_own_in_any_case() -> None:
    names = [
        "accept",
        "authorization",
        "connection",
        "content-length",
        "cookie",
        "expect",
        "forwarded",
        "host",
        "http2-settings",
        "keep-alive",
        "proxy",
        "proxy-authenticate",
        "proxy-connection",
        "te",
        "traceparent",
        "tracestate",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "via",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-proto",
        "x-proxy-tunnel",
        "x-request-id",
        "proxy-engine-direct",
        "proxy-engine-ticket",
        "proxy-engine-window",
        "sec-websocket-protocol",
        "x-real-ip",
        "x-forwarded-port",
    ]
    ids = [http1.field_name_id(name.encode()) for name in names]
    assert ids == list(range(1, len(names) + 1))
    assert [http1.field_name_id(name.upper().encode()) for name in names] == ids
    for name in names:
        for changed in (name[:-1] + "~", "~" + name[1:], name + "~"):
            if not changed.startswith("x-forwarded-"):
                assert http1.field_name_id(changed.encode()) == 0


def test_every_error_has_a_status_a_reason_and_a_sentence() -> None:
    reasons = [
        "bad_request_line",
        "bad_version",
        "version_unsupported",
        "bad_target",
        "bad_field",
        "bad_line_end",
        "bad_host",
        "bad_content_length",
        "content_length_too_big",
        "bad_transfer_encoding",
        "ambiguous_length",
        "bad_chunk",
        "bad_trailer",
        "line_too_long",
        "too_large",
        "method_not_allowed",
        "bad_status_line",
        "bad_expect",
        "bad_upgrade",
    ]
    codes = range(-1, -1 - len(reasons), -1)
    assert [http1.error_reason(code) for code in codes] == reasons
    statuses = {
        "version_unsupported": 505,
        "line_too_long": 414,
        "too_large": 431,
        "method_not_allowed": 405,
        "bad_expect": 417,
        "bad_status_line": 502,
    }
    for code, reason in zip(codes, reasons, strict=True):
        assert http1.error_status(code) == statuses.get(reason, 400)
        assert http1.error_text(code).endswith(".")


@pytest.mark.parametrize(
    ("start", "reason"),
    [
        (b"\x16\x03\x01", "bad_request_line"),
        (b"A" * 33, "bad_request_line"),
        (b"GET /\n", "bad_request_line"),
        (b"GET /\x01", "bad_target"),
        (b"GET / FTP", "bad_version"),
        (b"GET /" + b"a" * 8190, "line_too_long"),
        (b"GET / HTTP/1.1\n", "bad_line_end"),
        (b"FETCH / HTTP/1.1\r\n", "method_not_allowed"),
        (b"GET / HTTP/1.1\r\nHost: a\n", "bad_line_end"),
        (b"GET / HTTP/1.1\r\nHost: a\x00", "bad_line_end"),
        (b"GET / HTTP/1.1\r\nHost: a\x01", "bad_field"),
        (b"GET / HTTP/1.1\r\nHost: a\rb", "bad_line_end"),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 32768, "too_large"),
    ],
)
def test_junk_is_refused_before_the_head_is_complete(start: bytes, reason: str) -> None:
    assert http1.precheck(start) == reason


def test_precheck_waits_while_a_head_may_still_become_good() -> None:
    for start in (b"", b"G", b"GET", b"GET ", b"GET /a HT", b"GET / HTTP/1.1\r", b"A" * 32):
        assert http1.precheck(start) == ""
    assert http1.precheck(b"GET / HTTP/1.1\r\nX: " + b"a" * 32000) == ""


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"timeout=5", 5),
        (b"timeout=5, max=100", 5),
        (b"max=100 ,\tTimeout=30", 30),
        (b"timeout=0", 0),
        (b"timeout=", -1),
        (b"timeout=-1", -1),
        (b'timeout="5"', -1),
        (b"timeout=5s", -1),
        (b"max=1", -1),
        (b"", -1),
    ],
)
def test_how_long_a_target_says_it_keeps_idle_connections(value: bytes, seconds: int) -> None:
    head = response(b"Keep-Alive: " + value + b"\r\n")
    assert head["keep_alive_s"] == seconds
    assert dropped(head) == [b"Keep-Alive"]


def test_a_keep_alive_time_of_any_length_is_a_number() -> None:
    head = response(b"Keep-Alive: timeout=" + b"9" * 1000 + b"\r\n")
    assert 100_000_000 <= head["keep_alive_s"] <= 999_999_999
    assert response()["keep_alive_s"] == -1
