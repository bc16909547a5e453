from __future__ import annotations

import pytest

from proxy_engine.settings.allowed import is_allowed, parse_allowed


@pytest.mark.parametrize(
    ("rules", "address", "port", "allowed"),
    [
        ([], "192.0.2.1", 1, True),
        (["10.0.0.0/8"], "10.1.2.3", 65535, True),
        (["10.0.0.0/8"], "11.1.2.3", 80, False),
        (["10.0.0.0/8", "11.0.0.0/8"], "11.1.2.3", 80, True),
        (["127.0.0.1:5432"], "127.0.0.1", 5432, True),
        (["127.0.0.1:5432"], "127.0.0.1", 5433, False),
        (["127.0.0.1:5432"], "::1", 5432, False),
        (["10.0.0.0/8:8000-8100"], "10.0.0.1", 8100, True),
        (["10.0.0.0/8:8000-8100"], "10.0.0.1", 8101, False),
        (["::1"], "::1", 80, True),
        (["fd00::/8"], "fd12::1", 80, True),
        (["[fd00::/8]:443"], "fd12::1", 443, True),
        (["[fd00::/8]:443"], "fd12::1", 80, False),
        (["10.0.0.0/8"], "::ffff:10.0.0.1", 80, True),
        (["0.0.0.0/0"], "::1", 80, False),
        (["0.0.0.0/0", "::/0"], "unix:/run/app.sock", 0, False),
        (["unix:/"], "127.0.0.1", 80, False),
        ([], "unix:/run/app.sock", 0, True),
        (["unix:/srv/app.sock"], "unix:/srv/app.sock", 0, True),
        (["unix:/srv/app.sock"], "unix:/srv/app.sock2", 0, False),
        (["unix:/srv/app"], "unix:/srv/app/x", 0, False),
        (["unix:/srv/app/"], "unix:/srv/app/x/y", 0, True),
        (["unix:/srv/app/"], "unix:/srv/app2/x", 0, False),
        (["unix:/"], "unix:/srv/app2/x", 0, True),
        (["unix:/"], "unix:@app", 0, False),
        (["unix:@app"], "unix:@app", 0, True),
        (["unix:@app"], "unix:@apps", 0, False),
    ],
)
def test_addresses_and_ports_are_held_against_the_list(
    rules: list[str], address: str, port: int, allowed: bool
) -> None:
    assert is_allowed(address, port, [parse_allowed(rule) for rule in rules]) is allowed


@pytest.mark.parametrize(
    "text",
    [
        "", "x", "10.0.0.1/8", "10.0.0.0/8:", "10.0.0.0/8:0", "10.0.0.0/8:1-", "10.0.0.0/8:-1",
        "10.0.0.0/8:9-8", "10.0.0.0/8:65536", "10.0.0.0/8:http", "[fd00::/8", "[fd00::/8]443",
        "10.0.0.0/8:\u0661", "unix:", "unix:@", "unix:app.sock",
    ],
)  # fmt: skip
def test_what_is_no_network_with_ports_is_said_so(text: str) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        parse_allowed(text)


@pytest.mark.parametrize(
    "text",
    ["10.0.0.0/8", "127.0.0.1/32:80", "[fd00::/8]:80-90", "fd00::/8", "unix:/srv/x", "unix:/srv/x/",
     "unix:/", "unix:@x"],
)  # fmt: skip
def test_a_rule_is_shown_as_it_is_written(text: str) -> None:
    assert str(parse_allowed(text)) == text
