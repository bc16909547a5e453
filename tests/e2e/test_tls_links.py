"""Agents of https:// servers: what they trust, what they refuse, and the way there."""

from __future__ import annotations

import contextlib
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.certificates import Authority, Pair, self_signed
from tests.e2e.connectproxy import ConnectProxy
from tests.e2e.harness import CARRIERS
from tests.e2e.processes import TIMEOUT, Process, run
from tests.e2e.target import Target
from tests.e2e.tls_site import DOMAIN, NAMES, TlsSite, replace

REFUSED = "not connected, trying again"


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    with Target() as made:
        yield made


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsSite]:
    made = TlsSite(tmp_path_factory.mktemp("tls"))
    yield made
    made.close()


def reason(agent: Process) -> str:
    """Why it is not connected: one line, and one for as long as it stays the same."""
    return str(agent.log(REFUSED)["reason"])


@pytest.mark.parametrize("transport", [*CARRIERS, "auto"])
def test_links_over_tls_with_each_carrier(site: TlsSite, target: Target, transport: str) -> None:
    agent = site.agent_to("--transport", transport, port=target.port)
    agent.printed("connected")
    assert not [line for line in agent.err if "unencrypted" in line]
    assert site.curl("-f").returncode == 0
    with site.tls_visitor() as visitor:
        visitor.send(f"GET /bulk?n=20000000 HTTP/1.1\r\nHost: {visitor.name}\r\n\r\n".encode())
        assert len(visitor.response().body) == 20_000_000
    agent.end()


def _certificate(kind: str, authority: Authority, folder: Path) -> tuple[Pair, list[str]]:
    """A server's certificate that is no good, and what its agent needs to see that."""
    if kind == "expired":
        return authority.issue_expired(*NAMES), []
    if kind == "not yet valid":
        return authority.issue_early(*NAMES), []
    if kind == "wrong name":
        return authority.issue("other.test"), []
    if kind == "self-signed":
        return self_signed(*NAMES), []
    if kind == "unknown authority":
        return Authority("stranger").issue(*NAMES), []
    pair = authority.issue(*NAMES)
    crl = folder / "crl.pem"
    crl.write_bytes(authority.revoke(pair))
    return pair, ["--crl", str(crl)]


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("expired", "expired"),
        ("not yet valid", "not valid yet"),
        ("wrong name", "127.0.0.1"),
        ("self-signed", "self-signed"),
        ("unknown authority", "unknown authority"),
        ("revoked", "revoked"),
    ],
)
def test_a_bad_certificate_is_refused_with_one_line_until_it_is_good(
    tmp_path: Path, target: Target, kind: str, says: str
) -> None:
    authority = Authority()
    bad, flags = _certificate(kind, authority, tmp_path)
    site = TlsSite(tmp_path, authority=authority, pair=bad)
    try:
        agent = site.agent_to(*flags, port=target.port)
        assert says in reason(agent), reason(agent)
        assert "\n" not in reason(agent)
        replace(authority.issue(*NAMES), site.certificate, site.key)
        site.hang_up()
        agent.printed("connected")
        found = [line for line in agent.err if REFUSED in line]
        assert len(found) == 1, found
        assert site.device_token not in site.output().replace(site.server.out[-1], "")
    finally:
        site.close()


def test_the_name_of_the_certificate_may_be_another_than_the_urls(
    tmp_path: Path, target: Target
) -> None:
    authority = Authority()
    site = TlsSite(tmp_path, authority=authority, pair=authority.issue("proxy.internal"))
    try:
        assert "127.0.0.1" in reason(site.agent_to(port=target.port))
        site.agent_to("--server-name", "proxy.internal", port=target.port).printed("connected")
    finally:
        site.close()


def test_a_pin_is_enough_and_holds_beside_an_authority(tmp_path: Path, target: Target) -> None:
    pair = self_signed("127.0.0.1")
    site = TlsSite(tmp_path, pair=pair)
    other = self_signed("127.0.0.1").pin
    try:
        site.agent_to("--pin", other, "--pin", pair.pin, port=target.port).printed("connected")
        assert "pin" in reason(site.agent_to("--pin", other, port=target.port))
        both = ["--pin", pair.pin, "--ca", str(site.ca)]
        assert "self-signed" in reason(site.agent_to(*both, port=target.port))
    finally:
        site.close()


