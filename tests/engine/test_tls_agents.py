"""TLS of an agent: towards the server it dials and towards its targets. Python's ssl plays both."""

from __future__ import annotations

import errno
import socket
import ssl
import struct
from collections.abc import Callable
from typing import Any

import pytest

from proxy_engine_core import core
from proxy_engine_core._testing.core_parts import preamble
from proxy_engine_core.core import TlsClient
from tests.certificates import Pair, self_signed
from tests.engine.harness import (
    ACK,
    DATA,
    FIN,
    PATIENCE,
    RST,
    SYN,
    TARGET_LOST,
    UNREACHABLE,
    WINDOW,
    Agent,
    Device,
    Frame,
    Wire,
    dialling,
    frame,
    wait_until,
)
from tests.engine.tlsparts import AUTHORITY, STRANGER, WEB, client_tls, server_context, tls_of

pytestmark = pytest.mark.skipif(not core.TLS_LIBRARY, reason="built without OpenSSL")

REQUEST = b"GET /_proxy/link HTTP/1.1\r\nHost: x\r\n\r\n"
ANSWER = b"HTTP/1.1 101 S\r\nProxy-Engine-Window: 262144\r\n\r\n"


def accept(agent: Agent, listener: socket.socket, context: ssl.SSLContext) -> Wire:
    sock, _ = listener.accept()
    sock.settimeout(PATIENCE)
    wire = Wire(context.wrap_socket(sock, server_side=True, suppress_ragged_eofs=False))
    agent.wires.append(wire)
    return wire


def dial(agent: Agent, tls: TlsClient, **how: Any) -> int:
    port = agent.listener.getsockname()[1]
    how = {"carrier": "raw", **how}
    return agent.engine.dial("127.0.0.1", port, REQUEST, tls=tls, **how)


def linked(agent: Agent, tls: TlsClient, context: ssl.SSLContext, carrier: str = "raw") -> Device:
    made = dial(agent, tls, carrier=carrier)
    wire = accept(agent, agent.listener, context)
    assert wire.take_head() == REQUEST
    device = Device(wire.sock, carrier, True, is_server=True)
    device.send_raw(ANSWER)
    assert agent.event(core.EVENT_LINK_UP)[1] == made
    device.link = made
    assert device.next(1) == Frame(WINDOW, SYN, 1, 0)
    device.accept(1)
    return device


def refused(agent: Agent, tls: TlsClient, context: ssl.SSLContext) -> str:
    """Why the agent does not take this server."""
    made = dial(agent, tls)
    sock, _ = agent.listener.accept()
    sock.settimeout(PATIENCE)
    try:
        with context.wrap_socket(sock, server_side=True) as wrapped:
            wrapped.recv(1)
    except (ssl.SSLError, ConnectionError):
        pass
    event = agent.event(core.EVENT_DIAL_FAILED)
    assert event[1:6] == (made, "tls", errno.EPROTO, 0, b"")
    text = event[6].decode()
    assert text and "\n" not in text
    return text


# --- links ------------------------------------------------------------------------------------


@pytest.mark.parametrize("carrier", ["raw", "websocket"])
def test_a_link_over_tls(carrier: str) -> None:
    with dialling() as agent:
        device = linked(agent, client_tls(), server_context(), carrier)
        for turn in range(3):
            device.send(frame(2, SYN, 0, turn))
            assert device.next(0) == Frame(2, ACK, 0, turn)
        agent.engine.link_close(device.link, "enough")
        assert device.closed()  # with a close_notify: SSLEOFError without
        assert agent.event(core.EVENT_LINK_DOWN)[3] == "enough"


def test_a_server_that_ends_without_a_close_notify_is_lost() -> None:
    with dialling() as agent:
        device = linked(agent, client_tls(), server_context())
        tls_of(device).shutdown(socket.SHUT_WR)
        assert agent.event(core.EVENT_LINK_DOWN)[3] == "connection_lost"
        device = linked(agent, client_tls(), server_context())
        tls_of(device).unwrap()
        assert agent.event(core.EVENT_LINK_DOWN)[3] == "closed"


