"""Where the time of a request went, and the trace it belongs to."""

from __future__ import annotations

import re
import time

import pytest

from proxy_engine_core import core
from tests.engine.harness import (
    OK_HELLO,
    PING,
    SYN,
    TARGET_LOST,
    Device,
    Visitor,
    frame,
    serving,
    wait_until,
)
from tests.engine.test_gate import set_policy

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"


def ids(record: core.LogRecord) -> tuple[str, str, str, int]:
    return record.trace_id, record.parent_id, record.span_id, record.trace_flags


# --- time -------------------------------------------------------------------------------------


def test_a_slow_target_is_the_targets_time() -> None:
    with serving() as server:
        began = time.monotonic()
        device = server.device()
        device.send(frame(PING, SYN, 0, 1))
        device.next(0)  # the server's own ping, the one the link is measured by, was before it
        link_seconds_most = time.monotonic() - began
        visitor = server.visitor()
        visitor.get()
        stream, _ = device.request()
        time.sleep(max(0.1, 4 * link_seconds_most))
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


PASS, START, JOIN = 0, 1, 2


def told(head: bytes) -> list[str]:
    """The values of its traceparents."""
    return [found.decode() for found in re.findall(rb"(?i)\r\ntraceparent: *(.*?)\r\n", head)]


def ask(device: Device, visitor: Visitor, fields: str = "", stream: int | None = None) -> bytes:
    """The head that the target gets."""
    visitor.get(fields=fields)
    found, head = device.request(stream=stream)
    device.data(found, OK_HELLO.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    assert visitor.response().status == 200
    return head


def test_a_trace_begins_where_there_is_none() -> None:
    with serving(trace_mode=START) as server:
        device = server.device()
        visitor = server.visitor()
        seen = set()
        for _ in range(20):
            head = ask(device, visitor, "tracestate: a=1\r\nX-A: b\r\n")
            [value] = told(head)
            version, trace_id, span_id, flags = value.split("-")
            assert (version, flags) == ("00", "01")
            assert b"tracestate" not in head  # it was of no trace
            assert b"\r\nX-A: b\r\n" in head
            assert ids(server.log()) == (trace_id, "", span_id, 1)
            seen |= {trace_id, trace_id[:16], trace_id[16:], span_id}
        assert len(seen) == 80  # none of it twice


@pytest.mark.parametrize("mode", [START, JOIN])
@pytest.mark.parametrize(
    "fields",
    [
        f"traceparent: {TRACEPARENT.upper()}\r\n",
        f"traceparent: {TRACEPARENT}\r\n" * 2,
        "traceparent: \r\n",
        f"traceparent: {TRACEPARENT}\r\nConnection: traceparent\r\n",
    ],
)
def test_what_is_no_trace_is_replaced_by_one(mode: int, fields: str) -> None:
    with serving(trace_mode=mode) as server:
        device = server.device()
        head = ask(device, server.visitor(), fields + "tracestate: a=1\r\n")
        [value] = told(head)
        assert TRACE not in value.lower()
        assert b"tracestate" not in head
        record = server.log()
        assert value == f"00-{record.trace_id}-{record.span_id}-01"
        assert record.parent_id == ""


def test_a_trace_that_is_there_goes_on_as_it_came() -> None:
    with serving(trace_mode=START) as server:
        device = server.device()
        value = f"cc-{TRACEPARENT[3:]}-of-a-later-version"
        head = ask(device, server.visitor(), f"traceparent: {value}\r\ntracestate: a=1\r\n")
        assert told(head) == [value]
        assert b"\r\ntracestate: a=1\r\n" in head
        assert ids(server.log()) == (TRACE, PARENT, "", 1)


@pytest.mark.parametrize("flags", [0, 1])
def test_a_trace_is_joined_by_a_span_of_ours(flags: int) -> None:
    with serving(trace_mode=JOIN, trace_sampled=0) as server:
        device = server.device()
        fields = f"traceparent: {TRACEPARENT[:-1]}{flags}\r\ntracestate: a=1\r\n"
        head = ask(device, server.visitor(), fields)
        record = server.log()
        assert told(head) == [f"00-{TRACE}-{record.span_id}-0{flags}"]
        assert record.span_id not in ("", PARENT)
        assert b"\r\ntracestate: a=1\r\n" in head
        assert ids(record) == (TRACE, PARENT, record.span_id, flags)


def test_a_share_of_traces_is_sampled() -> None:
    with serving(trace_mode=START, trace_sampled=500) as server:
        device = server.device()
        visitor = server.visitor()
        flags = []
        for _ in range(64):
            [value] = told(ask(device, visitor))
            flags.append(server.log().trace_flags)
            assert value.endswith(f"-0{flags[-1]}")
        assert 5 < sum(flags) < 59


def test_a_rule_takes_the_visitors_trace_away_before_one_begins() -> None:
    with serving(trace_mode=JOIN) as server:
        device = server.device(tunnel=None)
        set_policy(server, [device], {"request_headers": [("remove", "traceparent")]})
        head = ask(device, server.visitor(), f"traceparent: {TRACEPARENT}\r\n")
        record = server.log()
        assert told(head) == [f"00-{record.trace_id}-{record.span_id}-01"]
        assert record.trace_id != TRACE
        assert record.parent_id == ""


@pytest.mark.parametrize("mode", [START, JOIN])
def test_a_rule_that_sets_the_trace_is_the_only_one(mode: int) -> None:
    with serving(trace_mode=mode) as server:
        device = server.device(tunnel=None)
        policy: core.RoutePolicy = {
            "request_headers": [
                ("set", "X-A", "1"),
                ("set", "TraceParent", TRACEPARENT),
                ("set", "X-B", "2"),
            ]
        }
        set_policy(server, [device], policy)
        assert told(ask(device, server.visitor(), "")) == [TRACEPARENT]
        assert ids(server.log())[2] == ""


def test_a_request_that_is_sent_once_more_is_of_the_same_trace() -> None:
    with serving(trace_mode=START) as server:
        device = server.device()
        visitor = server.visitor()
        visitor.get("/first")
        stream, _ = device.request()
        device.data(stream, OK_HELLO)
        visitor.response()
        server.log()
        visitor.get("/again")
        _, first = device.request(stream=stream)
        device.reset(stream, TARGET_LOST)  # a reused stream: once more, on a fresh one
        fresh, second = device.request()
        assert fresh != stream
        assert told(first) == told(second) != []
        device.data(fresh, OK_HELLO)
        assert visitor.response().status == 200
        record = server.log()
        assert record.flags & core.LOG_RETRIED
        assert told(second) == [f"00-{record.trace_id}-{record.span_id}-01"]


# --- Server-Timing ----------------------------------------------------------------------------

TIMING = re.compile(r"proxy;dur=(\d+\.\d{3})(?:, link;dur=(\d+\.\d{3}))?, target;dur=(\d+\.\d{3})")


def timings(visitor: Visitor) -> list[str]:
    head = visitor.take_head().decode()
    return re.findall(r"(?i)\r\nserver-timing: *(.*?)\r\n", head)


def test_a_response_tells_where_the_time_went_beside_what_the_target_tells() -> None:
    with serving() as server:
        device = server.device(tunnel=None)
        set_policy(server, [device], {"server_timing": True})
        visitor = server.visitor()
        visitor.get()
        stream, _ = device.request()
        time.sleep(0.05)
        device.data(stream, b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
        assert timings(visitor) == []  # not yet
        device.data(
            stream,
            b"HTTP/1.1 200 OK\r\nserver-timing: db;dur=53\r\nContent-Length: 0\r\n\r\n",
        )
        others, ours = timings(visitor)
        assert others == "db;dur=53"
        match = TIMING.fullmatch(ours)
        assert match is not None, ours
        record = server.log()
        parts = [round(1000 * float(part or 0)) for part in match.groups()]
        assert parts == [record.proxy_us, record.link_us, record.target_us]
        assert record.link_us + record.target_us >= 40_000


def test_without_the_option_responses_tell_nothing() -> None:
    with serving() as server:
        device = server.device(tunnel=None)
        set_policy(server, [device], {"response_headers": [("set", "X-A", "b")]})
        visitor = server.visitor()
        visitor.get()
        stream, _ = device.request()
        device.data(stream, OK_HELLO)
        assert timings(visitor) == []