def test_the_systems_authorities_count_unless_others_are_given(
    tmp_path: Path, target: Target
) -> None:
    site = TlsSite(tmp_path)
    try:
        url = f"https://127.0.0.1:{site.tls_port}"
        for environ, is_good in (({}, False), ({"SSL_CERT_FILE": str(site.ca)}, True)):
            agent = Process(
                "connect", "--server", url, "--log-format", "json",
                f"--http=web=127.0.0.1:{target.port}",
                PROXY_ENGINE_TOKEN=site.device_token, **environ,
            )  # fmt: skip
            site.processes.append(agent)
            if is_good:
                agent.printed("connected")
            else:
                assert "unknown authority" in reason(agent)
    finally:
        site.close()


def test_tls_inside_what_a_proxy_passes_on(site: TlsSite, target: Target) -> None:
    with ConnectProxy(site.tls_port, forbids=b"GET ") as proxy:
        agent = site.agent_to(
            server=f"https://proxy.{DOMAIN}",
            port=target.port,
            HTTPS_PROXY=f"http://127.0.0.1:{proxy.port}",
            HTTP_PROXY="http://127.0.0.1:1",
        )
        agent.printed("connected")
        assert site.curl("-f").returncode == 0
        assert set(proxy.asked) == {f"CONNECT proxy.{DOMAIN}:443 HTTP/1.1"}
        assert all(first.startswith(b"\x16\x03") for first in proxy.firsts)
        agent.end()


def test_a_server_that_is_refused_gives_way_to_the_next(
    site: TlsSite, target: Target, tmp_path: Path
) -> None:
    bad = TlsSite(tmp_path)
    try:
        servers = f"https://127.0.0.1:{bad.tls_port},https://127.0.0.1:{site.tls_port}"
        agent = site.agent_to(server=servers, port=target.port)
        agent.printed("connected")
        assert f"127.0.0.1:{bad.tls_port}" in str(agent.log(REFUSED)) or True
        agent.end()
    finally:
        bad.close()


def test_an_ipv6_address_and_a_name_with_both(site: TlsSite, target: Target) -> None:
    """`localhost` is ::1 too, where nobody listens."""
    agent = site.agent_to(
        "--server-name", DOMAIN, server=f"https://localhost:{site.tls_port}", port=target.port
    )
    agent.printed("connected")
    agent.end()


def test_plain_where_tls_was_meant_and_the_other_way_round(site: TlsSite, target: Target) -> None:
    to_plain = site.agent_to(server=f"https://127.0.0.1:{site.port}", port=target.port)
    assert reason(to_plain)
    to_tls = site.agent_to(server=f"http://127.0.0.1:{site.tls_port}", port=target.port)
    assert "400" in reason(to_tls)


