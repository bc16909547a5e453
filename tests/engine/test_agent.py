"""The agent role: dialling, preambles, targets that come and go, and its windows."""

from __future__ import annotations

import errno
import gc
import os
import resource
import socket
import struct
from pathlib import Path

import pytest

from proxy_engine_core import core
from proxy_engine_core._testing.core_parts import preamble, preamble_tcp
from tests.engine.harness import (
    ACK,
    CANCEL,
    CARRIERS,
    DATA,
    FIN,
    PATIENCE,
    PROTOCOL,
    REFUSED,
    RST,
    SYN,
    TARGET_LOST,
    UNKNOWN_TUNNEL,
    UNREACHABLE,
    WINDOW,
    WINDOW_SIZE,
    Agent,
    Carrier,
    Device,
    Frame,
    Wire,
    dialling,
    frame,
    wait_for_input,
    wait_until,
)

WEB = preamble(b"web")


def open_stream(link: Device, stream: int = 2, data: bytes = WEB) -> int:
    link.send(frame(WINDOW, SYN, stream), frame(DATA, 0, stream, len(data), data))
    return stream


def connected(agent: Agent, link: Device, listener: socket.socket, stream: int = 2) -> Wire:
    open_stream(link, stream)
    target = agent.accept(listener)
    assert link.next(stream) == Frame(WINDOW, ACK, stream, 0)
    return target


def was_reset(link: Device, stream: int) -> int:
    """The code of the reset that must come now."""
    found = link.next(stream, WINDOW)
    assert found.flags == RST
    return found.length


# --- dialling -------------------------------------------------------------------------------


@pytest.mark.parametrize("carrier", CARRIERS)
def test_the_answer_may_be_cut_at_every_byte_with_frames_behind_it(carrier: Carrier) -> None:
    answer = b"HTTP/1.1 101 S\r\nProxy-Engine-Window: 300000\r\n\r\n"
    with dialling() as agent:
        for cut in range(1, len(answer) + 13):
            dial, wire = agent.dial(carrier)
            link = Device(wire.sock, carrier, True, is_server=True)
            all_of_it = answer + link.wrap(frame(2, SYN, 0, 77))
            link.send_raw(all_of_it[:cut])
            link.send_raw(all_of_it[cut:])
            assert agent.event(core.EVENT_LINK_UP)[1] == dial
            assert link.next(1) == Frame(WINDOW, SYN, 1, 0)
            assert link.next(0) == Frame(2, ACK, 0, 77)
            agent.engine.link_close(dial, "enough")
            assert agent.event(core.EVENT_LINK_DOWN)[1:4] == (dial, 0, "enough")


@pytest.mark.parametrize(
    ("answer", "reason", "status"),
    [
        (b"", "closed", 0),
        (b"HTTP/1.1 101", "closed", 0),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "bad_response", 0),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 20_000, "bad_response", 0),
        (b"HTTP/1.1 401 No\r\nContent-Length: 2\r\n\r\n{}", "refused", 401),
        (b"HTTP/1.1 503 No\r\n\r\n" + b"x" * 10_000, "refused", 503),
    ],
)
def test_an_answer_that_is_no_link(answer: bytes, reason: str, status: int) -> None:
    with dialling() as agent:
        dial, wire = agent.dial()
        wire.sock.sendall(answer)
        wire.close()
        event = agent.event(core.EVENT_DIAL_FAILED)
        assert event[1:3] == (dial, reason)
        assert event[4] == status
        if status:
            head, _, body = answer.partition(b"\r\n\r\n")
            assert event[5] == head + b"\r\n\r\n"
            assert body.startswith(event[6])
            assert len(event[6]) >= min(len(body), 4096)


def test_a_server_that_never_answers() -> None:
    with dialling() as agent:
        dial, _ = agent.dial(timeout_ms=50)
        assert agent.event(core.EVENT_DIAL_FAILED)[1:3] == (dial, "timeout")


def test_a_port_nobody_listens_on() -> None:
    with dialling() as agent:
        sock = agent.listen()
        port = sock.getsockname()[1]
        sock.close()
        dial = agent.engine.dial("127.0.0.1", port, b"GET", carrier="raw")
        assert agent.event(core.EVENT_DIAL_FAILED)[1:4] == (dial, "connect", errno.ECONNREFUSED)


# --- preambles --------------------------------------------------------------------------------


