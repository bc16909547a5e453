"""TLS on listeners: visitors and devices over it, names, tickets, client certificates, and all
that goes wrong in a handshake. The other side is Python's ssl."""

from __future__ import annotations

import datetime
import os
import random
import socket
import ssl
import struct
import threading
from contextlib import suppress
from typing import Any

import pytest

from proxy_engine_core import core
from proxy_engine_core.core import TlsServer
from tests.certificates import Authority, Pair, self_signed
from tests.engine.harness import (
    DATA,
    FIN,
    OK_HELLO,
    RST,
    WINDOW,
    WINDOW_SIZE,
    Server,
    serving,
    wait_until,
)
from tests.engine.tlsparts import (
    AUTHORITY,
    STRANGER,
    WEB,
    Record,
    client_context,
    server_tls,
    serving_tls,
    tls_of,
)

pytestmark = pytest.mark.skipif(not core.TLS_LIBRARY, reason="built without OpenSSL")

DEVICE = AUTHORITY.issue_for_client("sensor.test")


def handshake(port: int, context: ssl.SSLContext, name: str | None = "web.test") -> ssl.SSLSocket:
    sock = socket.create_connection(("127.0.0.1", port), 10)
    return context.wrap_socket(sock, server_hostname=name, suppress_ragged_eofs=False)


def speak(sock: ssl.SSLSocket) -> None:
    """Until it has answered, the server may not be done with the handshake."""
    sock.sendall(b"GET / HTTP/1.1\r\nHost: nobody\r\n\r\n")
    assert sock.recv(9) == b"HTTP/1.1 "


def failure(port: int, context: ssl.SSLContext, name: str = "web.test") -> str:
    """Why the engine, or Python, breaks the handshake off."""
    with pytest.raises(ssl.SSLError) as caught, handshake(port, context, name) as sock:
        sock.recv(1)  # what the server thinks of our certificate comes after our part is done
    return str(caught.value).lower()


def naive(**settings: Any) -> ssl.SSLContext:
    """A client that takes any certificate, to see which one it gets."""
    context = client_context(**settings)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


# --- requests over it -----------------------------------------------------------------------


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_a_request_and_its_answer(version: str) -> None:
    tls, client = server_tls(minimum="1.2"), client_context(maximum=version)
    with serving_tls(tls=tls, client=client) as server:
        device, visitor = server.device(), server.visitor()
        assert tls_of(visitor).version() == f"TLSv{version}"
        visitor.get("/page")
        stream, head = device.request()
        assert b"\r\nX-Forwarded-Proto: https\r\n" in head
        device.data(stream, OK_HELLO)
        assert visitor.response().body == b"hello"
        visitor.get("/again")
        device.request(stream=stream)
        device.data(stream, OK_HELLO)
        assert visitor.response().body == b"hello"
        assert server.stat("tls_handshakes") == 2


def test_tls_1_2_is_refused_unless_it_is_allowed() -> None:
    with serving_tls() as server:
        assert "protocol version" in failure(server.port, client_context(maximum="1.2"))
        server.wait_stat("tls_handshakes_failed", 1)
        wait_until(lambda: server.connections() == 0)


