"""Where the time of a request went, and the trace it belongs to."""

from __future__ import annotations

import time

import pytest

from proxy_engine_core import core
from tests.engine.harness import OK_HELLO, serving, wait_until

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"


def ids(record: core.LogRecord) -> tuple[str, str, str, int]:
    return record.trace_id, record.parent_id, record.span_id, record.trace_flags


# --- time -------------------------------------------------------------------------------------


def test_a_slow_target_is_the_targets_time() -> None:
    with serving(ping_interval_ms=50) as server:
        device = server.device()
        visitor = server.visitor()
        visitor.get()
        stream, _ = device.request()
        time.sleep(0.1)
        device.data(stream, OK_HELLO)
        visitor.response()
        record = server.log()
        assert record.first_byte_us == record.proxy_us + record.link_us + record.target_us
        assert record.target_us > record.first_byte_us // 2
        assert record.target_us + record.link_us >= 90_000


def test_a_wait_for_a_stream_is_the_proxys_time() -> None:
    with serving() as server:
        device = server.device(streams_max=2)
        device.open_control()
        first, second = server.visitor(), server.visitor()
        first.get()
        stream, _ = device.request()
        second.get()
        server.wait_stat("requests_queued", 1)
        time.sleep(0.1)
        device.data(stream, OK_HELLO)
        first.response()
        device.request(stream=stream)
        device.data(stream, OK_HELLO)
        second.response()
        server.log()
        record = server.log()
        assert record.proxy_us >= 90_000
        assert record.first_byte_us == record.proxy_us + record.link_us + record.target_us


def test_an_answer_of_our_own_has_no_split() -> None:
    with serving() as server:
        visitor = server.visitor()
        visitor.get(host="nobody.test")
        assert visitor.response().status == 404
        record = server.log()
        assert (record.first_byte_us, record.proxy_us) == (0, 0)
        assert (record.link_us, record.target_us) == (0, 0)


# --- traces -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        (f"traceparent: {TRACEPARENT}\r\n", (TRACE, PARENT, "", 1)),
        (f"Traceparent:{TRACEPARENT[:-1]}0 \r\n", (TRACE, PARENT, "", 0)),
        ("", ("", "", "", 0)),
        ("traceparent: \r\n", ("", "", "", 0)),
        (f"traceparent: {TRACEPARENT.upper()}\r\n", ("", "", "", 0)),
        (f"traceparent: {TRACEPARENT}\r\n" * 2, ("", "", "", 0)),
        (f"traceparent: {TRACEPARENT}\r\nConnection: traceparent\r\n", ("", "", "", 0)),
    ],
)
def test_the_trace_of_a_visitor_is_passed_on_and_logged(
    fields: str, found: tuple[str, str, str, int]
) -> None:
    with serving() as server:
        device = server.device()
        visitor = server.visitor()
        visitor.get(fields=fields)
        stream, head = device.request()
        passed = "Connection" not in fields
        assert head.lower().count(b"traceparent:") == passed * fields.lower().count("traceparent:")
        device.data(stream, OK_HELLO)
        visitor.response()
        assert ids(server.log()) == found
        # The next request of the connection is another one.
        visitor.get()
        stream, _ = device.request(stream=stream)
        device.data(stream, OK_HELLO)
        visitor.response()
        assert ids(server.log()) == ("", "", "", 0)


def test_what_is_refused_has_its_trace_in_the_log_too() -> None:
    with serving() as server:
        visitor = server.visitor()
        visitor.get(host="nobody.test", fields=f"traceparent: {TRACEPARENT}\r\n")
        assert visitor.response().status == 404
        assert ids(server.log()) == (TRACE, PARENT, "", 1)


def test_a_trace_moves_to_another_worker_and_waits_with_its_request() -> None:
    with serving(2) as server:
        device = server.device(worker=1)
        other = server.device(worker=0, tunnel="other")
        visitor = server.visitor()
        visitor.get(host="other.test")
        stream, _ = other.request()
        other.data(stream, OK_HELLO)
        visitor.response()
        server.log()
        visitor.get(fields=f"traceparent: {TRACEPARENT}\r\n")
        stream, head = device.request()
        assert f"\r\ntraceparent: {TRACEPARENT}\r\n".encode() in head
        device.data(stream, OK_HELLO)
        visitor.response()
        assert ids(server.log()) == (TRACE, PARENT, "", 1)
        wait_until(lambda: server.stat("visitors_moved_in") >= 1)