@pytest.mark.parametrize("carrier", CARRIERS)
def test_a_preamble_cut_at_every_byte(carrier: Carrier) -> None:
    with dialling() as agent:
        listener = agent.target()
        link = agent.link(carrier)
        wire = WEB + b"hello"
        for cut in range(1, len(wire)):
            stream = open_stream(link, 2 * cut, wire[:cut])
            link.data(stream, wire[cut:])
            target = agent.accept(listener)
            assert target.take(5) == b"hello"
            target.sock.sendall(b"bye")
            assert link.next(stream) == Frame(WINDOW, ACK, stream, 0)
            assert link.next(stream, DATA).payload == b"bye"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", PROTOCOL),
        (preamble(b"other"), UNKNOWN_TUNNEL),
        (b"\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00", PROTOCOL),  # names no tunnel
        (b"\r\n\r\n\x00\r\nQUIT\n\x20\x00\xff\xff", PROTOCOL),
    ],
)
@pytest.mark.parametrize("cut", [0, 5])
def test_a_preamble_that_leads_nowhere(data: bytes, code: int, cut: int) -> None:
    with dialling() as agent:
        agent.target()
        link = agent.link()
        open_stream(link, 2, data[:cut] if cut else data)
        if cut:
            link.data(2, data[cut:])
        assert was_reset(link, 2) == code
        link.send(frame(2, SYN, 0, 3))
        assert link.next(0) == Frame(2, ACK, 0, 3)


@pytest.mark.parametrize("how", ["fin", "reset"])
def test_a_stream_that_ends_in_its_preamble(how: str) -> None:
    with dialling() as agent:
        link = agent.link()
        open_stream(link, 2, WEB[:7])
        if how == "fin":
            link.fin(2)
            assert was_reset(link, 2) == PROTOCOL
        else:
            link.reset(2)
        wait_until(lambda: agent.stat("buffer_bytes") == 0)


# --- targets ----------------------------------------------------------------------------------


def test_a_refusing_target_is_reported() -> None:
    with dialling() as agent:
        listener = agent.target()
        listener.close()
        link = agent.link()
        open_stream(link, 2, WEB + b"hello")
        assert was_reset(link, 2) == REFUSED
        event = agent.event(core.EVENT_TARGET_FAILED)
        assert event == (core.EVENT_TARGET_FAILED, "web", errno.ECONNREFUSED, "")


def test_the_next_address_gets_what_the_first_one_missed() -> None:
    with dialling() as agent:
        dead = [agent.listen() for _ in range(3)]
        listener = agent.target()
        ports = [sock.getsockname()[1] for sock in (*dead, listener)]
        for sock in dead:
            sock.close()
        agent.engine.targets_apply([("web", "127.0.0.1", port) for port in ports])
        link = agent.link()
        open_stream(link, 2, WEB + b"hello")
        link.fin(2)
        target = agent.accept(listener)
        assert target.take(5) == b"hello"
        assert target.fill() is False
        target.sock.sendall(b"bye")
        target.close()
        assert link.next(2, DATA).payload == b"bye"
        assert link.next(2, DATA) == Frame(DATA, FIN, 2, 0)
        assert not agent.has_event(core.EVENT_TARGET_FAILED)
        assert agent.stat("targets_failed") == 3


def test_no_file_descriptor_for_a_target() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with dialling() as agent:
        agent.target()
        link = agent.link()
        gc.collect()  # or a descriptor of rubbish comes free in the middle
        lowest = os.open("/dev/null", os.O_RDONLY)
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
        try:
            open_stream(link)
            assert was_reset(link, 2) == UNREACHABLE
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert agent.event(core.EVENT_TARGET_FAILED)[2] == errno.EMFILE
        open_stream(link, 4)
        assert link.next(4) == Frame(WINDOW, ACK, 4, 0)


@pytest.mark.parametrize("carrier", CARRIERS)
def test_each_side_finishes_on_its_own(carrier: Carrier) -> None:
    with dialling() as agent:
        listener = agent.target()
        link = agent.link(carrier)
        first = connected(agent, link, listener, 2)
        link.fin(2)
        assert first.fill() is False
        first.sock.sendall(b"late answer")
        assert link.next(2, DATA).payload == b"late answer"
        first.close()
        assert link.next(2, DATA) == Frame(DATA, FIN, 2, 0)

        second = connected(agent, link, listener, 4)
        second.sock.shutdown(socket.SHUT_WR)
        assert link.next(4, DATA) == Frame(DATA, FIN, 4, 0)
        link.data(4, b"late request")
        assert second.take(12) == b"late request"
        link.fin(4)
        assert second.fill() is False
        wait_until(lambda: agent.stat("connections") == 1)


