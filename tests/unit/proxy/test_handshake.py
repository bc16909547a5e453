from __future__ import annotations

import email.utils

import pytest

from proxy_engine import handshake
from proxy_engine.handshake import Refusal
from proxy_engine_core.websocket.handshake import new_key
from tests.unit.proxy.fake_engine import body, fields, parse_request_head, status

WEBSOCKET = [
    ("connection", b"Upgrade"),
    ("upgrade", b"websocket"),
    ("sec-websocket-version", b"13"),
    ("sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ=="),
    ("sec-websocket-protocol", b"chat, proxy-engine.yamux"),
]
RAW = [("connection", b"keep-alive, Upgrade"), ("upgrade", b"proxy-engine-yamux")]


def read(request_fields: list[tuple[str, bytes]], **extra: bytes) -> handshake.Offer:
    more = [(name.replace("_", "-"), value) for name, value in extra.items()]
    return handshake.read_request("GET", "/_proxy/link?x=1", request_fields + more)


def refused(
    request_fields: list[tuple[str, bytes]], method: str = "GET", target: str = "/_proxy/link"
) -> Refusal:
    with pytest.raises(Refusal) as caught:
        handshake.read_request(method, target, request_fields)
    return caught.value


def test_a_websocket_offer_is_answered_with_its_accept_key() -> None:
    offer = read(WEBSOCKET)
    assert offer.carrier == "websocket"
    response = handshake.accept_response(offer, 2)
    assert status(response) == 101
    assert fields(response) == {
        "connection": "Upgrade",
        "upgrade": "websocket",
        "sec-websocket-accept": "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
        "sec-websocket-protocol": "proxy-engine.yamux",
    }


def test_a_stock_peer_gets_stock_yamux() -> None:
    offer = read(RAW, proxy_engine_window=b"1048576")
    assert not offer.is_agent
    assert offer.window == handshake.STOCK_WINDOW
    assert fields(handshake.accept_response(offer, 2)) == {
        "connection": "Upgrade",
        "upgrade": "proxy-engine-yamux",
    }


@pytest.mark.parametrize(
    ("offered", "window"),
    [(b"262144", 262144), (b"1048576", 262144), (b"1", 262144), (b"", 262144), (b"x", 262144),
     (b"-5", 262144)],
)  # fmt: skip
def test_the_smaller_window_of_both_counts_but_never_less_than_yamux_has(
    offered: bytes, window: int
) -> None:
    offer = read(RAW, proxy_engine_version=b"1", proxy_engine_window=offered)
    assert offer.window == window
    answer = fields(handshake.accept_response(offer, 2))
    assert answer["proxy-engine-window"] == str(window)
    assert answer["proxy-engine-version"] == "1"


def test_a_newer_agent_is_answered_with_our_version() -> None:
    answer = fields(handshake.accept_response(read(RAW, proxy_engine_version=b"9"), 1))
    assert answer["proxy-engine-version"] == "1"


@pytest.mark.parametrize("missing", [0, 1, 2, 3, 4])
def test_a_websocket_offer_with_a_field_missing_is_refused(missing: int) -> None:
    refusal = refused(WEBSOCKET[:missing] + WEBSOCKET[missing + 1 :])
    assert refusal.status in (400, 426)
    assert refusal.code in ("bad_upgrade", "bad_subprotocol", "upgrade_required")


def test_refusals_of_the_request_itself() -> None:
    assert refused(RAW, target="/other").status == 404
    assert refused(RAW, method="POST").status == 405
    assert refused([]).status == 426
    assert refused([("upgrade", b"h2c")]).fields["Upgrade"] == "websocket, proxy-engine-yamux"
    assert refused(RAW[1:]).code == "bad_upgrade"
    wrong = [(n, b"8" if n == "sec-websocket-version" else v) for n, v in WEBSOCKET]
    assert refused(wrong).fields["Sec-WebSocket-Version"] == "13"


