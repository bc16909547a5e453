from __future__ import annotations

import pytest

from proxy_engine.values import (
    LABEL,
    Address,
    is_own_host,
    parse_address,
    parse_duration,
    parse_http_target,
    parse_pairs,
    parse_size,
    parse_tcp,
    parse_udp,
)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:80", Address("127.0.0.1", 80)),
        (":8080", Address("0.0.0.0", 8080)),
        ("[::1]:80", Address("::1", 80)),
        ("localhost:0", Address("localhost", 0)),
    ],
)
def test_addresses(text: str, address: Address) -> None:
    assert parse_address(text) == address


def test_an_ipv6_address_is_written_in_brackets() -> None:
    assert str(Address("::1", 80)) == "[::1]:80"
    assert str(Address("127.0.0.1", 80)) == "127.0.0.1:80"


@pytest.mark.parametrize(
    "text", ["", "80", "host:", "host:x", "host:65536", "::1:80", "[x]:1", "a b:1", "h/p:1", "h:٣"]
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError):
        parse_address(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("500ms", 0.5),
        ("30s", 30),
        ("5m", 300),
        ("2h", 7200),
        ("30d", 2592000),
        (12, 12),
        ("1.5s", 1.5),
    ],
)
def test_durations(text: str | float, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "-1s", "1y", "1 s", "٣s", "1e9", "999999w", "inf"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (10, 10),
        ("1048576", 1 << 20),
        ("64k", 65536),
        ("500MB", 500_000_000),
        ("1.5 GiB", 3 << 29),
        ("2T", 2 << 40),
    ],
)
def test_sizes(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "MB", "-1", "1e9", "5 elephants", "1bb", "٣k", "2000000T"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError):
        parse_size(text)


def test_pairs_may_be_repeated_or_joined_by_commas() -> None:
    assert parse_pairs(["a=1", "b=2,c=3=4"]) == {"a": "1", "b": "2", "c": "3=4"}


@pytest.mark.parametrize("items", [["a"], ["=1"], ["a="], ["a=1", "a=2"]])
def test_what_is_no_pair(items: list[str]) -> None:
    with pytest.raises(ValueError):
        parse_pairs(items)


@pytest.mark.parametrize("name", ["a", "web", "a-b", "0", "a" * 63])
def test_labels(name: str) -> None:
    assert LABEL.fullmatch(name)


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a.b", "a_b", "a" * 64, "é", "a\n"])
def test_what_is_no_label(name: str) -> None:
    assert not LABEL.fullmatch(name)


def test_a_target_may_be_a_socket_of_this_machine() -> None:
    target = parse_http_target("unix:/run/app.sock")
    assert str(target) == "unix:/run/app.sock"
    assert target.address.is_unix and not target.is_tls
    assert str(parse_tcp("5432", "unix:@db").target) == "unix:@db"
    for text in ("unix:", "unix:/", "unix:@", "unix:app", "unix:/a\0b", "unix:/" + "é" * 54):
        with pytest.raises(ValueError, match="unix"):
            parse_http_target(text)
    with pytest.raises(ValueError, match="HOST:PORT"):
        parse_udp("53", "unix:/run/dns")


@pytest.mark.parametrize(
    ("authority", "is_own"),
    [
        ("127.0.0.1:9090", True),
        ("[::1]:9090", True),
        ("localhost", True),
        ("LOCALHOST.:80", True),
        ("admin.localhost:80", True),
        ("admin.example:80", True),
        ("evil.example", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example:80", False),
        ("", False),
    ],
)
def test_a_host_that_is_ours(authority: str, is_own: bool) -> None:
    assert is_own_host(authority, ["admin.example"]) is is_own