@pytest.mark.parametrize("how", ["reset", "close", "abort"])
def test_a_stream_or_link_that_goes_takes_its_target_along(how: str) -> None:
    with dialling() as agent:
        listener = agent.target()
        link = agent.link()
        target = connected(agent, link, listener)
        open_stream(link, 4, WEB[:3])  # one without a connection yet
        link.data(2, b"x")
        assert target.take(1) == b"x"
        if how == "reset":
            link.reset(2)
        elif how == "close":
            link.close()
        else:
            link.abort()
        try:
            assert target.fill() is False
        except ConnectionResetError:
            pass
        wait_until(lambda: agent.stat("connections") == (1 if how == "reset" else 0))


def test_a_target_that_breaks_off_is_told_apart_from_one_that_ends() -> None:
    with dialling() as agent:
        listener = agent.target()
        link = agent.link()
        target = connected(agent, link, listener)
        target.abort()
        assert was_reset(link, 2) == TARGET_LOST


def test_the_last_words_of_a_target_that_stops_listening_are_passed_on() -> None:
    # An upload is refused early: the answer comes, then a reset meets our next send.
    with dialling() as agent:
        listener = agent.target()
        link = agent.link()
        for stream in range(2, 42, 2):
            target = connected(agent, link, listener, stream)
            link.data(stream, b"x" * 1000)  # it will not read this, so its close is a reset
            assert target.is_readable(10)
            target.sock.sendall(b"413")
            target.close()
            link.data(stream, b"y" * 1000)
            assert link.next(stream, DATA).payload == b"413"


@pytest.mark.parametrize("carrier", CARRIERS)
def test_no_byte_beyond_the_window_goes_out(carrier: Carrier) -> None:
    with dialling() as agent:
        listener = agent.target()
        link = agent.link(carrier)
        target = connected(agent, link, listener)
        target.sock.setblocking(False)
        total = 3 * WINDOW_SIZE
        pending = memoryview(bytes(total))

        def push() -> None:
            nonlocal pending
            try:
                while pending:
                    pending = pending[target.sock.send(pending) :]
            except BlockingIOError:
                pass

        received, granted = 0, WINDOW_SIZE
        while received < total:
            push()
            while received < granted and received < total:
                push()
                received += len(link.next(2, DATA).payload)
            assert received <= granted
            link.send(frame(2, SYN, 0, received & 0xFFFF))
            assert link.next(0) == Frame(2, ACK, 0, received & 0xFFFF)
            assert not [found for found in link.held if found.type == DATA]
            link.grant(2, 50_001)
            granted += 50_001


def test_a_slow_target_is_granted_only_what_it_took() -> None:
    with dialling() as agent:
        listener = agent.listen()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        agent.targets.append(listener)
        agent.engine.targets_apply([("web", "127.0.0.1", listener.getsockname()[1])])
        link = agent.link()
        target = connected(agent, link, listener)
        sent = len(WEB)
        credit = WINDOW_SIZE - sent
        total, taken, left = 6_000_000, 0, 6_000_000
        while left:
            while credit and left:
                size = min(credit, left, 60_000)
                link.data(2, bytes(size))
                credit -= size
                left -= size
                sent += size
            while left and not credit:
                if link.held:
                    found = link.next(2, WINDOW)
                    assert found.flags == 0
                    credit += found.length
                    assert credit <= WINDOW_SIZE
                elif wait_for_input(link, target):
                    link.pump()  # it may have been a ping
                else:
                    taken += len(target.sock.recv(65536))
        while taken < total:
            taken += len(target.sock.recv(1 << 20))
        wait_until(lambda: agent.stat("buffer_bytes") == 0)


def test_new_targets_apply_to_new_streams_only() -> None:
    with dialling() as agent:
        listener = agent.target()
        link = agent.link()
        target = connected(agent, link, listener)
        other = agent.target("other")
        link.data(2, b"still")
        assert target.take(5) == b"still"
        open_stream(link, 4)
        assert was_reset(link, 4) == UNKNOWN_TUNNEL
        open_stream(link, 6, preamble(b"other"))
        agent.accept(other)
        assert link.next(6) == Frame(WINDOW, ACK, 6, 0)


