"""Engine's Python face: what it refuses, and its life from construction to garbage."""

from __future__ import annotations

import errno
import gc
import os
import resource
import select
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from proxy_engine_core import core, log_batch
from proxy_engine_core.core import DEFAULTS, Engine
from tests.engine.harness import PATIENCE, has_ipv6, serving, wait_until


def fd_count() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize(
    ("arguments", "options", "error", "words"),
    [
        (("relay",), {}, ValueError, "'relay'"),
        ((None,), {}, ValueError, "None"),
        ((), {}, TypeError, "argument"),
        (("server",), {"workers": 0}, ValueError, "workers"),
        (("server",), {"workers": 65}, ValueError, "workers"),
        (("server",), {"workers": "two"}, TypeError, "int"),
        (("server",), {"head_timeout": 5}, TypeError, "unknown engine option 'head_timeout'"),
        (("server",), {"head_timeout_ms": 5.0}, TypeError, "takes an int, not float"),
        (("server",), {"head_timeout_ms": True}, TypeError, "takes an int, not bool"),
        (("server",), {"head_timeout_ms": 0}, ValueError, "1 to 3600000, not 0"),
        (("server",), {"head_timeout_ms": -1}, ValueError, "not -1"),
        (("server",), {"head_timeout_ms": 1 << 80}, ValueError, "head_timeout_ms"),
        (("server",), {"log_ring_size": 100_000}, ValueError, "power of two"),
    ],
)
def test_wrong_arguments_are_named(
    arguments: tuple[Any, ...], options: dict[str, Any], error: type[Exception], words: str
) -> None:
    gc.collect()
    before = fd_count()
    with pytest.raises(error, match=words):
        Engine(*arguments, **options)
    gc.collect()
    assert fd_count() <= before  # less, if rubbish of an earlier test has gone as well


@pytest.mark.parametrize("name", sorted(DEFAULTS))
def test_every_default_is_a_legal_value(name: str) -> None:
    Engine("server", **{name: DEFAULTS[name]}).stop()


def test_listen_says_what_is_wrong() -> None:
    engine = Engine("server")
    with pytest.raises(ValueError, match="IP address"):
        engine.listen("localhost", 0)
    with pytest.raises(ValueError, match="port"):
        engine.listen("127.0.0.1", 65536)
    with pytest.raises(ValueError, match="port"):
        engine.listen("127.0.0.1", -1)
    port = engine.listen("127.0.0.1", 0)
    with pytest.raises(OSError) as caught:
        engine.listen("127.0.0.1", port)
    assert caught.value.errno == errno.EADDRINUSE
    with pytest.raises(OSError) as caught:
        engine.listen("203.0.113.1", 0)
    assert caught.value.errno == errno.EADDRNOTAVAIL
    engine.start()
    with pytest.raises(RuntimeError, match="before start"):
        engine.listen("127.0.0.1", 0)
    engine.stop()


@pytest.mark.skipif(not has_ipv6(), reason="no IPv6 here")
def test_listening_on_both_families() -> None:
    engine = Engine("server")
    ports = engine.listen("127.0.0.1", 0), engine.listen("::1", 0)
    engine.start()
    for host, port in zip(("127.0.0.1", "::1"), ports, strict=True):
        with socket.create_connection((host, port), 5) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: nobody\r\nConnection: close\r\n\r\n")
            assert sock.recv(4096).startswith(b"HTTP/1.1 404 ")
    engine.stop()


CALLS: dict[str, tuple[str, Any]] = {
    "listen": ("server", lambda engine: engine.listen("127.0.0.1", 0)),
    "start": ("server", lambda engine: engine.start()),
    "drain": ("server", lambda engine: engine.drain(10)),
    "auth_reply": ("server", lambda engine: engine.auth_reply(1, b"x", accept=False)),
    "routes set": ("server", lambda e: e.routes_apply([("set", "default", 1, [1], "web")])),
    "routes delete": ("server", lambda engine: engine.routes_apply([("delete", "default")])),
    "link_send": ("server", lambda engine: engine.link_send(1, b"{}")),
    "link_close": ("server", lambda engine: engine.link_close(1, "bye")),
    "dial": ("agent", lambda engine: engine.dial("127.0.0.1", 1, b"", carrier="raw")),
    "targets": ("agent", lambda engine: engine.targets_apply([("web", "127.0.0.1", 1)])),
}


@pytest.mark.parametrize("is_started", [True, False])
@pytest.mark.parametrize("call", sorted(CALLS))
def test_a_stopped_engine_does_nothing_any_more(call: str, is_started: bool) -> None:
    role, what = CALLS[call]
    engine = Engine(role)  # type: ignore[arg-type]
    if is_started:
        engine.start()
    engine.stop()
    engine.stop()
    with pytest.raises(RuntimeError, match="stopped"):
        what(engine)
    # Looking is still allowed.
    assert engine.poll() == []
    assert engine.poll_logs() == []
    assert engine.stats()["connections"] == 0


