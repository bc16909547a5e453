"""Devices that come, go, compete and misbehave: what becomes of their links, and of others."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from tests.e2e.fixtures import own_site, own_target
from tests.e2e.harness import wait_until
from tests.e2e.processes import TIMEOUT, Process, run
from tests.e2e.rawlink import (
    ACK,
    DATA,
    FIN,
    GO_AWAY,
    PING,
    RST,
    SYN,
    WINDOW,
    RawLink,
    frame,
    record,
)
from tests.e2e.site import Site, fd_count
from tests.e2e.target import Target

target = own_target()
site = own_site()


def errors(process: Process) -> list[str]:
    return [line for line in process.err if line.startswith("proxy-engine: error:")]


def start_agent(site: Site, name: str, port: int, token: str) -> Process:
    """An agent that need not succeed."""
    agent = Process(
        "connect", "--server", f"http://127.0.0.1:{site.port}",
        "--http", f"{name}=127.0.0.1:{port}", PROXY_ENGINE_TOKEN=token,
    )  # fmt: skip
    site.processes.append(agent)
    return agent


# --- several devices ------------------------------------------------------------------------


def test_several_devices_serve_several_tunnels_each(site: Site) -> None:
    with Target() as first, Target() as second, Target() as third:
        site.connect({"a": first.port, "b": second.port}, token=site.make_token("one"))
        site.connect({"c": third.port, "d": first.port}, token=site.make_token("two"))
        site.connect({"e": second.port}, token=site.make_token("three"), transport="tcp")
        where = {"a": first, "b": second, "c": third, "d": first, "e": second}
        for name, target in where.items():
            path = f"/kib?{name}"
            assert site.get(name, path).status == 200
            assert target.requests[-1] == f"GET {path}"
        assert site.get("f").status == 404
        devices = {row["tunnel"]: row["device"] for row in site.wait_rows(6) if row["tunnel"]}
        assert devices == {"a": "one", "b": "one", "c": "two", "d": "two", "e": "three"}
    site.settled()


def test_the_newest_agent_wins_and_the_old_one_does_not_fight_back(
    site: Site, target: Target
) -> None:
    first = site.connect({"web": target.port})
    second = site.connect({"web": target.port}, transport="tcp")
    assert first.exit_code() == 1
    [line] = errors(first)
    assert "replaced by another agent run from 127.0.0.1" in line
    for _ in range(20):
        assert site.get("web", "/kib").status == 200
    assert second.popen.poll() is None
    assert site.stats()["links_opened"] == 2
    # The same the other way round: the token is not burnt.
    third = site.connect({"web": target.port})
    assert second.exit_code() == 1
    assert third.popen.poll() is None
    site.settled()


def test_a_replaced_run_is_refused_until_the_newer_one_has_gone(site: Site) -> None:
    with RawLink(site.port, site.device_token, instance="old") as old:
        old.register("web")
        with RawLink(site.port, site.device_token, instance="new") as new:
            new.register("web")
            assert [each["code"] for each in old.records()] == ["replaced"]
            with pytest.raises(ConnectionError, match="409"):
                RawLink(site.port, site.device_token, instance="old")
    wait_until(lambda: site.api("/health")["links"] == 0)
    RawLink(site.port, site.device_token, instance="old").close()


def test_a_tunnel_of_another_device_is_refused_and_stays_where_it_is(
    site: Site, target: Target
) -> None:
    site.connect({"web": target.port})
    other = start_agent(site, "web", 1, site.make_token("thief"))
    assert other.exit_code() == 1
    [line] = errors(other)
    assert '"web" refused' in line and "tunnel_taken" in line
    assert site.get("web", "/kib").status == 200


# --- tokens -----------------------------------------------------------------------------------


def test_a_revoked_token_ends_the_link_and_is_401_from_then_on(site: Site, target: Target) -> None:
    token = site.make_token("pi")
    agent = site.connect({"pi": target.port}, token=token)
    revoked = run("token", "revoke", "pi", "--data-dir", str(site.data_dir))
    assert revoked.returncode == 0
    assert agent.exit_code() == 1
    [line] = errors(agent)
    assert "(401)" in line and "revoked" in line
    with pytest.raises(ConnectionError, match="401"):
        RawLink(site.port, token)
    assert site.get("pi").json()["error"] == "device_offline"


@pytest.mark.parametrize("token", ["pe_" + "A" * 43, "x", "pe_" + "é" * 3])
def test_a_wrong_token_is_401_before_any_upgrade(site: Site, token: str) -> None:
    visitor = site.visitor()
    visitor.send(
        "GET /_proxy/link HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: nonsense\r\n"
        f"Authorization: Bearer {token}\r\n\r\n".encode("latin-1")
    )
    response = visitor.response()
    assert response.status == 401
    assert response.values("www-authenticate") == ["Bearer"]
    assert visitor.is_closed()
    assert site.stats()["links_opened"] == 0


def test_secrets_are_written_down_nowhere(site: Site, target: Target, tmp_path: Path) -> None:
    by_file, by_environment, unused = (site.make_token(name) for name in ("f", "e", "u"))
    token_file = tmp_path / "token"
    token_file.write_text(by_file + "\n")
    from_file = Process(
        "connect", "--server", f"http://127.0.0.1:{site.port}", "--token-file", str(token_file),
        "--http", f"f=127.0.0.1:{target.port}", "--log-format", "json",
    )  # fmt: skip
    site.processes.append(from_file)
    from_file.printed("connected")
    agent = site.connect({"e": target.port}, token=by_environment)
    bad = "pe_" + "B" * 43
    start_agent(site, "x", 1, bad).exit_code()
    secrets = [site.admin_token, site.device_token, by_file, by_environment, unused, bad]
    pages = []
    for secret in secrets:
        # As a query, as a path, in a field, and where it is refused.
        for path in (f"/kib?token={secret}", f"/{secret}", f"/_proxy/link?token={secret}"):
            for name in ("e", "nobody"):
                answer = site.get(name, path, f"Authorization: Bearer {secret}x")
                if answer.status >= 400:
                    pages.append(answer.head + answer.body)
    for process in (site.server, from_file, agent):
        command = Path(f"/proc/{process.popen.pid}/cmdline").read_bytes()
        pages.append(command)
    rows = site.wait_rows(4 * len(secrets))
    pages.append(repr(rows).encode())
    pages.append(repr(site.api("/api/v1/requests")).encode())
    pages.append(repr(site.api("/api/v1/devices")).encode())
    # What the first run prints is meant to be seen; everything else is searched.
    said = [line for each in site.processes for line in [*each.out, *each.err]]
    pages.extend(line.encode() for line in said if '"first_run"' not in line)
    site.server.signal()
    assert site.server.exit_code() == 0
    pages.extend(path.read_bytes() for path in site.data_dir.rglob("*") if path.is_file())
    for secret in secrets:
        assert [page for page in pages if secret.encode() in page] == [], secret


# --- links that break the protocol ----------------------------------------------------------------

CONTROL = frame(DATA, SYN, 1, 0)
HUGE = 0xFFFFFFFF
# What is sent after the handshake -> why the link ends.
BROKEN = {
    "garbage": (b"GET / HTTP/1.1\r\n\r\n", "bad_yamux"),
    "zeros": (b"\0" * 11 + b"\1" + b"\0" * 12, "bad_yamux"),
    "version": (b"\1" + frame(PING, SYN, 0, 1)[1:], "bad_yamux"),
    "unknown type": (frame(9, 0, 0, 0), "bad_yamux"),
    "even id": (frame(DATA, SYN, 2, 0), "bad_yamux"),
    "stream zero": (frame(DATA, SYN, 0, 0), "bad_yamux"),
    "id again": (CONTROL + CONTROL, "bad_yamux"),
    "beyond the window": (frame(DATA, SYN, 1, 2 << 20), "bad_yamux"),
    "window overflow": (CONTROL + frame(WINDOW, 0, 1, HUGE) * 2, "bad_yamux"),
    "echo nobody asked for": (frame(PING, ACK, 0, 99), "bad_yamux"),
    "go away": (frame(GO_AWAY, 0, 0, 1), "go_away"),
    "record of no bytes": (frame(DATA, SYN, 1, 4, b"\0" * 4), "bad_control_record"),
    "record too large": (
        frame(DATA, SYN, 1, 4, struct.pack(">I", 65537)), "bad_control_record",
    ),
    "record is no JSON": (frame(DATA, SYN, 1, 8, record(b"nope")), "bad_record"),
    "record has no type": (frame(DATA, SYN, 1, 6, record(b"{}")), "bad_record"),
    "control finished": (CONTROL + frame(DATA, FIN, 1, 0), "control_closed"),
    "control reset": (CONTROL + frame(WINDOW, RST, 1, 0), "control_closed"),
}  # fmt: skip


def test_broken_links_are_closed_counted_and_harm_no_other(site: Site, target: Target) -> None:
    site.connect({"web": target.port})
    token = site.make_token("fuzz")
    fds = fd_count(site.server.popen.pid)
    slow = site.visitor()
    slow.send(b"GET /slow HTTP/1.1\r\nHost: web.localhost\r\n\r\n")
    assert target.entered.wait(TIMEOUT)
    for number, (name, (data, reason)) in enumerate(BROKEN.items(), 1):
        with RawLink(site.port, token) as link:
            link.send(data)
            link.ended()
        down = site.server.log("link down", number)
        assert down["reason"] == reason, name
        assert site.get("web", "/kib").status == 200, name
    stats = site.stats()
    engine_saw = [why for _, why in BROKEN.values() if why not in ("go_away", "bad_record")]
    assert stats["link_protocol_errors"] == len(engine_saw)
    assert stats["links_closed"] == len(BROKEN)
    target.release()
    assert slow.response().status == 200
    slow.socket.close()
    wait_until(lambda: fd_count(site.server.popen.pid) <= fds)
    site.settled()


def test_what_only_looks_odd_does_not_end_a_link(site: Site) -> None:
    odd = (
        frame(PING, SYN, 0, 7)
        + frame(DATA, 0, 77, 3, b"abc")  # of a stream that is not there
        + frame(WINDOW, 0, 77, 5)
        + frame(DATA, SYN, 3, 0)  # a stream the server did not agree to
    )
    with RawLink(site.port, site.make_token("odd")) as link:
        link.open_control({"type": "from the future"}, {"type": "register", "tunnels": 5})
        link.send(odd)
        link.send(
            frame(DATA, 0, 1, 0)
            + b"".join(
                frame(DATA, 0, 1, 1, bytes([byte]))
                for byte in record({"type": "register", "tunnels": [{"name": "odd"}]})
            )
        )
        said = link.records()
        assert [next(said)["code"] for _ in range(2)] == ["unknown_record", "bad_record"]
        assert next(said)["tunnels"][0]["name"] == "odd"
        stats = site.stats()
        assert stats["link_protocol_errors"] == stats["links_closed"] == 0
        assert stats["link_unknown_stream_frames"] >= 2
        assert stats["streams_refused"] == 1


def test_a_device_that_answers_nonsense_is_502_for_its_own_visitors_only(
    site: Site, target: Target
) -> None:
    site.connect({"web": target.port})
    with RawLink(site.port, site.make_token("bad")) as link:
        link.register("bad")
        visitor = site.visitor()
        visitor.send(b"GET / HTTP/1.1\r\nHost: bad.localhost\r\n\r\n")
        opened = next(each for each in link.frames() if each.flags & SYN and each.kind != PING)
        assert opened.stream == 2
        nonsense = b"SSH-2.0-OpenSSH\r\n\r\n"
        link.send(frame(WINDOW, ACK, 2, 0) + frame(DATA, 0, 2, len(nonsense), nonsense))
        response = visitor.response()
        assert (response.status, response.json()["error"]) == (502, "bad_response")
        visitor.socket.close()
        assert site.get("web", "/kib").status == 200
    site.settled()
