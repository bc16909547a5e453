from __future__ import annotations

import msgspec
import pytest

from proxy_engine import listeners
from proxy_engine.errors import UsageError
from proxy_engine.settings.config import Settings
from proxy_engine.values import Address, HttpTarget, Listen, parse_http_target, parse_listen

ANY = Address("0.0.0.0", 443)


def _settings(*texts: str, cert: str = "") -> Settings:
    return Settings(listen=tuple(map(parse_listen, texts)), tls_cert=(cert,) if cert else ())


def _chosen(settings: Settings) -> list[str]:
    return [each.scheme for each in listeners.chosen(settings)]


def test_an_address_alone_has_tls_as_soon_as_there_is_a_certificate() -> None:
    assert _chosen(_settings("0.0.0.0:80")) == ["http"]
    assert _chosen(_settings("0.0.0.0:443", cert="a.pem")) == ["https"]
    assert _chosen(_settings("0.0.0.0:443", "http://0.0.0.0:80", cert="a.pem")) == ["https", "http"]


def test_what_contradicts_itself_is_refused() -> None:
    with pytest.raises(UsageError, match=r"https://0\.0\.0\.0:443 needs a certificate"):
        listeners.chosen(_settings("https://0.0.0.0:443"))
    with pytest.raises(UsageError, match="every listen is http://"):
        listeners.chosen(_settings("http://0.0.0.0:80", cert="a.pem"))
    for given in (_settings("0.0.0.0:80"), _settings("0.0.0.0:443", cert="a.pem")):
        with pytest.raises(UsageError, match="https_redirect needs a listen with http://"):
            listeners.chosen(msgspec.structs.replace(given, https_redirect=True))


def test_urls_name_the_listener_with_tls() -> None:
    plain, secret = Listen(ANY, "http"), Listen(ANY, "https")
    assert listeners.public([plain]) == plain
    assert listeners.public([plain, secret]) == secret
    assert listeners.origin("https", "web.example.com", 443) == "https://web.example.com"
    assert listeners.origin("https", "web.example.com", 80) == "https://web.example.com:80"
    assert listeners.origin("http", "web.example.com", 80) == "http://web.example.com"


@pytest.mark.parametrize("text", ["ftp://a:1", "https://", "https://a", "a", "https://a:1/x"])
def test_what_is_no_listener_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_listen(text)


def test_listeners_are_shown_as_they_are_written() -> None:
    for text in ("127.0.0.1:80", "https://[::1]:443", "http://0.0.0.0:80"):
        assert str(parse_listen(text)) == text


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("127.0.0.1:3000", HttpTarget(Address("127.0.0.1", 3000))),
        ("http://app:3000", HttpTarget(Address("app", 3000))),
        ("http://app/", HttpTarget(Address("app", 80))),
        ("https://app", HttpTarget(Address("app", 443), True)),
        ("https://[::1]:8443/", HttpTarget(Address("::1", 8443), True)),
        ("https://[::1]", HttpTarget(Address("::1", 443), True)),
    ],
)
def test_targets_of_http_tunnels(text: str, target: HttpTarget) -> None:
    assert parse_http_target(text) == target
    assert parse_http_target(str(target)) == target


@pytest.mark.parametrize("text", ["app", "ws://app:1", "https://app/path", "https://u@app", ""])
def test_what_is_no_target_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_http_target(text)
