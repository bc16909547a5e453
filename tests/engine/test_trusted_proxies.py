"""Who a visitor is when a proxy in front of us says so."""

from __future__ import annotations

import ipaddress
import random
import time

import pytest

from proxy_engine_core.core import Engine
from tests.engine.harness import OK_HELLO, WORKERS, Device, Server, Visitor, serving, wait_until

PROXIES = ("127.0.0.0/8", "10.0.0.0/8", "2001:db8:5::/48")


def logged(server: Server, device: Device, visitor: Visitor, fields: str) -> tuple[str, str]:
    """The visitor in the log, and the X-Forwarded-For that the target gets."""
    visitor.get(fields=fields + "Connection: close\r\n")
    stream, head = device.request()
    device.data(stream, OK_HELLO.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n"))
    assert visitor.response().body == b"hello"
    [line] = [line for line in head.split(b"\r\n") if line.startswith(b"X-Forwarded-For: ")]
    return server.log().visitor, line.decode().partition(": ")[2]


def forwarded(*values: str) -> str:
    return "".join(f"X-Forwarded-For: {value}\r\n" for value in values)


@pytest.mark.parametrize(
    ("values", "client"),
    [
        (["192.0.2.7"], "192.0.2.7"),
        (["192.0.2.7, 10.1.2.3"], "192.0.2.7"),
        (["203.0.113.1, 192.0.2.7"], "192.0.2.7"),
        (["203.0.113.1", "192.0.2.7", "10.1.2.3 ,\t10.1.2.4"], "192.0.2.7"),
        (["2001:db8::1"], "2001:db8::1"),
        (["[2001:db8::1]:4711"], "2001:db8::1"),
        (["192.0.2.7:4711"], "192.0.2.7"),
        (["::ffff:192.0.2.7, 2001:db8:5::9"], "192.0.2.7"),
        (["10.1.2.3"], "10.1.2.3"),
        (["198.51.100.1, nonsense, 10.1.2.3"], "10.1.2.3"),
        (["unknown"], "127.0.0.1"),
        (["[2001:db8::1"], "127.0.0.1"),
        (["192.0.2.7,"], "127.0.0.1"),
        (["x" * 100], "127.0.0.1"),
        ([""], "127.0.0.1"),
        ([], "127.0.0.1"),
        ([", ".join(["192.0.2.7"] + ["10.0.0.1"] * 31)], "192.0.2.7"),
        ([", ".join(["192.0.2.7"] + ["10.0.0.1"] * 32)], "10.0.0.1"),
    ],
)
def test_the_right_most_hop_that_is_no_proxy_of_ours(values: list[str], client: str) -> None:
    with serving(WORKERS, PROXIES) as server:
        device = server.device()
        found, sent = logged(server, device, server.visitor(), forwarded(*values))
        assert found == client
        assert sent == ", ".join([*(value for value in values if value), "127.0.0.1"])


@pytest.mark.parametrize("trusted", [(), ("10.0.0.0/8",), ("128.0.0.0/1", "::/0")])
def test_who_is_not_trusted_is_not_believed(trusted: tuple[str, ...]) -> None:
    # ::/0 is every IPv6 network, also the one IPv4 is mapped into.
    believed = "::/0" in trusted
    with serving(WORKERS, trusted) as server:
        device = server.device()
        found, sent = logged(server, device, server.visitor(), forwarded("192.0.2.7"))
        assert found == ("192.0.2.7" if believed else "127.0.0.1")
        assert sent == ("192.0.2.7, 127.0.0.1" if believed else "127.0.0.1")


def test_rates_are_of_the_visitors_and_connections_are_the_proxys() -> None:
    limits = {"address_request_rate": 1, "address_connections_max": 1, "rate_burst_ms": 2000}
    with serving(1, ("127.0.0.1",), **limits) as server:
        visitors = [server.visitor() for _ in range(5)]
        began = time.monotonic()
        for index, visitor in enumerate(visitors):
            for _ in range(2):
                visitor.get(fields=forwarded(f"192.0.2.{index}"))
                assert visitor.response().status == 404

        def passes() -> bool:
            visitors[0].get(fields=forwarded("192.0.2.1"))
            status = visitors[0].response().status
            assert status in (404, 429)
            return status == 404

        # Another connection does not help; a second does.
        passed = 2
        while passes():
            passed += 1
            assert passed <= 2 + time.monotonic() - began
        wait_until(passes)
        assert server.stat("address_connections_refused") == 0


@pytest.mark.parametrize("network", ["", "nonsense", "10.0.0.1/8", "10.0.0.0/33", "1.2.3"])
def test_what_is_no_network_is_refused(network: str) -> None:
    engine = Engine("server")
    with pytest.raises(ValueError, match="is not a network such as"):
        engine.trust(network)


def test_networks_are_told_before_the_start() -> None:
    engine = Engine("server")
    for index in range(64):
        engine.trust(f"10.{index}.0.0/16")
    with pytest.raises(ValueError, match="64"):
        engine.trust("192.0.2.0/24")
    engine.start()
    with pytest.raises(RuntimeError):
        engine.trust("192.0.2.0/24")
    engine.stop()
    with pytest.raises(RuntimeError):
        Engine("agent").trust("192.0.2.0/24")


PIECES = [
    "192.0.2.7", "10.0.0.1", "10.255.255.255", "11.0.0.0", "2001:db8::1", "2001:db8:5::9", "::1",
    "2001:db8:5:ffff::1", "2001:db8:6::1", "::ffff:10.0.0.1", "::ffff:192.0.2.9", "[2001:db8::2]",
    "[2001:db8:5::2]:443", "10.0.0.1:80", "198.51.100.3:65535", "unknown", "_hidden", "1.2.3",
    "256.0.0.1", "[::1", "::1]", "1:2", "", " ", "10.0.0.1 ", "\t192.0.2.1", "x" * 47, "f" * 48,
]  # fmt: skip


def right_most(values: list[str]) -> str:
    """What the rule says, slowly."""
    networks = [ipaddress.ip_network(network) for network in PROXIES]
    found = "127.0.0.1"
    elements = [element for value in values for element in (value.split(",") if value else [])]
    for element in reversed(elements):
        text = element.strip(" \t")
        if text.startswith("["):
            text = text[1:].partition("]")[0] if "]" in text else ""
        elif text.count(":") == 1:
            text = text.partition(":")[0]
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            break
        if address.version == 6 and address.ipv4_mapped:
            address = address.ipv4_mapped
        found = str(address)
        if not any(address in network for network in networks):
            break
    return found


def test_any_list_is_read_as_the_rule_says() -> None:
    chance = random.Random(20261122)
    with serving(WORKERS, PROXIES) as server:
        visitor = server.visitor()
        for _ in range(400):
            values = [
                ",".join(chance.choices(PIECES, k=chance.randrange(1, 6))).strip(" \t")
                for _ in range(chance.randrange(4))
            ]
            visitor.get(fields=forwarded(*values))
            assert visitor.response().status == 404
            assert server.log().visitor == right_most(values), values
