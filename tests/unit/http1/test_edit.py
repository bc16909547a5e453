"""What a tunnel's options change in heads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from proxy_engine_core._testing.policy import edit_request, edit_response

if TYPE_CHECKING:
    from proxy_engine_core.core import HeaderRule, RoutePolicy


def request(path: str = "/", fields: str = "") -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: web.test\r\n{fields}\r\n".encode("latin-1")


def lines(head: bytes) -> list[str]:
    assert head.endswith(b"\r\n\r\n")
    return head.decode("latin-1").split("\r\n")[:-2]


def path_of(head: bytes) -> str:
    return lines(head)[0].split(" ")[1]


# --- the prefix ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "stripped"),
    [
        ("/api", "/"),
        ("/api/", "/"),
        ("/api?", "/?"),
        ("/api?a=/../b", "/?a=/../b"),
        ("/api/?x", "/?x"),
        ("/api/x", "/x"),
        ("/api/x/y?z", "/x/y?z"),
        ("/api/api", "/api"),
        ("/api//x", "//x"),
        ("/api/%61", "/%61"),
        ("/api/...", "/..."),
        ("/api/.well-known", "/.well-known"),
        ("/api/a..b", "/a..b"),
        ("/api/a;..", "/a;.."),
        ("/api/%2e%2e%2e", "/%2e%2e%2e"),
        ("http://web.test/api/x", "/x"),
        ("http://web.test/api", "/"),
    ],
)
def test_a_prefix_is_taken_off(path: str, stripped: str) -> None:
    head = edit_request({"strip_prefix": "/api"}, request(path))
    assert path_of(head) == stripped
    assert "X-Forwarded-Prefix: /api" in lines(head)
    assert lines(head)[1] == "Host: web.test"


@pytest.mark.parametrize(
    "path",
    ["/", "/?", "/?/api", "/ap", "/apix", "/api%2Fx", "/api%2fx", "/api;x", "/api;/x", "/API",
     "/%61pi", "/a%70i/x", "//api", "/./api", "/x/api", "/x/../api", "/api.", "/api..",
     "/api%00", "http://web.test", "http://web.test/", "http://api/"],
)  # fmt: skip
def test_a_path_outside_the_prefix_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="outside_prefix"):
        edit_request({"strip_prefix": "/api"}, request(path))


def test_an_asterisk_is_outside_every_prefix() -> None:
    with pytest.raises(ValueError, match="outside_prefix"):
        edit_request({"strip_prefix": "/api"}, b"OPTIONS * HTTP/1.1\r\nHost: web.test\r\n\r\n")


@pytest.mark.parametrize(
    "path",
    ["/api/.", "/api/..", "/api/./x", "/api/../x", "/api/x/..", "/api/x/../../..", "/api/..?x",
     "/api/%2e", "/api/%2E%2e/x", "/api/.%2e", "/api/..;/x", "/api/..;a=b/x", "/api/%2e;",
     "/api/..%2fx", "/api/..%5Cx", "/api/a%2f..%2fb", "/api/a%2F..", "/api//.."],
)  # fmt: skip
def test_dot_segments_are_refused_below_a_prefix(path: str) -> None:
    with pytest.raises(ValueError, match="ambiguous_path"):
        edit_request({"strip_prefix": "/api"}, request(path))


def test_without_a_prefix_the_path_is_the_business_of_the_target() -> None:
    assert path_of(edit_request({"host": "a"}, request("/x/../y"))) == "/x/../y"


def test_what_the_visitor_says_of_prefixes_counts_behind_a_trusted_proxy_only() -> None:
    source = request("/api/x", "X-Forwarded-Prefix: /outer\r\n")
    assert (
        lines(edit_request({"strip_prefix": "/api"}, source)).count("X-Forwarded-Prefix: /outer")
        == 0
    )
    found = lines(edit_request({"strip_prefix": "/api"}, source, is_trusted=True))
    assert [line for line in found if line.startswith("X-Forwarded-Prefix")] == [
        "X-Forwarded-Prefix: /outer", "X-Forwarded-Prefix: /api",
    ]  # fmt: skip


# --- the host -----------------------------------------------------------------------------------


def test_the_target_sees_its_own_host_and_is_told_the_visitors() -> None:
    found = lines(edit_request({"host": "app.internal:8080"}, request()))
    assert [line for line in found if "ost: " in line] == [
        "Host: app.internal:8080", "X-Forwarded-Host: web.test",
    ]  # fmt: skip


def test_a_visitor_of_http_1_0_without_a_host() -> None:
    found = lines(edit_request({"host": "app.internal"}, b"GET / HTTP/1.0\r\n\r\n"))
    assert [line for line in found if "ost: " in line] == ["Host: app.internal"]


@pytest.mark.parametrize(
    ("location", "moved"),
    [
        ("http://app.internal:8080/login?x#y", "/login?x#y"),
        ("http://APP.internal:8080/", "/"),
        ("HTTP://app.internal:8080", "/"),
        ("http://app.internal:8080?x", "/?x"),
        ("http://app.internal:8080#x", "/#x"),
        # Other hosts, also those that begin like ours.
        ("/login", None),
        ("//app.internal:8080/x", None),
        ("http://app.internal/x", None),
        ("http://app.internal:80801/x", None),
        ("http://app.internal:8080.evil.test/x", None),
        ("http://app.internal:8080@evil.test/x", None),
        ("http://app.internal:8080\\@evil.test", None),
        ("http://evil.test/http://app.internal:8080/", None),
        ("ftp://app.internal:8080/x", None),
        ("http://", None),
        ("", None),
        # What would be another host's without its origin.
        ("http://app.internal:8080//evil.test/", None),
        ("http://app.internal:8080/\\evil.test/", None),
        ("http://app.internal:8080/\t/evil.test/", None),
        ("http://app.internal:8080/a b", None),
    ],
)
def test_a_redirect_to_the_targets_host_stays_here(location: str, moved: str | None) -> None:
    source = f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()
    found = lines(edit_response({"host": "app.internal:8080"}, source))
    expected = location.strip() if moved is None else moved
    assert [line[9:].strip() for line in found if line.startswith("Location:")] == [expected]
    assert "Content-Length: 0" in found


def location_of(policy: RoutePolicy, location: str, *, is_https: bool = False) -> str:
    source = f"HTTP/1.1 302 Found\r\nLocation: {location}\r\n\r\n".encode()
    found = lines(edit_response(policy, source, is_https=is_https))
    [line] = [line for line in found if line.startswith("Location: ")]
    return line[10:]


@pytest.mark.parametrize(
    ("location", "http", "https"),
    [
        ("http://app/x", "/x", "/x"),
        # Without its scheme it would lead a visitor of http where it came from, for ever.
        ("https://app/x", "https://app/x", "/x"),
    ],
)
def test_the_scheme_of_a_redirect(location: str, http: str, https: str) -> None:
    assert location_of({"host": "app"}, location) == http
    assert location_of({"host": "app"}, location, is_https=True) == https


@pytest.mark.parametrize(
    ("location", "moved"),
    [
        ("/", "/api/"),
        ("/sub/?x", "/api/sub/?x"),
        ("/apix", "/api/apix"),
        ("/#top", "/api/#top"),
        ("http://app", "/api/"),
        ("http://app?x", "/api/?x"),
        ("http://app/sub", "/api/sub"),
        ("http://app/api/sub", "/api/sub"),
        # A target that has been told the prefix puts it there itself.
        ("/api", "/api"),
        ("/api/sub", "/api/sub"),
        ("/api?x", "/api?x"),
        ("/api#x", "/api#x"),
        # Relative to where the visitor is, or not here.
        ("sub/", "sub/"),
        ("../x", "../x"),
        ("?x", "?x"),
        ("//evil.test/", "//evil.test/"),
        ("/\\evil.test/", "/\\evil.test/"),
        ("/\t/evil.test/", "/\t/evil.test/"),
        ("http://evil.test/", "http://evil.test/"),
        ("http://app//evil.test/", "http://app//evil.test/"),
    ],
)
def test_a_redirect_gets_the_prefix_back(location: str, moved: str) -> None:
    assert location_of({"strip_prefix": "/api", "host": "app"}, location) == moved


def test_two_locations_are_nothing_we_understand() -> None:
    source = b"HTTP/1.1 302 F\r\nLocation: http://a/x\r\nLocation: http://a/y\r\n\r\n"
    assert lines(edit_response({"host": "a"}, source))[1:3] == [
        "Location: http://a/x", "Location: http://a/y",
    ]  # fmt: skip


def test_a_rule_for_locations_comes_first() -> None:
    source = b"HTTP/1.1 302 F\r\nLocation: http://a/x\r\n\r\n"
    found = lines(
        edit_response({"host": "a", "response_headers": [("set", "Location", "/home")]}, source)
    )
    assert [line for line in found if line.startswith("Location")] == ["Location: /home"]


# --- rules --------------------------------------------------------------------------------------


RULES: list[HeaderRule] = [
    ("remove", "X-Secret"),
    ("set", "X-User", "shed"),
    ("add", "X-Many", "ours"),
    ("add", "X-Many", ""),
]


@pytest.mark.parametrize("name", ["X-User", "x-user", "X_User", "x_uSER"])
def test_set_is_instead_of_every_spelling_of_a_name(name: str) -> None:
    found = lines(edit_request({"request_headers": RULES}, request(fields=f"{name}: root\r\n")))
    assert [line for line in found if "user" in line.lower()] == ["X-User: shed"]


def test_add_is_beside_what_there_is_and_remove_takes_all() -> None:
    fields = "X-Secret: 1\r\nA: 1\r\nX-Many: theirs\r\nx-secret: 2\r\nX-Secrets: 3\r\n"
    found = lines(edit_request({"request_headers": RULES}, request(fields=fields)))
    assert found[2:5] == ["A: 1", "X-Many: theirs", "X-Secrets: 3"]
    assert [line for line in found if line.startswith("X-Many")][1:] == ["X-Many: ours", "X-Many: "]
    response = b"HTTP/1.1 200 OK\r\n" + fields.encode() + b"Content-Length: 0\r\n\r\n"
    found = lines(edit_response({"response_headers": RULES}, response))
    assert found[1:5] == ["A: 1", "X-Many: theirs", "X-Secrets: 3", "Content-Length: 0"]
    assert found[5:8] == ["X-User: shed", "X-Many: ours", "X-Many: "]


def test_rules_of_one_direction_leave_the_other_alone() -> None:
    both: dict[str, Any] = {"request_headers": [("remove", "A")]}
    response = b"HTTP/1.1 200 OK\r\nA: 1\r\nContent-Length: 0\r\n\r\n"
    assert b"\r\nA: 1\r\n" in edit_response(both, response)  # type: ignore[arg-type]
    both = {"response_headers": [("remove", "A")]}
    assert b"\r\nA: 1\r\n" in edit_request(both, request(fields="A: 1\r\n"))  # type: ignore[arg-type]


def test_what_frames_a_message_is_written_as_without_rules() -> None:
    source = b"POST / HTTP/1.1\r\nHost: a\r\nX-User: 1\r\nTransfer-Encoding: chunked\r\n\r\n"
    found = lines(edit_request({"request_headers": RULES}, source))
    assert found.count("Transfer-Encoding: chunked") == 1
    assert not [line for line in found if line.startswith("Content-Length")]


def test_a_field_that_connection_names_is_dropped_and_ours_is_not() -> None:
    fields = "Connection: X-User\r\nX-User: root\r\n"
    found = lines(edit_request({"request_headers": RULES}, request(fields=fields)))
    assert [line for line in found if "User" in line] == ["X-User: shed"]
    assert not [line for line in found if line.startswith("Connection")]