def test_a_second_link_resumes_the_session_of_the_first() -> None:
    context = server_context()
    with dialling(2) as agent:
        tls = client_tls()
        assert not tls_of(linked(agent, tls, context)).session_reused
        assert tls_of(linked(agent, tls, context)).session_reused
        assert not tls_of(linked(agent, client_tls(), context)).session_reused


def test_the_session_of_a_lost_link_is_resumed() -> None:
    context = server_context()
    context.num_tickets = 1  # as our server has it
    with dialling() as agent:
        tls = client_tls()
        device = linked(agent, tls, context)
        sock = tls_of(device)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()  # a reset
        assert agent.event(core.EVENT_LINK_DOWN)[3] == "connection_lost"
        assert tls_of(linked(agent, tls, context)).session_reused


EXPIRED = AUTHORITY.issue_expired("web.test")
EARLY = AUTHORITY.issue_early("web.test")
OTHER = AUTHORITY.issue("other.test")
ALONE = self_signed("web.test")
UNKNOWN = STRANGER.issue("web.test")
CLIENT = AUTHORITY.issue("web.test", client=True)


@pytest.mark.parametrize(
    ("pair", "text"),
    [
        (EXPIRED, "its certificate has expired"),
        (EARLY, "its certificate is not valid yet"),
        (OTHER, "its certificate is not for web.test"),
        (ALONE, "its certificate is self-signed"),
        (UNKNOWN, "its certificate is by an unknown authority"),
        (CLIENT, "its certificate is not meant for this side of a connection"),
    ],
)
def test_a_certificate_that_is_not_taken(pair: Pair, text: str) -> None:
    with dialling() as agent:
        assert refused(agent, client_tls(), server_context(pair)) == text
        assert agent.stat("tls_handshakes_failed") == 1


def test_a_revoked_certificate_is_not_taken() -> None:
    tls = client_tls(crl=AUTHORITY.revoke(WEB))
    with dialling() as agent:
        assert refused(agent, tls, server_context()) == "its certificate was revoked"
        linked(agent, client_tls(crl=AUTHORITY.revoke()), server_context())


@pytest.mark.parametrize("has_authority", [True, False])
def test_a_pinned_key(has_authority: bool) -> None:
    ca = AUTHORITY.pem if has_authority else b""
    pin = core.tls_certificate(WEB.certificate).pin
    with dialling() as agent:
        linked(agent, client_tls(pins=[b"x" * 32, pin], ca=ca), server_context())
        tls = client_tls(pins=[b"x" * 32], ca=ca)
        assert refused(agent, tls, server_context()) == "its key is not the one that was pinned"


def test_a_pin_takes_the_place_of_an_authority_only() -> None:
    with dialling() as agent:
        for pair in (ALONE, UNKNOWN):
            pins = [core.tls_certificate(pair.certificate).pin]
            linked(agent, TlsClient("web.test", pins=pins), server_context(pair))
            assert "authority" in refused(agent, client_tls(pins=pins), server_context(UNKNOWN))
        for pair, text in ((EXPIRED, "expired"), (OTHER, "not for web.test")):
            pins = [core.tls_certificate(pair.certificate).pin]
            assert text in refused(agent, TlsClient("web.test", pins=pins), server_context(pair))


def test_insecure_takes_any_certificate_but_for_the_pin() -> None:
    with dialling() as agent:
        for pair in (EXPIRED, OTHER, ALONE, UNKNOWN):
            linked(agent, TlsClient("web.test", insecure=True), server_context(pair))
        tls = TlsClient("web.test", insecure=True, pins=[b"x" * 32])
        assert "pinned" in refused(agent, tls, server_context(ALONE))


def test_an_address_for_a_name() -> None:
    names: list[str | None] = []
    context = server_context()
    context.sni_callback = lambda sock, name, context: names.append(name)
    with dialling() as agent:
        linked(agent, client_tls("127.0.0.1"), context)
        assert refused(agent, client_tls("127.0.0.2"), context) == (
            "its certificate is not for 127.0.0.2"
        )
        linked(agent, client_tls("WEB.test."), context)
    assert names == [None, None, "web.test"]


