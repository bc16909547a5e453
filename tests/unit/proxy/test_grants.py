from __future__ import annotations

import msgspec
import pytest

from proxy_engine import grants
from proxy_engine.errors import UsageError
from proxy_engine.grants import Limits, PortRange, Scopes


def test_scopes_are_read_from_words() -> None:
    scopes = grants.parse_scopes(["tunnel=web-*,tunnel=api", "port=2000-2010, port=22"])
    assert scopes == Scopes(
        tunnels=("web-*", "api"), ports=(PortRange(2000, 2010), PortRange(22, 22))
    )
    assert grants.parse_scopes(["read-only"]) == Scopes(read_only=True)
    assert grants.parse_scopes([]) == grants.ANY


def test_what_is_not_named_is_not_bounded() -> None:
    assert grants.ANY.allows_tunnel("x")
    assert grants.ANY.allows_device("x")
    assert grants.ANY.allows_port(1)
    scopes = grants.parse_scopes(["port=2000-2010"])
    assert scopes.allows_tunnel("x")
    assert [port for port in (1999, 2000, 2010, 2011) if scopes.allows_port(port)] == [2000, 2010]


def test_none_bounds_to_nothing() -> None:
    scopes = grants.parse_scopes(["port=none", "tunnel=none"])
    assert not scopes.allows_port(80)
    assert not scopes.allows_tunnel("web")


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("web-*", "web-1", True),
        ("web-*", "web-", True),
        ("web-*", "web", False),
        ("web-*", "my-web-1", False),
        ("w?b", "web", True),
        ("w?b", "weeb", False),
        ("web", "web.evil", False),
        ("a.b", "axb", False),
        ("web", "WEB", False),
    ],
)
def test_patterns_match_the_whole_name(pattern: str, name: str, matches: bool) -> None:
    assert grants.parse_scopes([f"tunnel={pattern}"]).allows_tunnel(name) is matches


@pytest.mark.parametrize(
    "text",
    [
        "tunnel", "tunnel=", "tunel=web", "tunnel=a[b]", "tunnel=a b", "port=0", "port=70000",
        "port=20-10", "port=a", "port=1-2-3", "read-only=1", "tunnel=" + "x" * 64, "port=٣",
    ],
)  # fmt: skip
def test_a_scope_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        grants.parse_scopes([text])


def test_a_typing_error_is_met_with_a_suggestion() -> None:
    with pytest.raises(UsageError, match='did you mean "tunnel"'):
        grants.parse_scopes(["tunel=web"])
    with pytest.raises(UsageError, match='did you mean "tunnels"'):
        grants.parse_limits(["tunnel=5"])


def test_limits_are_read_from_words() -> None:
    assert grants.parse_limits(["tunnels=5"]) == Limits(tunnels=5)
    assert grants.parse_limits(["connections=9,requests=100/s", "bandwidth=1.5MB/s"]) == Limits(
        connections=9, requests=100, bandwidth=1_500_000
    )
    assert grants.parse_limits(["bandwidth=1024", "requests=7"]).shared == (0, 7, 1024)
    assert grants.parse_limits(["bandwidth=1MiB"]).texts() == ["bandwidth=1MiB/s"]
    assert grants.parse_some_limits(["bandwidth=0"]) == {"bandwidth": 0}
    for text in (
        "tunnels", "tunnels=-1", "tunnels=1.5", "tunnels=1000001", "bytes=1", "requests=5/m",
        "connections=5/s", "bandwidth=fast", "bandwidth=101GB/s", "bandwidth=-1", "bandwidth",
    ):  # fmt: skip
        with pytest.raises(UsageError):
            grants.parse_limits([text])


@pytest.mark.parametrize(
    "words",
    [[], ["device=a*"], ["tunnel=none", "port=none"], ["tunnel=a", "port=1-2", "port=5"],
     ["read-only"]],
)  # fmt: skip
def test_texts_and_json_say_the_same(words: list[str]) -> None:
    scopes = grants.parse_scopes(words)
    assert scopes.texts() == words
    assert msgspec.json.decode(msgspec.json.encode(scopes), type=Scopes) == scopes


def test_scopes_have_to_fit_the_kind() -> None:
    grants.check(Scopes(read_only=True), "admin")
    grants.check(Scopes(tunnels=("a",)), "device")
    for scopes, kind in [
        (Scopes(read_only=True), "device"),
        (Scopes(tunnels=("a",)), "admin"),
        (Scopes(ports=(PortRange(5, 4),)), "device"),
        (Scopes(tunnels=("a\n",)), "device"),
    ]:
        with pytest.raises(UsageError):
            grants.check(scopes, kind)


def test_too_many_scopes_are_refused() -> None:
    with pytest.raises(UsageError, match="more than 64"):
        grants.parse_scopes([f"port={number}" for number in range(1, 66)])


def test_other_devices_tunnels_are_joined_only_with_a_scope() -> None:
    assert not grants.ANY.allows_connect("pi/db")
    scopes = grants.parse_scopes(["connect=pi/*", "connect=*/ssh"])
    assert scopes.texts() == ["connect=pi/*", "connect=*/ssh"]
    grants.check(scopes, "device")
    found = [x for x in ("pi/db", "pi2/db", "pi2/ssh", "pi", "a/b/ssh") if scopes.allows_connect(x)]
    assert found == ["pi/db", "pi2/ssh", "a/b/ssh"]
    assert not grants.parse_scopes(["connect=none"]).allows_connect("pi/db")
    for text in ("connect=pi", "connect=", "connect=a/b/c", "connect=a /b"):
        with pytest.raises(UsageError):
            grants.parse_scopes([text])