def test_a_refusal_is_a_whole_http_answer() -> None:
    response = Refusal(503, "draining", "later", {"Retry-After": "2"}).response()
    assert status(response) == 503
    assert fields(response)["retry-after"] == "2"
    assert fields(response)["content-length"] == str(len(response.partition(b"\r\n\r\n")[2]))
    assert body(response) == {"error": "draining", "message": "later"}
    assert handshake.refusal_text(response.partition(b"\r\n\r\n")[2]) == ("draining", "later")


@pytest.mark.parametrize("carrier", ["raw", "websocket"])
def test_our_two_roles_understand_each_other(carrier: handshake.Carrier) -> None:
    key = new_key() if carrier == "websocket" else ""
    request = handshake.request(
        authority="localhost:8080", token="pe_x", instance="abc", number=3, carrier=carrier, key=key
    )
    method, target, request_fields = parse_request_head(request)
    assert ("authorization", b"Bearer pe_x") in request_fields
    assert ("host", b"localhost:8080") in request_fields
    offer = handshake.read_request(method, target, request_fields)
    assert offer == handshake.Offer(carrier, key, 1, handshake.WINDOW, "abc", 3)
    answer = handshake.accept_response(offer, 4)
    assert handshake.check_response(answer, carrier=carrier, key=key) == 4


@pytest.mark.parametrize(("offered", "read_as"), [(0, 0), (3, 3), (64, 64), (1000, 64)])
def test_direct_connections_are_offered_and_answered(offered: int, read_as: int) -> None:
    request = handshake.request(
        authority="x", token="t", instance="i", number=1, carrier="raw", key="", direct=offered
    )
    offer = handshake.read_request(*parse_request_head(request))
    assert offer.direct == read_as
    answer = fields(handshake.accept_response(offer, 1, 2))
    assert answer["proxy-engine-direct"] == "2"
    assert "proxy-engine-direct" not in fields(handshake.accept_response(offer, 1))
    assert read(RAW, proxy_engine_direct=b"64").direct == 0  # not of a stock peer


def test_a_request_for_a_direct_connection_lacks_only_its_ticket() -> None:
    head = handshake.data_request("x:80") + b"ab" * 32 + b"\r\n\r\n"
    method, target, sent = parse_request_head(head)
    assert (method, target) == ("GET", "/_proxy/data")
    assert ("proxy-engine-ticket", b"ab" * 32) in sent
    assert ("upgrade", b"proxy-engine-data") in sent


def test_an_agent_notices_a_wrong_answer() -> None:
    key = new_key()
    offer = handshake.Offer("websocket", key, 1, handshake.WINDOW, "", 1)
    good = handshake.accept_response(offer, 1)
    for bad, message in (
        (good.replace(b"Accept: ", b"Accept: x"), "Sec-WebSocket-Accept"),
        (good.replace(b"Accept: ", b"Other: "), "Sec-WebSocket-Accept"),
        (good.replace(b"proxy-engine.yamux", b"chat"), "subprotocol"),
        (good.replace(b"Proxy-Engine-Version: 1", b"X: 1"), "not a proxy-engine server"),
        (good.replace(b"Proxy-Engine-Version: 1", b"Proxy-Engine-Version: 2"), "version 2"),
    ):
        with pytest.raises(ValueError, match=message):
            handshake.check_response(bad, carrier="websocket", key=key)


def test_retry_after_is_seconds_or_a_date() -> None:
    def seconds(value: str) -> float | None:
        return handshake.retry_after(f"HTTP/1.1 503 x\r\nRetry-After: {value}\r\n\r\n".encode(), 0)

    assert seconds("120") == 120.0
    assert seconds(email.utils.formatdate(90.0, usegmt=True)) == 90.0
    assert seconds(email.utils.formatdate(-90.0, usegmt=True)) == 0.0
    assert seconds("soon") is None
    assert handshake.retry_after(b"HTTP/1.1 503 x\r\n\r\n", 0) is None


@pytest.mark.parametrize("data", [b"", b"<html>", b"[]", b'{"error":3}', b"\xff", b"[" * 9999])
def test_a_refusal_without_our_json_has_no_text(data: bytes) -> None:
    assert handshake.refusal_text(data) == ("", "")