def test_the_client_certificate_is_shown() -> None:
    pair = AUTHORITY.issue_for_client("sensor.test")
    context = server_context(client_ca=AUTHORITY)
    with dialling() as agent:
        device = linked(agent, client_tls(chain=pair.certificate, key=pair.key), context)
        shown: Any = tls_of(device).getpeercert()
        assert shown["subject"] == ((("commonName", "sensor.test"),),)
        assert refused(agent, client_tls(), context) == "a client certificate is required"
        other = STRANGER.issue_for_client("sensor.test")
        tls = client_tls(chain=other.certificate, key=other.key)
        assert "does not know the authority of our certificate" in refused(agent, tls, context)


def answer_in_plain_text(sock: socket.socket) -> None:
    sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


@pytest.mark.parametrize(
    ("act", "text"),
    [
        (answer_in_plain_text, "it does not speak TLS on this port"),
        (socket.socket.close, "the connection ended in the middle of the handshake"),
    ],
)
def test_a_server_without_tls(act: Callable[[socket.socket], None], text: str) -> None:
    with dialling() as agent:
        made = dial(agent, client_tls())
        sock, _ = agent.listener.accept()
        assert sock.recv(5)[:1] == b"\x16"
        act(sock)
        event = agent.event(core.EVENT_DIAL_FAILED)
        sock.close()
        assert event[1:3] == (made, "tls")
        assert event[6].decode() == text


def test_a_server_that_never_answers_the_handshake() -> None:
    with dialling() as agent:
        made = dial(agent, client_tls(), timeout_ms=50)
        assert agent.event(core.EVENT_DIAL_FAILED)[1:3] == (made, "timeout")


def test_no_server_at_all() -> None:
    with dialling() as agent:
        sock = agent.listen()
        port = sock.getsockname()[1]
        sock.close()
        made = agent.engine.dial("127.0.0.1", port, REQUEST, carrier="raw", tls=client_tls())
        assert agent.event(core.EVENT_DIAL_FAILED)[1:4] == (made, "connect", errno.ECONNREFUSED)


def test_tls_1_2_is_for_who_allows_it() -> None:
    context = server_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with dialling() as agent:
        assert "version of TLS" in refused(agent, client_tls(), context)
        tls = client_tls(minimum="1.2")
        assert tls_of(linked(agent, tls, context)).version() == "TLSv1.2"


def test_alpn_says_http() -> None:
    context = server_context()
    context.set_alpn_protocols(["h2", "http/1.1"])
    with dialling() as agent:
        device = linked(agent, client_tls(), context)
        assert tls_of(device).selected_alpn_protocol() == "http/1.1"
        device = linked(agent, client_tls(alpn=False), context)
        assert tls_of(device).selected_alpn_protocol() is None


def test_what_can_not_be_used_says_why() -> None:
    with pytest.raises(ValueError, match="come together"):
        TlsClient("web.test", chain=WEB.certificate)
    with pytest.raises(ValueError, match="32 bytes, not 3"):
        TlsClient("web.test", pins=[b"abc"])
    with pytest.raises(ValueError, match="no server name"):
        TlsClient("")
    with pytest.raises(ValueError, match="not valid PEM"):
        TlsClient("web.test", ca=b"-----BEGIN CERTIFICATE-----\n!\n")
    with pytest.raises(ValueError, match="authority's file"):
        TlsClient("web.test", ca=b" ")
    with pytest.raises(ValueError, match="does not belong"):
        TlsClient("web.test", chain=WEB.certificate, key=OTHER.key)
    TlsClient("web.test")  # the system's authorities


# --- targets ----------------------------------------------------------------------------------