@pytest.mark.parametrize("carrier", ["raw", "websocket"])
def test_bulk_both_ways(carrier: Any) -> None:
    size = 3 * WINDOW_SIZE
    up, down = bytes(range(256)) * (size // 256), bytes(range(255, -1, -1)) * (size // 256)
    with serving_tls() as server:
        device, visitor = server.device(carrier), server.visitor()
        head = f"POST / HTTP/1.1\r\nHost: web.test\r\nContent-Length: {size}\r\n\r\n"
        sender = threading.Thread(target=lambda: visitor.send(head.encode() + up))
        sender.start()
        stream, got = device.request()
        body = got.partition(b"\r\n\r\n")[2]
        while len(body) < size:
            data = device.next(stream, DATA).payload
            device.grant(stream, len(data))
            body += data
        sender.join()
        assert body == up
        answer = f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n".encode() + down
        sent = 0
        window = WINDOW_SIZE
        while sent < len(answer):
            part = answer[sent : sent + min(60_000, window)]
            if part:
                device.data(stream, part)
            sent += len(part)
            window -= len(part)
            while visitor.is_readable(0) and visitor.fill() and len(visitor.received) < sent - 99:
                pass
            if window < 60_000 and sent < len(answer):
                window += device.next(stream, WINDOW).length
        assert visitor.response().body == down


def test_a_reader_that_stops_gets_everything_later() -> None:
    size = WINDOW_SIZE - 1000
    with serving_tls() as server:
        device = server.device()
        visitor = server.visitor(receive_buffer=4096)
        visitor.get()
        stream, _ = device.request()
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n".encode()
        device.data(stream, head)
        for start in range(0, size, 50_000):
            device.data(stream, b"x" * min(50_000, size - start))
        server.wait_stat("link_bytes_in", size)
        assert visitor.response().body == b"x" * size
        wait_until(lambda: server.stat("buffer_bytes") == 0)


@pytest.mark.parametrize("step", [1, 7])
def test_records_may_come_byte_by_byte(step: int) -> None:
    with serving_tls() as server:
        device = server.device()
        with Record(server.port, client_context()) as visitor:
            visitor.step = step
            visitor.shake_hands()
            visitor.send(b"GET /slow HTTP/1.1\r\nHost: web.test\r\n\r\n")
            stream, head = device.request()
            assert head.startswith(b"GET /slow ")
            device.data(stream, OK_HELLO)
            assert visitor.take(15) == b"HTTP/1.1 200 OK"


def test_many_records_in_one_piece_are_all_read() -> None:
    # The edge of the socket comes once; the rest waits in the buffers of OpenSSL.
    with serving_tls() as server:
        device = server.device()
        with Record(server.port, client_context()) as visitor:
            visitor.shake_hands()
            visitor.tls.write(b"POST / HTTP/1.1\r\nHost: web.test\r\nContent-Length: 40000\r\n\r\n")
            for _ in range(400):
                visitor.tls.write(b"x" * 100)
            visitor.carry()
            stream, body = device.request()
            body = body.partition(b"\r\n\r\n")[2]
            while len(body) < 40_000:
                body += device.next(stream, DATA).payload
            assert body == b"x" * 40_000


def test_visitors_move_to_the_worker_of_their_link() -> None:
    with serving_tls(2) as server:
        devices = [server.device(worker=worker, tunnel=f"t{worker}") for worker in (0, 1)]
        for _ in range(4):
            visitor = server.visitor()
            for turn, device in enumerate(devices * 2):
                visitor.get(host=f"t{turn % 2}.test")
                stream, _ = device.request()
                device.data(stream, OK_HELLO)
                assert visitor.response().body == b"hello"
                device.fin(stream)
        assert server.stat("visitors_moved_in") >= 12


# --- how connections end ----------------------------------------------------------------------


def upgraded(server: Server) -> tuple[Any, Any, int]:
    device, visitor = server.device(), server.visitor()
    visitor.get(fields="Connection: Upgrade\r\nUpgrade: echo\r\n")
    stream, _ = device.request()
    device.data(stream, b"HTTP/1.1 101 S\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
    assert visitor.take_head().startswith(b"HTTP/1.1 101 ")
    return device, visitor, stream


def test_a_close_notify_is_the_end_of_a_direction_only() -> None:
    with serving_tls() as server:
        device = server.device()
        with Record(server.port, client_context()) as visitor:
            visitor.shake_hands()
            visitor.send(
                b"GET / HTTP/1.1\r\nHost: web.test\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"
            )
            stream, _ = device.request()
            answer = b"HTTP/1.1 101 S\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"
            device.data(stream, answer)
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += visitor.take(1)
            with pytest.raises(ssl.SSLWantReadError):
                visitor.tls.unwrap()
            visitor.carry()
            assert device.next(stream, DATA).flags & FIN
            device.fin(stream)
            server.wait_stat("connections_closed", 1)


def test_an_end_without_a_close_notify_is_no_end() -> None:
    with serving_tls() as server:
        device, visitor, stream = upgraded(server)
        visitor.sock.shutdown(socket.SHUT_WR)  # of the socket below
        found = device.next(stream)
        while not found.flags & (FIN | RST):
            found = device.next(stream)
        assert found.flags & RST


def test_what_the_target_ends_is_ended_with_a_close_notify() -> None:
    with serving_tls() as server:
        device, visitor, stream = upgraded(server)
        device.data(stream, b"last words")
        device.fin(stream)
        assert visitor.rest().endswith(b"last words")  # SSLEOFError without it


@pytest.mark.parametrize("is_whole", [True, False])
def test_a_response_that_ends_with_the_connection(is_whole: bool) -> None:
    with serving_tls() as server:
        device, visitor = server.device(), server.visitor()
        visitor.send(b"GET / HTTP/1.0\r\nHost: web.test\r\n\r\n")
        stream, _ = device.request()
        device.data(stream, b"HTTP/1.1 200 OK\r\n\r\nsome")
        visitor.take_head()
        if is_whole:
            device.fin(stream)
        else:
            device.reset(stream)
        assert visitor.is_cut_off() is not is_whole


# --- handshakes that come to nothing ----------------------------------------------------------


def test_plain_http_gets_an_answer_it_can_read() -> None:
    with serving_tls() as server:
        visitor = server.visitor(tls=None)
        visitor.get()
        answer = visitor.response()
        assert answer.status == 400
        assert b"https://" in answer.body
        assert visitor.rest() == b""
        visitor.close()
        assert server.stat("tls_plain_requests") == 1
        wait_until(lambda: server.connections() == 0)


@pytest.mark.parametrize(
    "sent", [b"\x80\x2e\x01\x00\x02", b"\x16\x03\x01\x00\x05hello", b"\x16" * 999]
)
def test_nonsense_is_closed_and_counted(sent: bytes) -> None:
    with serving_tls() as server:
        visitor = server.visitor(tls=None)
        visitor.send(sent)
        visitor.is_cut_off()
        visitor.close()
        server.wait_stat("tls_handshakes_failed", 1)
        wait_until(lambda: server.connections() == 0)


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01\x02\x00\x01"])
def test_who_never_finishes_is_closed_in_time(sent: bytes) -> None:
    with serving_tls(tls_handshake_timeout_ms=100) as server:
        visitor = server.visitor(tls=None)
        visitor.send(sent)
        visitor.is_cut_off()
        assert server.stat("tls_handshake_timeouts") == 1
        wait_until(lambda: server.connections() == 0)


def test_only_so_many_handshakes_at_a_time() -> None:
    with serving_tls(tls_handshakes_max=2) as server:
        waiting = [server.visitor(tls=None) for _ in range(2)]
        server.wait_stat("accepted", 2)
        with pytest.raises(ConnectionResetError):  # perhaps as early as in connect()
            server.visitor(tls=None).rest()
        assert server.stat("tls_handshakes_refused") == 1
        waiting[0].close()
        wait_until(lambda: server.connections() == 1)
        handshake(server.port, client_context()).close()


def test_a_storm_of_handshakes_is_answered() -> None:
    with serving_tls() as server:
        failed: list[Exception] = []

        def visit() -> None:
            try:
                for _ in range(5):
                    with handshake(server.port, client_context()) as sock:
                        speak(sock)
            except Exception as error:
                failed.append(error)

        threads = [threading.Thread(target=visit) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failed
        assert server.stat("tls_handshakes") == 60
        assert server.stat("tls_handshakes_failed") == 0


def test_who_leaves_in_the_middle_of_a_handshake() -> None:
    with serving_tls() as server:
        with Record(server.port, client_context()) as visitor:
            with pytest.raises(ssl.SSLWantReadError):
                visitor.tls.do_handshake()
            hello = visitor.ciphertext()
        for cut in (1, 5, 9, len(hello) // 2, len(hello)):
            for is_reset in (False, True):
                sock = socket.create_connection(("127.0.0.1", server.port), 10)
                sock.sendall(hello[:cut])
                if is_reset:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                sock.close()
        wait_until(lambda: server.stat("accepted") == 11 and server.connections() == 0)


def test_a_client_hello_with_wrong_bytes_in_it() -> None:
    # Names and lengths are what is ours to read; the rest is for the sanitizers to look at.
    chance = random.Random(1)
    context = client_context()
    context.set_alpn_protocols(["http/1.1"])
    with serving_tls(tls=TlsServer([named("*.example.com"), named("web.test")])) as server:
        with Record(server.port, context) as visitor:
            with pytest.raises(ssl.SSLWantReadError):
                visitor.tls.do_handshake()
            hello = visitor.ciphertext()
        name = hello.index(b"web.test")
        for turn in range(300):
            wrong = bytearray(hello)
            for _ in range(chance.randint(1, 3)):
                place = (
                    chance.randrange(name - 9, name) if turn % 2 else chance.randrange(len(hello))
                )
                wrong[place] = chance.randrange(256)
            cut = len(wrong) if turn % 3 else chance.randrange(len(wrong))
            address = ("127.0.0.1", server.port)
            with suppress(ConnectionError), socket.create_connection(address, 10) as sock:
                sock.sendall(wrong[:cut])
                sock.shutdown(socket.SHUT_WR)
                while sock.recv(65536):
                    pass
        wait_until(lambda: server.connections() == 0)
        with handshake(server.port, context) as sock:
            speak(sock)


def test_a_drain_closes_connections_in_the_middle_of_a_handshake_last() -> None:
    with serving_tls() as server:
        sock = socket.create_connection(("127.0.0.1", server.port), 10)
        server.wait_stat("accepted", 1)
        server.engine.drain(1000)
        server.event(core.EVENT_DRAINED)
        sock.close()


# --- names ------------------------------------------------------------------------------------


def named(*names: str) -> tuple[tuple[str, ...], bytes, bytes]:
    pair = AUTHORITY.issue(*names)
    return (), pair.certificate, pair.key


def shown(port: int, name: str | None) -> set[str]:
    with handshake(port, client_context() if name else naive(), name) as sock:
        found: Any = sock.getpeercert()
        return {value for kind, value in found.get("subjectAltName", ()) if kind == "DNS"}


def test_the_certificate_fits_the_name_that_is_asked_for() -> None:
    tls = TlsServer([named("web.test"), named("*.example.com"), named("a.example.com", "B.test")])
    with serving_tls(tls=tls) as server:
        assert shown(server.port, "web.test") == {"web.test"}
        assert shown(server.port, "WEB.test") == {"web.test"}
        assert shown(server.port, "x.example.com") == {"*.example.com"}
        assert shown(server.port, "a.example.com") == {"a.example.com", "B.test"}
        assert shown(server.port, "b.test") == {"a.example.com", "B.test"}
        for name in ("x.y.example.com", "example.com", "other.test"):
            with handshake(server.port, naive(), name) as sock:
                der = sock.getpeercert(True)
            with handshake(server.port, naive(), None) as sock:
                assert sock.getpeercert(True) == der  # the first


def test_a_name_that_nobody_has_can_be_refused() -> None:
    tls = server_tls(unknown_name="refuse")
    with serving_tls(tls=tls) as server:
        assert "unrecognized name" in failure(server.port, client_context(), "other.test")
        handshake(server.port, naive(), None).close()
        handshake(server.port, client_context()).close()


@pytest.mark.parametrize("offered", [None, ["http/1.1"], ["h2", "http/1.1"]])
def test_alpn(offered: list[str] | None) -> None:
    context = client_context()
    if offered:
        context.set_alpn_protocols(offered)
    with serving_tls() as server, handshake(server.port, context) as sock:
        assert sock.selected_alpn_protocol() == (offered and "http/1.1")


def test_alpn_without_http_1_1_is_refused() -> None:
    context = client_context()
    context.set_alpn_protocols(["h2"])
    with serving_tls() as server:
        assert "no application protocol" in failure(server.port, context)


# --- other certificates -----------------------------------------------------------------------


def test_new_connections_get_the_new_certificate_and_old_ones_go_on() -> None:
    other = AUTHORITY.issue("web.test")
    with serving_tls(2) as server:
        device, visitor = server.device(), server.visitor()
        before = tls_of(visitor).getpeercert(True)
        server.engine.tls_apply(server.port, server_tls(other))
        server.settle()
        with handshake(server.port, client_context()) as sock:
            assert sock.getpeercert(True) != before
        visitor.get()
        stream, _ = device.request()
        device.data(stream, OK_HELLO)
        assert visitor.response().body == b"hello"


def test_only_a_listener_with_tls_takes_a_certificate() -> None:
    with serving() as server, pytest.raises(ValueError, match="speaks TLS"):
        server.engine.tls_apply(server.port, server_tls())
    with serving_tls() as server, pytest.raises(ValueError, match="speaks TLS"):
        server.engine.tls_apply(1, server_tls())


# --- sessions ---------------------------------------------------------------------------------


def session_of(port: int, context: ssl.SSLContext, name: str = "web.test") -> ssl.SSLSession:
    with handshake(port, context, name) as sock:
        speak(sock)  # the ticket comes first
        assert sock.session is not None
        return sock.session


def is_resumed(port: int, context: ssl.SSLContext, session: Any, name: str = "web.test") -> bool:
    raw = socket.create_connection(("127.0.0.1", port), 10)
    with context.wrap_socket(raw, server_hostname=name, session=session) as sock:
        speak(sock)
        return bool(sock.session_reused)


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_a_session_is_resumed_on_any_worker(version: str) -> None:
    context = client_context(maximum=version)
    with serving_tls(2, tls=server_tls(minimum="1.2")) as server:
        session = session_of(server.port, context)
        assert all(is_resumed(server.port, context, session) for _ in range(8))
        assert server.stat("tls_resumed") == 8


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_a_ticket_is_good_for_its_own_name_only(version: str) -> None:
    context = client_context(maximum=version)
    tls = TlsServer([named("web.test"), named("other.test")], minimum="1.2")
    with serving_tls(tls=tls) as server:
        session = session_of(server.port, context)
        assert not is_resumed(server.port, context, session, "other.test")
        assert is_resumed(server.port, context, session)
        session = session_of(server.port, context, "other.test")
        assert not is_resumed(server.port, context, session)


def test_a_ticket_ends_with_its_certificate() -> None:
    context = client_context()
    with serving_tls() as server:
        session = session_of(server.port, context)
        server.engine.tls_apply(server.port, server_tls())
        server.settle()
        assert not is_resumed(server.port, context, session)


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_sessions_outlive_a_change_of_ticket_keys(version: str) -> None:
    first, second, third = (os.urandom(80) for _ in range(3))
    context = client_context(maximum=version)

    def tls(*keys: bytes, pair: Pair = WEB, **rules: Any) -> TlsServer:
        return server_tls(pair, minimum="1.2", ticket_keys=keys, **rules)

    with serving_tls(2, tls=tls(first)) as server:

        def use(tls: TlsServer) -> None:
            server.engine.tls_apply(server.port, tls)
            server.settle()

        session = session_of(server.port, context)
        use(tls(first))  # the same again, as of a SIGHUP
        assert is_resumed(server.port, context, session)
        use(tls(second, first))
        assert is_resumed(server.port, context, session)
        newer = session_of(server.port, context)
        use(tls(third, second))
        assert not is_resumed(server.port, context, session)
        assert is_resumed(server.port, context, newer)
        # Neither key is enough where something else than the key is another.
        use(tls(third, second, pair=AUTHORITY.issue("web.test")))
        assert not is_resumed(server.port, context, newer)
        use(tls(third, second, client_ca=AUTHORITY.pem))
        assert not is_resumed(server.port, context, newer)
        asked = session_of(server.port, context)
        use(tls(third, client_ca=AUTHORITY.pem, client_crl=AUTHORITY.revoke()))
        assert not is_resumed(server.port, context, asked)
        use(tls(third, client_ca=AUTHORITY.pem))
        assert is_resumed(server.port, context, asked)


@pytest.mark.parametrize("keys", [[b"short"], [b"x" * 81], [b"x" * 80] * 9])
def test_ticket_keys_that_are_none(keys: list[bytes]) -> None:
    with pytest.raises(ValueError, match="ticket key"):
        server_tls(ticket_keys=keys)


# --- client certificates ----------------------------------------------------------------------


def test_the_control_plane_hears_the_names_of_a_verified_certificate() -> None:
    tls = server_tls(client_ca=AUTHORITY.pem)
    pair = AUTHORITY.issue("sensor.test", "10.1.2.3", common_name="Sensor Ü", client=True)
    with serving_tls(tls=tls, client=client_context(pair=pair)) as server:
        server.knock()[0].close()
        assert server.asked[4] == ("cn:Sensor Ü", "dns:sensor.test", "ip:10.1.2.3")


def test_none_is_needed_unless_it_is_required() -> None:
    with serving_tls(tls=server_tls(client_ca=AUTHORITY.pem)) as server:
        server.knock()[0].close()
        assert server.asked[4] == ()
    tls = server_tls(client_ca=AUTHORITY.pem, client_required=True)
    with serving_tls(tls=tls) as server:
        assert "certificate required" in failure(server.port, client_context())
        handshake(server.port, client_context(pair=DEVICE)).close()


@pytest.mark.parametrize("is_required", [True, False])
@pytest.mark.parametrize(
    ("pair", "alert"),
    [
        (STRANGER.issue_for_client("sensor.test"), "unknown ca"),
        (self_signed("sensor.test"), "unknown ca"),
        (AUTHORITY.issue_expired("sensor.test", client=True), "certificate expired"),
        (AUTHORITY.issue_early("sensor.test", client=True), "bad certificate"),
        (AUTHORITY.issue("sensor.test"), "unsupported certificate"),
    ],
)
def test_a_bad_client_certificate_is_refused(pair: Pair, alert: str, is_required: bool) -> None:
    tls = server_tls(client_ca=AUTHORITY.pem, client_required=is_required)
    with serving_tls(tls=tls) as server:
        assert alert in failure(server.port, client_context(pair=pair))
        server.wait_stat("tls_handshakes_failed", 1)


def test_a_revoked_client_certificate_is_refused() -> None:
    lost = AUTHORITY.issue_for_client("lost.test")
    tls = server_tls(client_ca=AUTHORITY.pem, client_crl=AUTHORITY.revoke(lost))
    with serving_tls(tls=tls) as server:
        assert "certificate revoked" in failure(server.port, client_context(pair=lost))
        handshake(server.port, client_context(pair=DEVICE)).close()


def test_a_certificate_of_a_revoked_authority_is_refused() -> None:
    middle = Authority("middle", parent=AUTHORITY)
    pair = middle.issue_for_client("sensor.test")
    good = server_tls(client_ca=AUTHORITY.pem, client_crl=AUTHORITY.revoke())
    with serving_tls(tls=good) as server:
        handshake(server.port, client_context(pair=pair)).close()
    revoked = AUTHORITY.revoke(Pair(middle._certificate, b"", b""))
    bad = server_tls(client_ca=AUTHORITY.pem, client_crl=revoked)
    with serving_tls(tls=bad) as server:
        assert "certificate revoked" in failure(server.port, client_context(pair=pair))


# --- what can not be used -----------------------------------------------------------------------

LOCKED = b"""-----BEGIN ENCRYPTED PRIVATE KEY-----
MIHsMFcGCSqGSIb3DQEFDTBKMCkGCSqGSIb3DQEFDDAcBAhXDZ6DMyoZnwICCAAw
DAYIKoZIhvcNAgkFADAdBglghkgBZQMEASoEEOkIjvLcCQbDQDMZCjB3kyQEgZBa
-----END ENCRYPTED PRIVATE KEY-----
"""


@pytest.mark.parametrize(
    ("chain", "key", "text"),
    [
        (WEB.certificate, AUTHORITY.issue("web.test").key, "does not belong to the certificate"),
        (b"", WEB.key, "no certificate in"),
        (WEB.certificate, b"", "no private key in"),
        (WEB.key, WEB.key, "no certificate in"),
        (WEB.certificate, WEB.certificate, "no private key in"),
        (
            b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            WEB.key,
            "not valid PEM",
        ),
        (WEB.certificate + b"-----BEGIN CERTIFICATE-----\n!\n", WEB.key, "not valid PEM"),
        (WEB.certificate, b"-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n", "PEM"),
    ],
)
def test_a_certificate_that_can_not_be_used(chain: bytes, key: bytes, text: str) -> None:
    with pytest.raises(ValueError, match=text) as caught:
        TlsServer([((), chain, key)])
    assert "\n" not in str(caught.value)


def test_other_settings_that_can_not_be_used() -> None:
    row = ((), WEB.certificate, WEB.key)
    with pytest.raises(ValueError, match="needs a certificate"):
        TlsServer([])
    with pytest.raises(ValueError, match=r"'1\.2' or '1\.3'"):
        TlsServer([row], minimum="1.1")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="need an authority"):
        TlsServer([row], client_required=True)
    with pytest.raises(ValueError, match="needs an authority"):
        TlsServer([row], client_crl=b"x")
    with pytest.raises(ValueError, match="authority's file"):
        TlsServer([row], client_ca=b"nothing")
    with pytest.raises(ValueError, match="revocation list"):
        TlsServer([row], client_ca=AUTHORITY.pem, client_crl=b"nothing")
    with pytest.raises(ValueError, match="'default' or 'refuse'"):
        TlsServer([row], unknown_name="other")  # type: ignore[arg-type]
    for name in ("a b", "*x.test", "x" * 300, "a.*.test", ""):
        with pytest.raises(ValueError, match="is no server name"):
            TlsServer([((name,), WEB.certificate, WEB.key)])


def test_a_certificate_is_described() -> None:
    pair = AUTHORITY.issue("web.test", "::1", ends=datetime.timedelta(days=10))
    found = core.tls_certificate(pair.certificate)
    assert found.names == ("cn:web.test", "dns:web.test", "ip:::1")
    assert abs(found.not_after - pair.leaf.not_valid_after_utc.timestamp()) <= 2
    assert abs(found.not_before - pair.leaf.not_valid_before_utc.timestamp()) <= 2
    assert core.TLS_LIBRARY.startswith("OpenSSL 3")
    with pytest.raises(ValueError, match="no certificate"):
        core.tls_certificate(b"")
