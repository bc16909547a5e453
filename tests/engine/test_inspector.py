"""A look into the workers of a real engine: stacks, profiles, dumps."""

from __future__ import annotations

import errno
import re
import signal
import struct
import subprocess
import sys
import time
from typing import Any

import pytest

from proxy_engine.diagnosis.cpu import CpuProfile
from proxy_engine.diagnosis.symbols import Symbols, readable
from proxy_engine_core import core
from proxy_engine_core.core import Engine
from proxy_engine_core.inspector import CONNECTION_KINDS, dump_rows
from tests.engine.harness import OK_HELLO, Server, serving, wait_until

QUERY = 7


def dump(server: Server, **limits: int) -> dict[str, list[dict[str, Any]]]:
    server.engine.inspector.dump(QUERY, **limits)
    rows: dict[str, list[dict[str, Any]]] = {"worker": [], "link": [], "stream": []}
    left = server.engine.workers
    while left:
        _, query, _, packed, is_last = server.event(core.EVENT_DUMP)
        assert query == QUERY
        for kind, row in dump_rows(packed):
            rows[kind].append(row)
        left -= is_last
    return rows


def test_an_idle_server_has_nothing_but_its_listener() -> None:
    with serving(2) as server:
        found = dump(server)
        assert len(found["worker"]) == 2
        assert found["link"] == found["stream"] == []
        for row in found["worker"]:
            assert row["connections"] == [1] + [0] * (len(CONNECTION_KINDS) - 1)
            assert row["buffer_bytes"] == sum(row["blocks_lent"]) == row["streams"] == 0


def test_links_streams_and_buffers_are_told() -> None:
    with serving() as server:
        device = server.device()
        visitor = server.visitor()
        visitor.get("/slow")
        stream, _ = device.request()
        wait_until(lambda: dump(server)["worker"][0]["requests"] == 1)
        device.data(stream, b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + bytes(30_000))
        wait_until(lambda: any(row["window"] for row in dump(server)["stream"]))
        found = dump(server)
        [link] = found["link"]
        assert (link["device"], link["streams"], link["requests"]) == (7, 1, 1)
        assert re.fullmatch(r"127\.0\.0\.1:\d+", link["peer"])
        [told] = [row for row in found["stream"] if row["owner"] == "http"]
        assert told["link"] == link["id"]
        assert (told["id"], told["idle_ms"], told["route"]) == (stream, 0, server.route_count)
        visitor.close()
        wait_until(lambda: dump(server)["worker"][0]["requests"] == 0)


def test_a_stream_that_waits_for_its_next_request_says_so() -> None:
    with serving() as server:
        device = server.device()
        visitor = server.visitor()
        visitor.get()
        stream, _ = device.request()
        device.data(stream, OK_HELLO)
        assert visitor.response().status == 200
        [told] = [row for row in dump(server)["stream"] if row["owner"] == "http"]
        assert told["idle_ms"] >= 1


def test_beyond_the_limits_is_counted() -> None:
    with serving() as server:
        device = server.device()
        visitors = [server.visitor() for _ in range(6)]
        for visitor in visitors:
            visitor.get()
        wait_until(lambda: dump(server)["worker"][0]["streams"] == 6)
        found = dump(server, streams=3)
        assert len(found["stream"]) == 3
        [row] = found["worker"]
        assert (row["streams"], row["streams_told"]) == (6, 3)
        found = dump(server, links=0)
        [row] = found["worker"]
        assert found["link"] == found["stream"] == []
        assert (row["links"], row["links_told"], row["streams"]) == (1, 0, 6)
        assert dump(server, device=8)["link"] == []
        assert len(dump(server, device=7)["link"]) == 1
        device.close()


def test_more_than_a_piece_holds_comes_in_pieces() -> None:
    with serving() as server:
        device = server.device(streams_max=2000)
        visitors = [server.visitor() for _ in range(900)]
        for visitor in visitors:
            visitor.get()
            device.request()
        server.engine.inspector.dump(QUERY, streams=10_000)
        rows, pieces, is_last = [], 0, False
        while not is_last:
            _, _, _, packed, is_last = server.event(core.EVENT_DUMP)
            rows += dump_rows(packed)
            pieces += 1
        assert pieces > 1
        ids = [row["id"] for kind, row in rows if kind == "stream"]
        assert len(ids) == len(set(ids)) == 900
        for visitor in visitors:
            visitor.close()