@pytest.mark.parametrize("call", ["listen", "auth_reply", "routes set", "dial", "targets"])
def test_a_role_refuses_what_is_the_other_ones(call: str) -> None:
    role, what = CALLS[call]
    engine = Engine("agent" if role == "server" else "server")
    with pytest.raises(RuntimeError, match="does not do that"):
        what(engine)


def test_starting_twice_is_an_error() -> None:
    engine = Engine("agent")
    engine.start()
    with pytest.raises(RuntimeError, match="already"):
        engine.start()
    engine.stop()


def test_messages_are_checked_before_they_are_sent() -> None:
    server = Engine("server")
    for record in (b"", bytes(core.CONTROL_RECORD_SIZE_MAX + 1)):
        with pytest.raises(ValueError, match="control record"):
            server.link_send(1, record)
    with pytest.raises(ValueError, match="window"):
        server.auth_reply(1, b"", accept=True, window=1000)
    with pytest.raises(ValueError, match="carrier"):
        server.auth_reply(1, b"", accept=True, carrier="pigeon")  # type: ignore[arg-type]
    with pytest.raises(OverflowError):
        server.auth_reply(-1, b"", accept=True)
    with pytest.raises(TypeError):
        server.auth_reply(1, "text", accept=True)  # type: ignore[arg-type]
    wrong_routes: list[Any] = [
        ("set", "", 1, [], "web"),
        ("set", "k" * 300, 1, [], "web"),
        ("set", "default", 1, [], ""),
        ("set", "default", 1, [], "n" * 64),
        ("set", "default", 1),
        ("move", "default"),
    ]
    for wrong in wrong_routes:
        with pytest.raises(ValueError):
            server.routes_apply([wrong])
    with pytest.raises(OverflowError):
        server.routes_apply([("set", "default", 1, [1 << 64], "web")])
    agent = Engine("agent")
    for targets in ([("", "127.0.0.1", 1)], [("web", "nowhere", 1)], [("web", "::1", 0)]):
        with pytest.raises(ValueError):
            agent.targets_apply(targets)
    for host, port, carrier in (("localhost", 1, "raw"), ("::1", 0, "raw"), ("::1", 1, "pigeon")):
        with pytest.raises(ValueError):
            agent.dial(host, port, b"", carrier=carrier)  # type: ignore[arg-type]


def test_an_engine_may_be_dropped_in_any_state() -> None:
    before = fd_count()
    for is_started in (False, True):
        server = Engine("server")
        server.listen("127.0.0.1", 0)
        # Messages nobody reads, with memory of their own.
        server.routes_apply([("set", f"host:{n}.test", n, [1], "web") for n in range(100)])
        agent = Engine("agent")
        agent.targets_apply([("web", "127.0.0.1", 1)] * 10)
        agent.targets_apply([])
        if is_started:
            server.start()
            agent.start()
        del server, agent
        gc.collect()
    assert fd_count() <= before


def test_many_engines_live_in_one_process() -> None:
    engines = [Engine("server") for _ in range(8)] + [Engine("agent") for _ in range(8)]
    ports = [engine.listen("127.0.0.1", 0) for engine in engines[:8]]
    for engine in engines:
        engine.start()
    for agent, port in zip(engines[8:], ports, strict=True):
        agent.dial(
            "127.0.0.1", port, b"GET /_proxy/link HTTP/1.1\r\nHost: x\r\n\r\n", carrier="raw"
        )
    for server in engines[:8]:
        events = wait_until(server.poll, "a device at every server")
        assert events[0][0] == core.EVENT_AUTH
    for engine in engines:
        engine.stop()


def test_event_fd_is_readable_when_there_is_news() -> None:
    with serving() as server:
        sock, ticket = server.knock()
        sock.close()
        server.engine.auth_reply(ticket, b"HTTP/1.1 401 No\r\n\r\n", accept=False)
        server.engine.drain(1000)
        assert server.event(core.EVENT_DRAINED) == (core.EVENT_DRAINED,)


