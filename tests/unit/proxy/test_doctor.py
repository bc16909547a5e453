"""What doctor finds of a machine and of settings, each finding by itself."""

from __future__ import annotations

import errno
import resource
import socket
import threading
import time
from pathlib import Path

import pytest

from proxy_engine.doctor import agent, certificates, listening, machine, names, server
from proxy_engine.doctor.finding import Finding, has_errors
from proxy_engine.settings.config import Settings
from proxy_engine.storage.sqlite import database_path
from proxy_engine.values import Address, Listen
from tests.certificates import Authority


def statuses(found: list[Finding]) -> dict[str, str]:
    assert all(each.advice for each in found if each.status in ("warning", "error"))
    return {each.check: each.status for each in found}


@pytest.mark.parametrize(
    ("hard", "status"),
    [(1024, "error"), (4096, "warning"), (65536, "ok"), (resource.RLIM_INFINITY, "ok")],
)
def test_open_files(hard: int, status: str) -> None:
    assert machine.files(hard).status == status


@pytest.mark.parametrize(("most", "status"), [(None, "skipped"), (128, "warning"), (4096, "ok")])
def test_the_queue_of_new_connections(most: int | None, status: str) -> None:
    assert machine.queue(4096, most).status == status


@pytest.mark.parametrize(
    ("pages", "is_root", "status"),
    [(None, False, "skipped"), (1024, False, "warning"), (1024, True, "ok"), (0, False, "ok"),
     (16384, False, "ok")],
)  # fmt: skip
def test_pipes(pages: int | None, is_root: bool, status: str) -> None:
    assert machine.pipes(pages, is_root).status == status


@pytest.mark.parametrize(
    ("used", "most", "status"),
    [(None, None, "skipped"), (5, 0, "skipped"), (10, 100, "ok"), (85, 100, "warning"),
     (96, 100, "error")],
)  # fmt: skip
def test_connections_that_the_kernel_follows(
    used: int | None, most: int | None, status: str
) -> None:
    assert machine.conntrack(used, most).status == status


@pytest.mark.parametrize(("state", "status"), [(0, "ok"), (5, "warning"), (-1, "skipped")])
def test_the_clock(state: int, status: str) -> None:
    assert machine.clock(state).status == status


def test_this_machine_can_be_asked() -> None:
    found = [*machine.program(), *machine.limits(4096), machine.clock(), machine.disk(Path("/x/y"))]
    assert {"version", "limits.files", "clock", "disk"} <= set(statuses(found))


def test_limits_that_can_not_be_read_are_skipped() -> None:
    found = statuses(list(machine.limits(4096, read=lambda path: None)))
    assert {name for name, status in found.items() if status == "skipped"} == {
        "limits.backlog", "limits.pipes", "limits.conntrack",
    }  # fmt: skip


def looked_up(**known: list[str]) -> names.Resolve:
    def resolve(name: str) -> list[str]:
        key = "wildcard" if name.startswith("doctor-") else "domain"
        if key not in known:
            raise OSError(socket.EAI_NONAME, "Name or service not known")
        return known[key]

    return resolve


@pytest.mark.parametrize(
    ("known", "ours", "expected"),
    [
        ({"domain": ["192.0.2.1"], "wildcard": ["192.0.2.1"]}, True, ("ok", "ok")),
        ({"domain": ["192.0.2.1"], "wildcard": ["192.0.2.1"]}, False, ("warning", "warning")),
        ({"domain": ["192.0.2.1"], "wildcard": ["192.0.2.9"]}, True, ("ok", "warning")),
        ({"domain": ["192.0.2.1"]}, True, ("ok", "error")),
        ({}, True, ("error", "error")),
    ],
)
def test_names_lead_here(
    known: dict[str, list[str]], ours: bool, expected: tuple[str, str]
) -> None:
    found = list(
        names.lead_here("x.example", resolve=looked_up(**known), is_ours=lambda address: ours)
    )
    assert tuple(statuses(found).values()) == expected


def test_localhost_needs_no_dns() -> None:
    for name in ("localhost", "a.localhost", "127.0.0.1", "::1"):
        assert statuses(list(names.lead_here(name))) == {"dns": "skipped"}


def test_addresses_of_this_machine_are_ours() -> None:
    assert names.is_ours("127.0.0.1")
    assert not names.is_ours("192.0.2.1")
    assert names.resolve("127.0.0.1") == ["127.0.0.1"]
    with pytest.raises(OSError, match="name"):
        names.resolve("x" * 64 + ".example")


def test_a_port_that_somebody_else_has() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = Address("127.0.0.1", taken.getsockname()[1])
        found = listening.port("ports.listen", address, is_running=False)
        assert (found.status, f":{address.port}" in found.advice) == ("error", True)
        assert listening.port("ports.listen", address, is_running=True).status == "ok"
    assert listening.port("ports.listen", address, is_running=False).status == "ok"
    elsewhere = listening.port("ports.listen", Address("192.0.2.1", 1), is_running=False)
    assert elsewhere.status == "error"
    assert listening.port("x", Address("nowhere.invalid", 1), is_running=False).status == "error"


def test_a_port_that_one_may_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: socket.socket, address: object) -> None:
        raise OSError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", refuse)
    found = listening.port("ports.listen", Address("127.0.0.1", 80), is_running=False)
    assert "CAP_NET_BIND_SERVICE" in found.advice