class Target:
    def __init__(self, agent: Agent, tls: TlsClient, flags: int = 0) -> None:
        self.agent = agent
        self.listener = agent.listen()
        agent.targets.append(self.listener)
        port = self.listener.getsockname()[1]
        agent.engine.targets_apply([("web", "127.0.0.1", port, flags, tls)])
        self.link = agent.link()

    def open(self, data: bytes = b"hello") -> None:
        data = preamble(b"web") + data
        self.link.send(frame(WINDOW, SYN, 2), frame(DATA, 0, 2, len(data), data))

    def accept(self, pair: Pair = WEB) -> Wire:
        wire = accept(self.agent, self.listener, server_context(pair))
        assert self.link.next(2) == Frame(WINDOW, ACK, 2, 0)
        return wire


def test_a_target_over_tls() -> None:
    with dialling() as agent:
        target = Target(agent, client_tls())
        target.open()
        wire = target.accept()
        assert wire.take(5) == b"hello"
        big = bytes(range(256)) * 700
        wire.sock.sendall(big)
        got = b""
        while len(got) < len(big):
            got += target.link.next(2, DATA).payload
        assert got == big
        target.link.data(2, b"bye")
        assert wire.take(3) == b"bye"
        target.link.fin(2)
        assert wire.sock.recv(1) == b""  # a close_notify
        tls_of(wire).unwrap()
        assert target.link.next(2, DATA).flags & FIN
        wait_until(lambda: agent.connections() == 1)


def test_a_target_that_ends_without_a_close_notify_is_lost() -> None:
    with dialling() as agent:
        target = Target(agent, client_tls())
        target.open()
        wire = target.accept()
        wire.take(5)
        wire.sock.sendall(b"HTTP/1.1 200 OK\r\n\r\nhalf of")
        wire.sock.shutdown(socket.SHUT_WR)
        assert target.link.next(2, DATA).payload.endswith(b"half of")
        assert target.link.next(2) == Frame(WINDOW, RST, 2, TARGET_LOST)


def test_a_target_that_is_not_who_it_should_be() -> None:
    with dialling() as agent:
        target = Target(agent, client_tls())
        target.open()
        with pytest.raises(ssl.SSLError):
            accept(agent, target.listener, server_context(ALONE))
        assert target.link.next(2) == Frame(WINDOW, RST, 2, UNREACHABLE)
        event = agent.event(core.EVENT_TARGET_FAILED)
        assert event[1:] == ("web", errno.EPROTO, "its certificate is self-signed")
        assert agent.stat("targets_failed") == 1


def test_a_target_that_never_answers_the_handshake() -> None:
    with dialling(target_timeout_ms=50) as agent:
        target = Target(agent, client_tls())
        target.open()
        assert target.link.next(2).flags == RST
        assert agent.event(core.EVENT_TARGET_FAILED)[1:] == ("web", errno.ETIMEDOUT, "")


def test_the_stream_may_end_during_the_handshake() -> None:
    with dialling() as agent:
        target = Target(agent, client_tls())
        target.open()
        sock, _ = target.listener.accept()
        assert sock.recv(1) == b"\x16"
        target.link.reset(2)
        wait_until(lambda: agent.connections() == 1)
        sock.close()


def test_the_next_address_is_tried_with_what_was_sent() -> None:
    with dialling() as agent:
        first, second = agent.listen(), agent.listen()
        agent.targets += [first, second]
        rows = [
            ("web", "127.0.0.1", sock.getsockname()[1], 0, client_tls()) for sock in (first, second)
        ]
        agent.engine.targets_apply(rows)
        link = agent.link()
        data = preamble(b"web") + b"hello"
        link.send(frame(WINDOW, SYN, 2), frame(DATA, 0, 2, len(data), data))
        with pytest.raises(ssl.SSLError):
            accept(agent, first, server_context(ALONE))
        wire = accept(agent, second, server_context())
        assert wire.take(5) == b"hello"
        assert not agent.has_event(core.EVENT_TARGET_FAILED)


def test_a_table_is_replaced_while_its_target_is_connected() -> None:
    with dialling() as agent:
        target = Target(agent, client_tls())
        target.open()
        sock, _ = target.listener.accept()
        agent.engine.targets_apply([])
        sock.settimeout(PATIENCE)
        with server_context().wrap_socket(sock, server_side=True) as wrapped:
            assert wrapped.recv(5) == b"hello"