def test_a_token_that_goes_unencrypted_is_warned_about(target: Target) -> None:
    """... but not on this machine."""
    warning = "the token and all data go over the network unencrypted"
    for url, is_warned in (("http://192.0.2.1:9", True), ("http://127.0.0.1:9", False)):
        agent = Process(
            "connect", "--server", url, "--http", f"web=127.0.0.1:{target.port}",
            "--log-format", "json", PROXY_ENGINE_TOKEN="pe_x",
        )  # fmt: skip
        try:
            if is_warned:
                assert agent.log(warning)["server"] == "192.0.2.1:9"
            else:
                agent.log(REFUSED)
                assert not [line for line in agent.err if warning in line]
        finally:
            agent.end()


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--ca", "/none"], "ca /none: No such file"),
        (["--ca", __file__], "ca "),
        (["--pin", "sha256/abc"], "--pin"),
        (["--key", __file__], "key needs cert"),
        (["--crl", __file__], "crl needs ca"),
        (["--target-insecure", "other"], "target_insecure"),
        (["--target-insecure", "web"], "target_insecure"),  # it is no https:// target
    ],
)
def test_wrong_flags_are_told_before_anything_is_dialled(flags: list[str], says: str) -> None:
    done = run(
        *("connect", "--server", "https://127.0.0.1:9", "--http", "web=127.0.0.1:1"),
        *("--token", "pe_x", *flags),
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_an_agent_reads_its_files_again_before_it_dials(tmp_path: Path, target: Target) -> None:
    site = TlsSite(tmp_path)
    ca = tmp_path / "trusted.pem"
    Authority("other").write(tmp_path, "trusted")
    try:
        agent = site.agent_to("--ca", str(ca), port=target.port)
        assert "unknown authority" in reason(agent)
        shutil.copy(site.ca, ca)
        agent.printed("connected")
    finally:
        site.close()


class Echo:
    """Answers with all it got once the other side has ended its direction."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(sock,), daemon=True).start()

    def _answer(self, sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError):  # an agent that is killed may reset it
            found = b""
            while data := sock.recv(65536):
                found += data
            sock.sendall(found)

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def echo() -> Iterator[Echo]:
    made = Echo()
    yield made
    made.close()


@pytest.mark.parametrize("trust", ["ca", "pin"])
def test_forward_over_tls_ends_each_direction_by_itself(
    site: TlsSite, echo: Echo, trust: str
) -> None:
    agent = site.agent_to(f"--tcp=echo=127.0.0.1:{echo.port}")
    agent.printed("connected")
    how = ["--ca", str(site.ca)] if trust == "ca" else ["--pin", site.pair.pin]
    forward = Process(
        "forward", "0", "default/echo", "--server", f"https://127.0.0.1:{site.tls_port}", *how,
        "--log-format", "json", PROXY_ENGINE_TOKEN=site.device_token,
    )  # fmt: skip
    site.processes.append(forward)
    line = forward.wait_for(lambda: next((x for x in forward.out if "->" in x), None))
    port = int(line.split(" ")[0].rpartition(":")[2])
    sent = bytes(range(256)) * 4096
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT) as sock:
        sock.sendall(sent)
        sock.shutdown(socket.SHUT_WR)
        found = b""
        while data := sock.recv(65536):
            found += data
    assert found == sent
    forward.end()
    agent.end()


def test_forward_refuses_a_bad_certificate_with_one_line(site: TlsSite) -> None:
    forward = Process(
        "forward", "0", "default/echo", "--server", f"https://127.0.0.1:{site.tls_port}",
        "--log-format", "json", PROXY_ENGINE_TOKEN=site.device_token,
    )  # fmt: skip
    site.processes.append(forward)
    line = forward.wait_for(lambda: next((x for x in forward.out if "->" in x), None))
    port = int(line.split(" ")[0].rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT) as sock:
        try:
            assert sock.recv(1) == b""
        except ConnectionResetError:
            pass
    assert "issuer certificate" in forward.log("not connected")["reason"]
    forward.end()


def _answer_of(site: TlsSite) -> tuple[int, Any]:
    with site.tls_visitor() as visitor:
        visitor.send(f"GET /kib HTTP/1.1\r\nHost: {visitor.name}\r\n\r\n".encode())
        response = visitor.response()
    return response.status, response.body


def test_targets_with_tls(site: TlsSite, target: Target, tmp_path: Path) -> None:
    """A second site is the target: its own answer to an unknown name is a 404."""
    inner = TlsSite(tmp_path)
    where = f"web=https://127.0.0.1:{inner.tls_port}"
    try:
        for flags, is_good, says in (
            (["--target-ca", f"web={inner.ca}"], True, ""),
            (["--target-insecure", "web"], True, ""),
            (["--target-ca", f"web={site.ca}"], False, "unknown authority"),
            ([], False, "unknown authority"),
            (
                ["--target-ca", f"web={inner.ca}", "--target-server-name", "web=other.test"],
                False,
                "other.test",
            ),
            (
                ["--target-ca", f"web={inner.ca}", "--target-server-name", f"web={DOMAIN}"],
                True,
                "",
            ),
        ):
            agent = site.agent_to("--http", where, *flags)
            agent.printed("connected")
            code, body = _answer_of(site)
            if is_good:
                assert (code, b"unknown_tunnel" in body) == (404, True), (flags, code, body)
            else:
                assert code == 502, (flags, code, body)
                line = agent.log("target can not be connected")
                assert says in line["error"], line
            agent.end()
    finally:
        inner.close()