def wait_stack(server: Server, worker: int = 0) -> list[int]:
    """Where it is, once its thread has begun."""

    def look() -> list[int]:
        try:
            return server.engine.inspector.stack(worker)
        except (ProcessLookupError, TimeoutError):  # not there yet, or not on a CPU for long
            return []

    found: list[int] = wait_until(look)
    return found


def test_a_sleeping_worker_is_not_busy_and_shows_where_it_sleeps() -> None:
    with serving(2) as server:
        wait_until(lambda: server.engine.inspector.busy_since_us() == [0, 0])
        for worker in range(2):
            assert "io.worker.worker_run" in Symbols().stack(wait_stack(server, worker))
        with pytest.raises(ValueError, match="worker takes 0 to 1"):
            server.engine.inspector.stack(2)


def test_a_profile_counts_the_cpu_time_of_workers() -> None:
    with serving() as server:
        inspector = server.engine.inspector
        wait_stack(server)
        inspector.profile_start(4000)
        with pytest.raises(OSError, match=r".") as refused:
            inspector.profile_start(4000)
        assert refused.value.errno == errno.EBUSY
        visitor = server.visitor()
        began = time.monotonic()
        while server.stat("cpu_us") < 200_000 and time.monotonic() < began + 30:
            visitor.get(host="nobody.test")
            assert visitor.response().status == 404
        samples, lost = inspector.profile_stop()
        assert lost == 0
        assert 0 < sum(samples.values()) * 4000 <= server.stat("cpu_us") + 4000
        assert {worker for worker, _ in samples} == {0}
        for _, packed in samples:
            assert 8 <= len(packed) <= 64 * 8
            assert all(each for (each,) in struct.iter_unpack("@Q", packed))
        with pytest.raises(RuntimeError, match="no profile"):
            inspector.profile_stop()


def test_an_engine_that_stops_ends_its_profile() -> None:
    with serving(2) as server:
        profile = CpuProfile(server.engine.inspector, 97)
        server.engine.stop()
        with pytest.raises(RuntimeError):
            profile.finish()
        with pytest.raises(RuntimeError, match="stopped"):
            server.engine.inspector.busy_since_us()
    with serving() as server:  # and the next one may begin
        profile = CpuProfile(server.engine.inspector, 97)
        assert profile.finish().lost == 0


def test_an_inspector_outlives_its_engine() -> None:
    engine = Engine("agent")
    inspector = engine.inspector
    with pytest.raises(RuntimeError, match="an agent"):
        inspector.dump(1)
    with pytest.raises(OSError, match=r".") as asleep:
        inspector.stack(0)
    assert asleep.value.errno == errno.ESRCH
    del engine
    with pytest.raises(RuntimeError, match="stopped"):
        inspector.busy_since_us()
    with pytest.raises(RuntimeError, match="stopped"):
        inspector.stack(0)


def test_the_signal_is_left_to_who_has_it() -> None:
    # In a process of its own: our handler stays once it is installed.
    code = (
        "import signal\n"
        "from proxy_engine_core.core import Engine\n"
        f"signal.signal({signal.SIGRTMIN + 7}, lambda *_: None)\n"
        "engine = Engine('server')\n"
        "engine.start()\n"
        "try:\n"
        "    engine.inspector.profile_start(10_000)\n"
        "except OSError as error:\n"
        "    print(error.errno)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, str(errno.EBUSY)), done.stderr


@pytest.mark.parametrize(
    ("symbol", "name"),
    [
        ("__pyx_f_17proxy_engine_core_2io_6worker_take_events", "io.worker.take_events"),
        ("__pyx_f_17proxy_engine_core_7forward_4body_more.constprop.0", "forward.body.more"),
        ("__pyx_pw_17proxy_engine_core_4core_6Engine_21poll", "core.Engine.poll"),
        ("__pyx_f_17proxy_engine_core_6buffer_buffer_grow.part.0.cold", "buffer.buffer_grow"),
        ("SSL_read", "SSL_read"),
        ("__pyx_f_", ""),
        ("__pyx_f_99x", "x"),
    ],
)
def test_native_names_are_readable(symbol: str, name: str) -> None:
    assert readable(symbol) == name


def test_what_is_nowhere_has_no_name() -> None:
    assert Symbols().name(0) == "?"
    assert Symbols().name(2**64 - 1) == "?"