def test_python_is_woken_for_the_log_less_often_while_it_is_busy() -> None:
    with serving(1) as server:
        visitor = server.visitor()

        def seconds_to_wake(requests: int) -> float:
            began = time.monotonic()
            request = f"GET /{'x' * 900} HTTP/1.1\r\nHost: web.test\r\n\r\n"
            visitor.send(requests * request.encode())
            for _ in range(requests):
                assert visitor.response().status == 404
            assert select.select([server.engine.event_fd], [], [], PATIENCE)[0]
            took = time.monotonic() - began
            server.engine.poll()  # takes the signal away
            server.engine.poll_log_batch(1 << 20)
            return took

        def waits_longer() -> bool:
            seconds_to_wake(40)  # some 40 KB of records, at once if the worker is not held up
            return seconds_to_wake(1) >= 0.19

        wait_until(waits_longer)
        assert min(seconds_to_wake(1) for _ in range(20)) < 0.19


def test_polling_in_small_bites_keeps_the_order() -> None:
    with serving(1) as server:
        socks = [server.visitor() for _ in range(5)]
        for index, visitor in enumerate(socks):
            visitor.get(f"/{index}", fields="Connection: close\r\n")
            visitor.rest()
        paths: list[str] = []

        def bite() -> bool:
            records = server.engine.poll_logs(2)
            assert len(records) <= 2
            paths.extend(record.path for record in records)
            return len(paths) == 5

        wait_until(bite, "five records")
        assert paths == ["/0", "/1", "/2", "/3", "/4"]


def test_log_batches_hold_whole_records_and_ask_for_the_next_turn() -> None:
    with serving(1, log_ring_size=1 << 16) as server:
        for index in range(40):
            visitor = server.visitor()
            visitor.get(f"/{index}/{'x' * 200}", fields="Connection: close\r\n")
            visitor.rest()
        wait_until(lambda: server.engine.stats()["log_records"] == 40, "forty records")
        server.engine.poll()  # takes the signal away
        paths: list[str] = []
        while batch := server.engine.poll_log_batch(1):  # one record may have that much: 4 KiB
            assert len(batch) <= 4096
            paths += [record.path for record in log_batch.unpack(batch)]
            if len(paths) < 40:
                assert select.select([server.engine.event_fd], [], [], 0)[0]
            server.engine.poll()
        assert [path.split("/")[1] for path in paths] == [str(index) for index in range(40)]


def test_no_engine_without_file_descriptors() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    gc.collect()
    before = fd_count()
    lowest = os.open("/dev/null", os.O_RDONLY)
    os.close(lowest)
    failures = 0
    while True:
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + failures, hard))
        try:
            Engine("server").stop()
            break
        except OSError as error:
            assert error.errno == errno.EMFILE
            failures += 1
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert failures >= 3, "an engine needs at least an epoll and two eventfds"
    gc.collect()
    assert fd_count() <= before


def test_accept_recovers_from_too_many_open_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with serving() as server:
        first = server.visitor()
        server.wait_stat("accepted", 1)
        second = socket.socket()  # its fd is here already, the accepted one's is not
        gc.collect()  # or a descriptor of rubbish comes free in the middle
        lowest = os.open("/dev/null", os.O_RDONLY)
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
        try:
            second.connect(("127.0.0.1", server.port))
            second.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            server.wait_stat("accept_errors", 2)  # it tries again, and does not spin
            assert server.stat("accept_errors") < 50
            first.get()
            assert first.response().status == 404  # others do not notice
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        second.settimeout(10)
        assert second.recv(4096).startswith(b"HTTP/1.1 404 ")
        second.close()


def test_the_stub_names_every_event() -> None:
    stub = (Path(core.__file__).parent / "core.pyi").read_text()
    for name in dir(core):
        if name.startswith(("EVENT_", "LOG_")):
            assert f"{name}: Final" in stub


@pytest.mark.parametrize("role", ["server", "agent"])
def test_workers_are_numbered_from_zero(role: Any) -> None:
    engine = Engine(role, workers=core.WORKERS_MAX)
    assert engine.workers == core.WORKERS_MAX
    assert engine.worker_stats(engine.workers - 1).keys() == engine.stats().keys()
    assert engine.link_worker(5 << 32 | 7) == 0
    assert engine.link_worker(engine.workers - 1 << 56 | 1) == engine.workers - 1
    for worker in (-1, engine.workers):
        with pytest.raises(ValueError, match="worker"):
            engine.worker_stats(worker)
    with pytest.raises(ValueError, match="worker"):
        engine.link_worker(engine.workers << 56 | 1)
    engine.stop()


def test_a_worker_asked_for_must_exist() -> None:
    server, agent = Engine("server"), Engine("agent")
    with pytest.raises(ValueError, match="worker"):
        server.auth_reply(1, b"HTTP/1.1 101 S\r\n\r\n", accept=True, worker=1)
    with pytest.raises(ValueError, match="worker"):
        agent.dial("127.0.0.1", 1, b"x", carrier="raw", worker=-2)
    server.stop()
    agent.stop()
