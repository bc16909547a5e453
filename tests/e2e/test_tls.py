"""TLS of public listeners, seen with curl, openssl and Python's own TLS."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.certificates import Authority
from tests.e2e.harness import RecordingTarget, Visitor, wait_until
from tests.e2e.processes import TIMEOUT
from tests.e2e.target import Target
from tests.e2e.tls_site import DOMAIN, TlsSite, put


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    with Target() as made:
        yield made


@pytest.fixture(scope="module")
def site(target: Target, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsSite]:
    folder = tmp_path_factory.mktemp("tls")
    authority = Authority()
    others = [
        *put(authority.issue("a.other.test"), folder, "a"),
        *put(authority.issue("*.other.test"), folder, "wild"),
    ]
    made = TlsSite(folder, authority=authority, server_args=others)
    made.agent_to(port=target.port).printed("connected")
    yield made
    made.close()


def test_curl_over_a_link_with_tls(site: TlsSite) -> None:
    done = site.curl("-w", "%{http_code} %{ssl_verify_result} %{size_download}", "-o", "/dev/null")
    assert (done.returncode, done.stdout) == (0, "200 0 1024"), done.stderr
    assert site.agent is not None
    [tunnel] = site.agent.printed("connected")["tunnels"]
    assert tunnel["url"] == f"https://web.{DOMAIN}:{site.tls_port}/"


def test_the_target_is_told_that_it_was_https(
    site: TlsSite, shared_target: RecordingTarget
) -> None:
    shared_target.restart()
    token = site.make_token("proto")
    agent = site.agent_to(f"--http=proto=127.0.0.1:{shared_target.port}", token=token)
    agent.printed("connected")
    name = f"proto.{DOMAIN}"
    assert site.curl(name=name).returncode == 0
    with Visitor(site.port) as visitor:
        visitor.send(f"GET / HTTP/1.1\r\nHost: {name}\r\n\r\n".encode())
        assert visitor.response().status == 200
    found = [request.values("x-forwarded-proto") for request in shared_target.requests]
    assert found == [["https"], ["http"]]
    agent.end()


@pytest.mark.parametrize(
    ("name", "certificate"),
    [
        ("web.example.test", "DNS:example.test"),
        ("a.other.test", "DNS:a.other.test"),
        ("b.other.test", "DNS:*.other.test"),
        ("A.OTHER.TEST", "DNS:a.other.test"),
        ("x.b.other.test", "DNS:example.test"),  # a wildcard is for one label
        ("unknown.test", "DNS:example.test"),
        ("", "DNS:example.test"),
    ],
)
def test_the_certificate_is_chosen_by_name(site: TlsSite, name: str, certificate: str) -> None:
    said = site.s_client(*(["-servername", name] if name else ["-noservername"]))
    pem = re.search(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", said, re.DOTALL)
    assert pem is not None, said
    shown = subprocess.run(
        ["openssl", "x509", "-noout", "-ext", "subjectAltName"],
        input=pem[0], capture_output=True, text=True,
    ).stdout  # fmt: skip
    assert certificate in [each.strip() for each in shown.splitlines()[1].split(",")], shown


def test_versions_and_alpn(site: TlsSite) -> None:
    said = site.s_client("-alpn", "h2,http/1.1")
    assert "TLSv1.3" in said
    assert "ALPN protocol: http/1.1" in said
    assert "Verify return code: 0 (ok)" in said
    assert "Early data was not sent" in said
    assert "Max Early Data: 0" in site.s_client("-ign_eof", say="GET / HTTP/1.0\r\n\r\n")
    for version in ("-tls1_2", "-tls1_1", "-tls1"):
        assert "alert" in site.s_client(version, "-cipher", "ALL:@SECLEVEL=0"), version


def test_tls_1_2_by_choice_is_as_safe_as_it_can_be(tmp_path: Path) -> None:
    site = TlsSite(tmp_path, server_args=["--tls-min-version", "1.2"])
    try:
        said = site.s_client("-tls1_2")
        assert "TLSv1.2" in said
        assert "Secure Renegotiation IS supported" in said
        assert "Compression: NONE" in said
        assert re.search(r"Cipher is ECDHE-ECDSA-(AES\d+-GCM|CHACHA20)", said), said
        # A client that asks for a new handshake gets none.
        assert "no renegotiation" in site.s_client("-tls1_2", say="R\n").lower()
        for cipher in ("AES128-SHA", "ECDHE-ECDSA-AES128-SHA", "ECDHE-ECDSA-AES128-SHA256"):
            assert "alert" in site.s_client("-tls1_2", "-cipher", cipher), cipher
        assert "alert" in site.s_client("-tls1_1", "-cipher", "ALL:@SECLEVEL=0")
        assert "TLSv1.3" in site.s_client()
    finally:
        site.close()


def test_sessions_are_resumed_under_their_own_name_only(site: TlsSite, tmp_path: Path) -> None:
    session = str(tmp_path / "session")
    ask = f"GET /kib HTTP/1.1\r\nHost: web.{DOMAIN}\r\nConnection: close\r\n\r\n"
    mine = ("-servername", f"web.{DOMAIN}", "-ign_eof")
    assert "Reused" not in site.s_client(*mine, "-sess_out", session, say=ask)
    again = site.s_client(*mine, "-sess_in", session, say=ask)
    assert "Reused, TLSv1.3" in again
    assert "HTTP/1.1 200" in again
    other = site.s_client("-servername", "a.other.test", "-ign_eof", "-sess_in", session, say=ask)
    assert "Reused" not in other
    assert "CONNECTED" in other


def test_plain_http_on_a_tls_port_is_400(site: TlsSite) -> None:
    with socket.create_connection(("127.0.0.1", site.tls_port), timeout=TIMEOUT) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: web.example.test\r\n\r\n")
        answer = b""
        while data := sock.recv(4096):
            answer += data
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"https" in answer.lower() or b"tls" in answer.lower()


def test_a_handshake_that_stalls_is_ended_and_hurts_nobody(tmp_path: Path) -> None:
    site = TlsSite(tmp_path, engine={"tls_handshake_timeout_ms": 500})
    try:
        where = "127.0.0.1", site.tls_port
        stalled = [socket.create_connection(where, TIMEOUT) for _ in range(50)]
        for sock in stalled:
            sock.sendall(b"\x16\x03\x01\x02\x00\x01")
        assert "CONNECTED" in site.s_client()
        for sock in stalled:
            with sock, contextlib.suppress(ConnectionResetError):
                assert sock.recv(100) == b""
    finally:
        site.close()


def test_large_bodies_both_ways_and_many_requests_of_a_connection(site: TlsSite) -> None:
    with site.tls_visitor() as visitor:
        for _ in range(50):
            assert visitor.get() == 200
        visitor.send(f"GET /bulk?n=30000000 HTTP/1.1\r\nHost: {visitor.name}\r\n\r\n".encode())
        assert len(visitor.response().body) == 30_000_000
        size = 5_000_000
        head = f"POST /sink HTTP/1.1\r\nHost: {visitor.name}\r\nContent-Length: {size}\r\n\r\n"
        visitor.send(head.encode() + b"x" * size)
        assert visitor.response().json()["size"] == size


def test_a_visitor_who_does_not_trust_the_authority_ends_it(site: TlsSite) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        site.tls_visitor(ssl.create_default_context())
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        site.tls_visitor(name="unknown.test")
    assert site.curl().returncode == 0


def test_what_comes_in_plain_is_sent_to_https(tmp_path: Path, target: Target) -> None:
    site = TlsSite(tmp_path, server_args=["--https-redirect"])
    try:
        site.agent_to(port=target.port).printed("connected")
        for method in ("GET", "POST"):
            with Visitor(site.port) as visitor:
                visitor.send(
                    f"{method} /a%20b?c=d HTTP/1.1\r\nHost: web.{DOMAIN}:{site.port}\r\n"
                    "Content-Length: 0\r\n\r\n".encode()
                )
                response = visitor.response()
            assert response.status == 308
            assert response.values("location") == [
                f"https://web.{DOMAIN}:{site.tls_port}/a%20b?c=d"
            ]
        with Visitor(site.port) as visitor:  # a connection may go on
            for _ in range(2):
                visitor.send(f"GET / HTTP/1.1\r\nHost: x.{DOMAIN}\r\n\r\n".encode())
                response = visitor.response()
                assert (response.status, response.json()["error"]) == (308, "https_required")
            long = "/" + 4000 * "a"
            visitor.send(f"GET {long} HTTP/1.1\r\nHost: x.{DOMAIN}\r\n\r\n".encode())
            response = visitor.response()
            assert (response.status, response.values("location")) == (400, [])
            visitor.send(f"OPTIONS * HTTP/1.1\r\nHost: x.{DOMAIN}\r\n\r\n".encode())
            assert visitor.response().status == 400
        plain = site.agent_to(server=f"http://127.0.0.1:{site.port}", port=target.port)
        assert "308 https_required" in plain.log("not connected, trying again")["reason"]
        assert site.stats()["https_redirects"] >= 6
    finally:
        site.close()


def test_the_request_log_counts_what_was_said_and_not_its_wrapping(site: TlsSite) -> None:
    with site.tls_visitor() as visitor:
        assert visitor.get("/kib?tls=1") == 200
    [row] = wait_until(lambda: site.rows(path="/kib?tls=1"))
    assert row["host"] == f"web.{DOMAIN}"
    assert 1024 < row["bytes_out"] < 1024 + 600
