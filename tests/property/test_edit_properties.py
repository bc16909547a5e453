"""Laws of a tunnel's options: whatever the rules, a message stays one message with the body it
had, and nothing changes but what the rules say."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from hypothesis import example, given, settings
from hypothesis import strategies as st

from proxy_engine_core._testing import http1
from proxy_engine_core._testing.policy import edit_request, edit_response
from tests.property.http1_httptools import CHUNKED, body_for
from tests.property.test_http1_properties import (
    fields_lists,
    read_by_h11,
    read_by_httptools,
    requests,
)

if TYPE_CHECKING:
    from proxy_engine_core.core import RoutePolicy

Fields = list[tuple[bytes, bytes]]

NAMES = ["X-One", "x_one", "Cookie", "Accept", "Authorization", "Server", "Set-Cookie", "Location",
         "A", "a.b", "X-New"]  # fmt: skip
rule_values = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20).map(
    str.strip
)
rules = st.lists(
    st.one_of(
        st.tuples(st.just("remove"), st.sampled_from(NAMES)),
        st.tuples(st.sampled_from(["set", "add"]), st.sampled_from(NAMES), rule_values),
    ),
    max_size=6,
)
prefixes = st.sampled_from(["/a", "/b", "/a/b", "/a.b"])
hosts = st.sampled_from(["app.internal", "[::1]:8080"])
policies: st.SearchStrategy[Any] = st.fixed_dictionaries(
    {},
    optional={
        "request_headers": rules,
        "response_headers": rules,
        "strip_prefix": prefixes,
        "host": hosts,
    },
)


def plain(name: str | bytes) -> str:
    text = name if isinstance(name, str) else name.decode("latin-1")
    return text.lower().replace("_", "-")


def changed(fields: Fields, rules: list[tuple[str, ...]]) -> Fields:
    """What the rules make of fields."""
    gone = {plain(rule[1]) for rule in rules if rule[0] != "add"}
    kept = [(name, value) for name, value in fields if plain(name) not in gone]
    return kept + [
        (rule[1].encode().lower(), rule[2].encode()) for rule in rules if rule[0] != "remove"
    ]


def stripped(target: bytes, prefix: str) -> bytes | str:
    """The target without the prefix, or why not."""
    if not prefix:
        return target
    path, mark, query = target.decode("latin-1").partition("?")
    if path != prefix and not path.startswith(prefix + "/"):
        return "outside_prefix"
    for segment in re.split("/|%2f|%5c", path, flags=re.IGNORECASE):
        if re.sub("%2e", ".", segment.partition(";")[0], flags=re.IGNORECASE) in (".", ".."):
            return "ambiguous_path"
    return ((path[len(prefix) :] or "/") + mark + query).encode("latin-1")


def fields_of(head: dict[str, Any]) -> Fields:
    return [(name.lower(), value) for name, value, _ in head["fields"]]


@settings(max_examples=400)
@given(requests(), policies, st.booleans())
def test_an_edited_request_is_read_alike_by_everyone(
    source: bytes, policy: RoutePolicy, below: bool
) -> None:
    prefix = policy.get("strip_prefix", "")
    if below and prefix:
        source = source.replace(b" /", b" " + prefix.encode() + b"/", 1)
    head = http1.parse_request(source)
    if isinstance(head, str):
        return
    target = stripped(head["path"], prefix)
    try:
        written = edit_request(policy, source)
    except ValueError as error:
        assert str(error) == target
        return
    assert isinstance(target, bytes)
    again = http1.parse_request(written)
    assert isinstance(again, dict)
    assert [again[key] for key in ("method", "framing", "content_length")] == [
        head[key] for key in ("method", "framing", "content_length")
    ]
    untouched = http1.parse_request(http1.rewrite_request(source))
    assert isinstance(untouched, dict)
    expected = changed(fields_of(untouched), list(policy.get("request_headers", [])))
    if prefix:
        expected.append((b"x-forwarded-prefix", prefix.encode()))
    if "host" in policy:
        expected[expected.index((b"host", b"a.example"))] = (b"host", policy["host"].encode())
    ours = fields_of(again)
    assert sorted(ours) == sorted(expected)

    sent = body_for(head)
    assert sent is not None
    body = b"abc" if head["framing"] == CHUNKED else sent
    request, data = read_by_h11(written + sent)
    assert (request.method, request.target, data) == (head["method_name"], target, body)
    assert [(bytes(name), bytes(value)) for name, value in request.headers] == ours
    method, seen, data = read_by_httptools(written + sent)
    assert (method, seen.target, data) == (head["method_name"], target, body)
    assert seen.fields == ours


locations = st.one_of(
    st.text("ab:/\\.?#@ \thtp", max_size=20),
    st.builds(
        "{}://{}{}".format,
        st.sampled_from(["http", "https", "HTTP", "ftp"]),
        st.sampled_from(["app.internal", "APP.internal", "[::1]:8080", "app.internal.x", ""]),
        st.text("ab:/\\.?#@ \t", max_size=8),
    ),
)


def without_origin(location: str) -> str:
    path = re.sub("^https?://[^/?#]*", "", location, flags=re.IGNORECASE)
    return path if path.startswith("/") else "/" + path


@settings(max_examples=400)
@given(fields_lists, policies, st.none() | locations, st.sampled_from([200, 302]), st.booleans())
@example([], {"host": "app.internal"}, "http://app.internal//evil", 302, True)
@example([], {"host": "app.internal"}, "https://app.internal/", 302, True)
@example([], {"strip_prefix": "/a"}, "/b?x", 302, False)
def test_an_edited_response_is_the_same_response(
    fields: Fields, policy: RoutePolicy, location: str | None, status: int, is_https: bool
) -> None:
    lines = b"".join(name + b": " + value + b"\r\n" for name, value in fields)
    if location is not None:
        lines += b"Location: " + location.encode() + b"\r\n"
    source = b"HTTP/1.1 %d OK\r\n" % status + lines + b"Content-Length: 5\r\n\r\n"
    head = http1.parse_response(source)
    if isinstance(head, str):
        return
    written = edit_response(policy, source, is_https=is_https)
    again = http1.parse_response(written)
    assert isinstance(again, dict)
    untouched = http1.parse_response(http1.rewrite_response(source))
    assert isinstance(untouched, dict)
    assert [again[key] for key in ("status", "framing", "content_length")] == [
        untouched[key] for key in ("status", "framing", "content_length")
    ]
    expected = changed(fields_of(untouched), list(policy.get("response_headers", [])))
    ours = fields_of(again)
    if sorted(ours) == sorted(expected):
        return
    # All else is a redirect that was brought back: it leads to the same path, here.
    before, *_ = [value for name, value in expected if name == b"location"]
    after, *_ = [value for name, value in ours if name == b"location"]
    expected[expected.index((b"location", before))] = (b"location", after)
    assert sorted(ours) == sorted(expected)
    was = urlsplit(before.decode())
    now = urlsplit(urljoin("http://visitor.test/some/where", after.decode()))
    assert was.netloc.lower() in (policy.get("host"), "")
    assert was.scheme in ("", "http") or is_https
    assert (now.scheme, now.netloc) == ("http", "visitor.test")
    prefix = policy.get("strip_prefix", "")
    path = without_origin(before.decode())
    assert after.decode() in (path, prefix + path)
    assert not prefix or re.match(re.escape(prefix) + "([/?#]|$)", after.decode())
    assert not re.match(rb"/[\\/]", after)


@settings(max_examples=300)
@given(
    st.text(max_size=20) | st.sampled_from(["Host", "TE", "Content_Length", "Upgrade"]),
    st.text(max_size=20),
)
@example("X: y\r\nHost", "x")
@example("X", "y\r\nHost: x")
@example("X", "y\x0b")
def test_any_rule_is_refused_or_adds_just_its_line(name: str, value: str) -> None:
    policy: RoutePolicy = {"request_headers": [("set", name, value)]}
    source = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n"
    try:
        written = edit_request(policy, source)
    except ValueError:
        return
    line = f"{name}: {value}\r\n".encode()
    assert written.replace(line, b"", 1) == http1.rewrite_request(source)