def test_a_target_that_does_not_answer_the_connect() -> None:
    # A listener whose backlog is full answers nothing at all.
    with dialling(target_timeout_ms=80) as agent:
        full = socket.socket()
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        agent.targets.append(full)
        port = full.getsockname()[1]
        fillers = []
        for _ in range(3):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
            fillers.append(filler)
        agent.engine.targets_apply([("web", "127.0.0.1", port)])
        link = agent.link()
        open_stream(link, 2, WEB + b"hello")
        assert was_reset(link, 2) == 3
        assert agent.event(core.EVENT_TARGET_FAILED)[2] == errno.ETIMEDOUT
        for filler in fillers:
            filler.close()


# --- stop and drain ---------------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["dialling", "refused", "link", "preamble", "connecting", "open"])
def test_stop_in_every_phase_frees_everything(phase: str) -> None:
    with dialling() as agent:
        listener = agent.target()
        if phase in ("dialling", "refused"):
            _, wire = agent.dial()
            if phase == "refused":
                wire.sock.sendall(b"HTTP/1.1 401 No\r\n\r\npart of a body")
                wait_until(lambda: agent.stat("buffer_bytes"))
            agent.engine.stop()
            return
        link = agent.link()
        if phase == "preamble":
            open_stream(link, 2, WEB[:9])
            wait_until(lambda: agent.stat("buffer_bytes"))
        elif phase == "connecting":
            open_stream(link, 2, WEB + b"hello")
        elif phase == "open":
            target = connected(agent, link, listener)
            link.data(2, b"x" * 200_000)
            target.take(1)
        agent.engine.stop()
        assert link.closed()


def test_drain_waits_for_the_targets_and_tells_once() -> None:
    with dialling() as agent:
        listener = agent.target()
        link = agent.link()
        target = connected(agent, link, listener)
        agent.engine.drain(60_000)
        link.data(2, b"x")
        assert target.take(1) == b"x"
        assert not agent.has_event(core.EVENT_DRAINED)
        link.reset(2)
        agent.event(core.EVENT_DRAINED)
        agent.engine.drain(0)
        link.close()
        agent.event(core.EVENT_LINK_DOWN)
        assert not agent.has_event(core.EVENT_DRAINED)


# --- both roles of ours together ----------------------------------------------------------------


def test_garbage_from_the_server_ends_the_link() -> None:
    for wrong in (
        b"\x01" * 12,
        frame(DATA, 0, 0, 1),
        frame(WINDOW, SYN, 3),
        struct.pack(">I", 9) * 9,
    ):
        with dialling() as agent:
            link = agent.link()
            link.send_raw(wrong)
            assert agent.event(core.EVENT_LINK_DOWN)[3] == "bad_yamux"
            assert link.closed()


# --- TCP tunnels ------------------------------------------------------------------------------


def tcp_target(agent: Agent, flags: int = core.TARGET_TCP) -> socket.socket:
    listener = agent.target("web")
    port = listener.getsockname()[1]
    agent.engine.targets_apply([("web", "127.0.0.1", port, flags)])
    return listener


@pytest.mark.parametrize("is_tcp", [False, True])
def test_a_reset_stream_resets_the_target_of_a_tcp_tunnel_only(is_tcp: bool) -> None:
    with dialling() as agent:
        listener = tcp_target(agent, core.TARGET_TCP if is_tcp else 0)
        link = agent.link()
        target = connected(agent, link, listener)
        link.data(2, b"half of it")
        link.reset(2, CANCEL)
        assert target.take(10) == b"half of it"
        if is_tcp:
            with pytest.raises(ConnectionResetError):
                target.fill()
        else:
            assert not target.fill()


def test_a_reset_overtakes_nothing_on_its_way_to_a_target() -> None:
    spoken = b"0123456789abcdef" * 12_000  # more than the target's socket takes, unread
    with dialling() as agent:
        listener = tcp_target(agent)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        link = agent.link()
        target = connected(agent, link, listener)
        for start in range(0, len(spoken), 16384):
            link.data(2, spoken[start : start + 16384])
        link.reset(2, CANCEL)
        got = b""
        with pytest.raises(ConnectionResetError):
            while part := target.sock.recv(3000):
                got += part
        assert got == spoken
        wait_until(lambda: agent.stat("connections") == 1, "the link alone")
        assert agent.stat("resets_late") == 1