def test_ports_of_tunnels_that_outgoing_connections_get() -> None:
    assert server.ephemeral(Settings(), "32768\t60999").status == "ok"
    found = server.ephemeral(Settings(), "1024\t65535")
    assert (found.status, "10000-20000" in found.advice) == ("warning", True)
    assert server.ephemeral(Settings(), None).status == "skipped"


def test_settings_that_do_not_fit() -> None:
    https = Settings(listen=(Listen(Address("127.0.0.1", 0), "https"),))
    assert statuses(list(server.configuration(https))) == {"config": "error"}
    risky = Settings(admin=Address("0.0.0.0", 8081), debug=True, workers=64)
    assert statuses(list(server.configuration(risky))) == {
        "config": "ok", "config.workers": "warning", "config.admin": "warning",
        "config.debug": "warning",
    }  # fmt: skip


def test_a_store_that_is_not_there_yet_or_is_none(tmp_path: Path) -> None:
    assert server.store(Settings(data_dir=tmp_path / "new")).status == "ok"
    database_path(tmp_path).write_bytes(b"not a database" * 999)
    assert server.store(Settings(data_dir=tmp_path)).status == "error"
    missing = Settings(data_dir=tmp_path, mongodb_uri_file="/nowhere")
    assert server.store(missing).status == "error"


def test_a_redis_that_is_away_is_no_error() -> None:
    assert list(server.redis(Settings())) == []
    [found] = server.redis(Settings(redis_url="redis://127.0.0.1:1/0"))
    assert found.status == "warning"


def test_certificates(tmp_path: Path) -> None:
    assert statuses(list(certificates.certificates(Settings(), 0))) == {"tls": "skipped"}
    authority = Authority()
    certificate, key = authority.issue("x.example", "*.x.example").write(tmp_path)
    settings = Settings(tls_cert=(str(certificate),), tls_key=(str(key),), domain="x.example")
    found = statuses(list(certificates.certificates(settings, time.time())))
    # The authority is nobody's here.
    assert (found["tls.chain"], found["tls.names"]) == ("warning", "ok")
    later = list(certificates.certificates(settings, time.time() + 40 * 365 * 86400))
    assert statuses(later)["tls.dates"] == "error"
    assert has_errors(later)
    other = Settings(tls_cert=settings.tls_cert, tls_key=settings.tls_key, domain="y.example")
    assert statuses(list(certificates.certificates(other, time.time())))["tls.names"] == "warning"
    gone = Settings(tls_cert=("/nowhere.pem",))
    assert statuses(list(certificates.certificates(gone, 0))) == {"tls": "error"}


def test_what_an_agent_needs(tmp_path: Path) -> None:
    found = statuses(list(agent.check(Settings())))
    assert (found["token"], found["server"]) == ("error", "error")
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    settings = Settings(server=(f"http://127.0.0.1:{port}", "nonsense"), token="t")
    assert statuses(list(agent.check(settings)))["server"] == "error"


def test_the_listener_of_an_agent(tmp_path: Path) -> None:
    assert list(agent.listener(Settings(debug=True))) == []
    [found] = agent.listener(Settings(agent_admin=Address("127.0.0.1", 0)))
    assert (found.check, found.status) == ("ports.admin", "ok")
    public = Address("0.0.0.0", 0)
    [found] = agent.listener(Settings(agent_admin=public))
    assert (found.check, found.status) == ("config.admin", "error")
    assert "others can reach" in found.text
    token = tmp_path / "token"
    token.write_text("let-me-see\n")
    guarded = Settings(agent_admin=public, agent_admin_token_file=str(token), debug=True)
    assert statuses(list(agent.listener(guarded))) == {
        "config.admin": "warning", "config.debug": "warning", "ports.admin": "ok",
    }  # fmt: skip
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = Address("127.0.0.1", taken.getsockname()[1])
        stranger = threading.Thread(target=lambda: taken.accept()[0].close())
        stranger.start()
        [found] = agent.listener(Settings(agent_admin=address))
        stranger.join()
    assert (found.check, found.status) == ("ports.admin", "error")


def test_what_a_server_answers() -> None:
    def answer(date: str, body: bytes) -> dict[str, str]:
        head = f"HTTP/1.1 426 Upgrade Required\r\n{date}Cache-Control: no-store"
        return statuses(list(agent.answered("http://x", head, body, 1_700_000_000)))

    good = b'{"error":"upgrade_required","message":"..."}'
    assert answer("", good) == {"server.answer": "ok", "token": "ok"}
    date = "Date: Tue, 14 Nov 2023 {}:13:25 GMT\r\n"
    assert answer(date.format(22), good)["clock.server"] == "ok"
    assert answer(date.format(23), good)["clock.server"] == "warning"
    assert answer("Date: soon\r\n", good) == {"server.answer": "ok", "token": "ok"}
    refused = b'{"error":"revoked_token","message":"..."}'
    assert answer("", refused) == {"server.answer": "ok", "token": "error"}
    for body in (b"", b"<html>", b"[]", b'"error"', b"{}", b"\xff"):
        assert answer("", body) == {"server.answer": "error"}


def test_a_collector_that_is_away_is_no_error() -> None:
    assert list(server.collector(Settings())) == []
    with socket.create_server(("127.0.0.1", 0)) as there:
        port = there.getsockname()[1]
        [found] = server.collector(Settings(otlp_traces_endpoint=f"http://127.0.0.1:{port}/v1"))
        assert (found.check, found.status) == ("otlp", "ok")
    [found] = server.collector(Settings(otlp_endpoint="http://127.0.0.1:1"))
    assert found.status == "warning"
