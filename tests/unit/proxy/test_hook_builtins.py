"""The hooks that come with the program; webhooks have a file of their own."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy_engine import log_formats
from proxy_engine.hooks import (
    DeviceConnect,
    DeviceDisconnect,
    DevicePresence,
    Failure,
    Refuse,
    Request,
    ServerEvent,
    TunnelData,
    TunnelOpen,
    TunnelPresence,
)
from proxy_engine.hooks.builtin.certificate_auth import CertificateAuth
from proxy_engine.hooks.builtin.logger import Logger
from proxy_engine.hooks.builtin.metrics import OTHERS, Metrics
from proxy_engine.hooks.builtin.token_auth import TokenAuth

SERVER = ServerEvent(at=0, url="", admin="", domain="", version="")


def connect(**changes: Any) -> DeviceConnect:
    fields: dict[str, Any] = {
        "at": 0, "device": "pi", "device_id": 1, "token": "fleet-1", "token_id": 1,
        "peer": "10.1.2.3:5", "address": "10.1.2.3", "certificate": (), "number": 1, "links": 0,
    }  # fmt: skip
    return DeviceConnect(**{**fields, **changes})


def open_(tunnel: str, token: str = "fleet-1") -> TunnelOpen:
    return TunnelOpen(
        at=0, tunnel=tunnel, kind="http", port=None, device="pi", device_id=1, token=token,
        token_id=1, address="10.1.2.3", agent="", platform="",
    )  # fmt: skip


def request(tunnel: str | None = "web", **changes: Any) -> Request:
    fields: dict[str, Any] = {
        "at": 0, "request_id": "r1", "tunnel": tunnel, "device": "pi", "visitor": "::1",
        "method": "GET", "host": "web.localhost", "path": "/", "status": 200, "reason": "",
        "bytes_in": 10, "bytes_out": 20, "seconds": 0.004, "first_byte_seconds": 0.003,
        "target_seconds": 0.002, "flags": 0,
    }  # fmt: skip
    return Request(**{**fields, **changes})


def data(tunnel: str, bytes_in: int, bytes_out: int) -> TunnelData:
    return TunnelData(
        at=0, tunnel=tunnel, tunnel_id=1, kind="http", bytes_in=bytes_in, bytes_out=bytes_out,
        total_in=bytes_in, total_out=bytes_out, seconds=5,
    )  # fmt: skip


PRESENCE = DevicePresence(at=0, device="pi", device_id=1, address="::1", reason="closed")
TUNNEL = TunnelPresence(at=0, tunnel="web", tunnel_id=1, kind="http", port=None, device_id=1)


def refused(call: Any, event: Any) -> str:
    with pytest.raises(Refuse) as caught:
        call(event)
    return str(caught.value)


def test_a_token_is_bound_to_networks_devices_and_tunnels() -> None:
    rule = {
        "token": "fleet-*", "addresses": ["10.0.0.0/8", "2001:db8::/32"], "devices": ["p*"],
        "tunnels": ["web", "s-*"],
    }  # fmt: skip
    hook = TokenAuth(rules=[rule, {"token": "free"}])
    for address in ("10.9.9.9", "2001:db8::1", "::ffff:10.0.0.1"):
        hook.on_device_connect(connect(address=address))
    hook.on_device_connect(connect(token="free", address="1.1.1.1", device="x"))
    hook.on_tunnel_open(open_("s-1"))
    hook.on_tunnel_open(open_("x", token="free"))
    assert refused(hook.on_device_connect, connect(address="11.0.0.1")) == (
        "token fleet-1 may not be used from 11.0.0.1"
    )
    assert refused(hook.on_device_connect, connect(device="x")) == (
        "token fleet-1 is not for device x"
    )
    assert refused(hook.on_device_connect, connect(token="x")) == "no rule is for token x"
    assert refused(hook.on_tunnel_open, open_("t")) == "token fleet-1 is not for tunnel t"
    TokenAuth(rules=[rule], others="allow").on_device_connect(connect(token="x"))


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ({}, "rule 1 names no token"),
        ({"token": "a", "adresses": []}, 'rule 1 has an unknown key "adresses"'),
        ({"token": "a", "devices": "pi"}, "rule 1: devices is 'pi', not a list of texts"),
        ({"token": "a", "addresses": ["x"]}, "'x' does not appear to be an IPv4 or IPv6 network"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(rule: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=f"^{text}$"):
        TokenAuth(rules=[rule])
    other: Any = "maybe"
    with pytest.raises(ValueError, match="others is 'maybe'"):
        TokenAuth(rules=[], others=other)


def test_a_certificate_has_to_have_a_name_that_fits() -> None:
    hook = CertificateAuth()
    hook.on_device_connect(connect(certificate=("cn:PI",)))
    hook.on_device_connect(connect(certificate=("cn:other", "dns:pi")))
    assert refused(hook.on_device_connect, connect()) == (
        "this device has to show a certificate (--cert, --key)"
    )
    wrong = connect(certificate=("cn:pipi", "uri:pi"))
    assert refused(hook.on_device_connect, wrong) == "the certificate is for cn:pipi"
    spiffe = CertificateAuth(names=["uri:spiffe://acme/*/{device}"], devices=["p*"])
    spiffe.on_device_connect(connect(certificate=("uri:spiffe://acme/a/pi",)))
    spiffe.on_device_connect(connect(device="other"))
    refused(spiffe.on_device_connect, connect(certificate=("uri:spiffe://ACME/a/pi",)))


def test_the_name_of_a_device_is_no_pattern() -> None:
    hook = CertificateAuth()
    refused(hook.on_device_connect, connect(device="*", certificate=("cn:pi",)))
    hook.on_device_connect(connect(device="a[b]*", certificate=("cn:a[b]*",)))


def test_requests_and_bytes_are_counted_by_tunnel(tmp_path: Path) -> None:
    hook = Metrics(path=str(tmp_path / "metrics.prom"), tunnels_max=2)
    hook.on_request([request(), request(status=503, reason="device_offline", seconds=99)])
    hook.on_request([request(None, status=0), request("third"), request("fourth")])
    hook.on_data([data("web", 100, 200), data("web", 1, 2)])
    assert (hook.of("web").bytes_in, hook.of("web").bytes_out) == (101, 202)
    assert hook.of("web").requests == {"2xx": 1, "5xx": 1}
    assert hook.of("").requests == {"none": 1}
    assert hook.tunnels[OTHERS].requests == {"2xx": 2}
    text = (tmp_path / "metrics.prom").read_text()
    assert 'proxy_engine_hook_requests_total{tunnel="web",status="5xx"} 1\n' in text
    assert 'proxy_engine_hook_request_seconds_bucket{tunnel="web",le="0.005"} 1\n' in text
    assert 'proxy_engine_hook_request_seconds_bucket{tunnel="web",le="+Inf"} 2\n' in text
    assert 'proxy_engine_hook_bytes_total{tunnel="web",direction="out"} 202\n' in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.prom"]


def test_a_sampled_request_counts_for_all_it_stands_for() -> None:
    hook = Metrics()
    hook.sample = 10
    hook.on_request([request()])
    assert hook.of("web").requests == {"2xx": 10}


def test_what_is_online_is_counted() -> None:
    hook = Metrics()
    hook.on_device_online(PRESENCE)
    hook.on_tunnel_online(TUNNEL)
    hook.on_device_offline(PRESENCE)
    hook.on_error(Failure(at=0, source="store", where="x", error=OSError()))
    assert hook.stats() == {
        "devices_online": 0, "failures": 1, "tunnels": 0, "tunnels_online": 1,
    }  # fmt: skip
    hook.on_server_stop(SERVER)  # no file: nothing is written


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    root = logging.getLogger()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(log_formats.TextFormatter())
    root.addHandler(handler)
    ours = logging.getLogger("proxy_engine")
    level = ours.level
    ours.setLevel(logging.INFO)
    yield stream
    ours.setLevel(level)
    root.removeHandler(handler)


def test_the_logger_says_what_it_is_told(lines: io.StringIO) -> None:
    hook = Logger(data=True)
    hook.on_device_online(PRESENCE)
    hook.on_tunnel_online(TUNNEL)
    hook.on_request([request(path="/a b"), request(status=502, reason="refused")])
    hook.on_data([data("web", 1, 2)])
    hook.on_tunnel_offline(TUNNEL)
    gone = DeviceDisconnect(
        at=0, device="pi", device_id=1, token="t", token_id=1, peer="::1", address="::1", number=1,
        links=0, reason="closed", bytes_in=1, bytes_out=2, seconds=1.5,
    )  # fmt: skip
    hook.on_device_disconnect(gone)
    hook.on_device_offline(PRESENCE)
    hook.on_error(Failure(at=0, source="store", where="look", error=OSError("disk")))
    hook.on_error(Failure(at=0, source="hook", where="on_data", error=OSError("x")))
    said = [line.split(" ", 1)[1] for line in lines.getvalue().splitlines()]
    assert said == [
        "INFO    events: device online device=pi address=::1",
        'INFO    events: tunnel online tunnel=web kind=http port=""',
        "INFO    events: request id=r1 tunnel=web device=pi visitor=::1 method=GET "
        'host=web.localhost path="/a b" status=200 reason="" bytes_in=10 bytes_out=20 '
        "seconds=0.004",
        "WARNING events: request id=r1 tunnel=web device=pi visitor=::1 method=GET "
        "host=web.localhost path=/ status=502 reason=refused bytes_in=10 bytes_out=20 "
        "seconds=0.004",
        "INFO    events: tunnel data tunnel=web bytes_in=1 bytes_out=2 seconds=5",
        "INFO    events: tunnel offline tunnel=web",
        "INFO    events: link ended device=pi number=1 reason=closed bytes_in=1 bytes_out=2 "
        "seconds=1.5 left=0",
        "INFO    events: device offline device=pi reason=closed",
        "ERROR   events: failure source=store where=look error=disk",
    ]


def test_a_logger_may_leave_out_requests_and_bytes(lines: io.StringIO) -> None:
    hook = Logger(requests=False)
    hook.on_request([request()])
    hook.on_data([data("web", 1, 2)])
    assert lines.getvalue() == ""