def test_a_link_that_is_lost_cuts_its_targets_off_at_once() -> None:
    with dialling() as agent:
        listener = tcp_target(agent)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        link = agent.link()
        target = connected(agent, link, listener)
        for _ in range(15):  # all but the whole window, less the preamble
            link.data(2, bytes(16384))
        wait_until(lambda: agent.stat("buffer_bytes") > 0, "bytes that wait")
        link.close()
        wait_until(lambda: agent.stat("connections") == 0, "nothing")
        with pytest.raises(ConnectionResetError):
            while target.sock.recv(65536):
                pass


def test_a_target_is_told_the_visitor_if_it_wants_to_know() -> None:
    flags = core.TARGET_TCP | core.TARGET_PROXY_HEADER
    header = preamble_tcp(b"web", (bytes([192, 0, 2, 9]), 4660), (bytes([192, 0, 2, 1]), 80))
    with dialling() as agent:
        listener = tcp_target(agent, flags)
        link = agent.link()
        for stream, cut in ((2, 0), (4, 1), (6, 20)):
            link.send(frame(WINDOW, SYN, stream))
            if cut:
                link.data(stream, header[:cut])
            link.data(stream, header[cut:] + b"hello")
            target = agent.accept(listener)
            assert target.take(len(header) + 5) == header + b"hello"


def test_unknown_flags_of_a_target_are_refused() -> None:
    with dialling() as agent, pytest.raises(ValueError, match="flags"):
        agent.engine.targets_apply([("web", "127.0.0.1", 1, 8)])


# --- sockets of this machine --------------------------------------------------------------------


def unix_listener(name: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(name.replace("@", "\0", 1) if name.startswith("@") else name)
    listener.listen(1)
    listener.settimeout(PATIENCE)
    return listener


@pytest.mark.parametrize("is_abstract", [False, True])
def test_a_target_may_be_a_socket_of_this_machine(tmp_path: Path, is_abstract: bool) -> None:
    name = f"@proxy-engine-test-{os.getpid()}" if is_abstract else str(tmp_path / "app.sock")
    with dialling() as agent, unix_listener(name) as listener:
        agent.engine.targets_apply([("web", f"unix:{name}", 0)])
        link = agent.link()
        target = connected(agent, link, listener)
        link.data(2, b"ping")
        assert target.take(4) == b"ping"
        target.sock.sendall(b"pong")
        assert link.next(2, DATA).payload == b"pong"
        target.sock.shutdown(socket.SHUT_WR)
        assert link.next(2).flags & FIN
        link.send(frame(DATA, FIN, 2))
        assert not target.fill()


def test_a_socket_that_is_missing_or_full_refuses(tmp_path: Path) -> None:
    with dialling() as agent, unix_listener(str(tmp_path / "full")) as listener:
        rows = [("web", f"unix:{tmp_path}/missing", 0), ("full", f"unix:{tmp_path}/full", 0)]
        agent.engine.targets_apply(rows)
        link = agent.link()
        open_stream(link)
        assert was_reset(link, 2) == REFUSED
        assert agent.event(core.EVENT_TARGET_FAILED)[1:3] == ("web", errno.ENOENT)
        waiting = []
        while True:  # beyond its backlog a socket answers EAGAIN at once
            sock = socket.socket(socket.AF_UNIX)
            sock.setblocking(False)
            waiting.append(sock)
            if sock.connect_ex(listener.getsockname()):
                break
        open_stream(link, 4, preamble(b"full"))
        assert was_reset(link, 4) == REFUSED
        assert agent.event(core.EVENT_TARGET_FAILED)[1:3] == ("full", errno.EAGAIN)
        for sock in waiting:
            sock.close()


@pytest.mark.parametrize(
    ("name", "port", "flags"),
    [
        ("unix:", 0, 0),
        ("unix:/run/app", 80, 0),
        ("unix:/" + "x" * 107, 0, 0),
        ("unix:/run\0app", 0, 0),
        ("unix:/run/app", 0, core.TARGET_UDP),
    ],
)
def test_what_is_no_socket_of_this_machine_is_refused(name: str, port: int, flags: int) -> None:
    with dialling() as agent, pytest.raises(ValueError, match="unix:"):
        agent.engine.targets_apply([("web", name, port, flags)])
    with dialling() as agent:
        agent.engine.targets_apply([("web", "unix:/" + "x" * 106, 0)])
