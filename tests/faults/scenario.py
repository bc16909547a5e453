"""The fixed scenario of scripts/fail-nth: everything the engines do, once, in half a second.

    visitors (this thread) -> Engine("server") = link = Engine("agent") -> Origin (threads)
                                    ^ Control (a thread): the control planes of both

It is run again and again with one call of the engines failing, so a step may fail, too. What
never may: a wrong byte in a 2xx, a truncated body that looks whole, a POST that arrives
twice, a request that is not accounted for, something left over, a step that hangs, a tunnel
that stays broken.
"""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, Literal

from proxy_engine_core import core
from proxy_engine_core.core import Engine
from tests.engine.harness import Response, Visitor
from tests.engine.tlsparts import client_tls, server_tls
from tests.faults.origin import BIG, TO_THE_END, Origin

# tls: raw over TLS; direct: raw, with direct connections for what bulk there is, and datagrams.
Carrier = Literal["raw", "websocket", "tls", "direct"]
PATIENCE = 5.0  # seconds; whatever needs an engine's timeout to end is a hang
ASKS = 20  # what is asked of an engine may fail as often as calls in a row are made to
UPLOAD = b"0123456789abcdef" * 20_000
LINKS, JOINED = 7, 8  # quotas: of the links, of who joins the private tunnel
BANDWIDTH = 40_000_000  # bytes a second, in one step
DATAGRAM_PATIENCE = 0.02  # seconds; one may be lost, and is sent again


class Violation(Exception):
    """The law of the design does not hold."""


def require(condition: Any, what: str) -> None:
    if not condition:
        raise Violation(what)


def until(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        require(time.monotonic() < deadline, f"waited in vain for {what}")
        time.sleep(0.0005)


def again(action: Callable[[], Any]) -> Any:
    """What Python asks of the engine may fail for want of memory or an fd, then do nothing."""
    for _ in range(ASKS):
        try:
            return action()
        except (MemoryError, OSError):
            pass
    return action()


DATA_REQUEST = (
    b"GET /_proxy/data HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n"
    b"Upgrade: proxy-engine-data\r\nProxy-Engine-Ticket: "
)


class Control:
    """Both control planes: links are accepted, routed and dialled again when they end."""

    def __init__(
        self,
        server: Engine,
        agent: Engine,
        port: int,
        routes: dict[str, str],
        carrier: Carrier,
    ) -> None:
        self.server = server
        self.agent = agent
        self.port = port
        self.route_names = routes
        self.is_direct = carrier == "direct"
        self.carrier: Literal["raw", "websocket"] = "websocket" if carrier == "websocket" else "raw"
        self.tls = client_tls() if carrier == "tls" else None
        self.link: int | None = None  # the server's, once its tunnels are registered
        self.auth_count = 0
        self.drained = 0
        self.opened = 0  # answers to requests_open()
        self.problem: BaseException | None = None
        self.is_stopping = False
        self.is_dialling = True
        self.thread = threading.Thread(target=self.run, daemon=True)

    def start(self) -> None:
        self.dial()
        self.thread.start()

    def stop(self) -> None:
        self.is_stopping = True
        os.eventfd_write(self.server.event_fd, 1)
        self.thread.join()
        if self.problem is not None:
            raise self.problem

    def run(self) -> None:
        poll = select.poll()
        poll.register(self.server.event_fd, select.POLLIN)
        poll.register(self.agent.event_fd, select.POLLIN)
        try:
            while not self.is_stopping:
                poll.poll(100)
                for event in self.server.poll():
                    self.on_server(event)
                for event in self.agent.poll():
                    self.on_agent(event)
        except BaseException as problem:
            self.problem = problem

    def dial(self) -> None:
        upgrade = "websocket" if self.carrier == "websocket" else "proxy-engine-yamux"
        request = (
            f"GET /_proxy/link HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n"
            f"Upgrade: {upgrade}\r\n\r\n"
        )
        again(
            lambda: self.agent.dial(
                "127.0.0.1",
                self.port,
                request.encode(),
                carrier=self.carrier,
                tls=self.tls,
                direct=DATA_REQUEST if self.is_direct else b"",
            )
        )

    def routes(self, *links: int) -> None:
        again(
            lambda: self.server.routes_apply(
                [
                    ("set", key, route_id, links, name)
                    for route_id, (key, name) in enumerate(self.route_names.items(), 1)
                ]
            )
        )

    def on_server(self, event: Any) -> None:
        if event[0] == core.EVENT_AUTH:
            self.auth_count += 1
            if b"X-Refuse" in event[3]:
                refusal = b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n"
                again(lambda: self.server.auth_reply(event[1], refusal, accept=False))
                return
            if b"/_proxy/tcp/" in event[3]:
                switch = b"HTTP/1.1 101 S\r\n\r\n"
                again(
                    lambda: self.server.auth_reply(
                        event[1], switch, accept=True, tunnel="raw", quota=JOINED
                    )
                )
                return
            accepted = b"HTTP/1.1 101 S\r\nProxy-Engine-Window: 262144\r\n"
            accepted += b"Proxy-Engine-Direct: 64\r\n\r\n" if self.is_direct else b"\r\n"
            again(
                lambda: self.server.auth_reply(
                    event[1],
                    accepted,
                    accept=True,
                    device=7,
                    carrier=self.carrier,
                    preamble=True,
                    direct=64 if self.is_direct else 0,
                    quota=LINKS,
                    limits=(1000, 0, 0),
                )
            )
        elif event[0] == core.EVENT_CONTROL:
            again(lambda: self.server.link_send(event[1], b"registered " + b"r" * 5000))
            self.routes(event[1])
            self.link = event[1]
        elif event[0] == core.EVENT_LINK_DOWN and event[1] == self.link:
            self.link = None
            self.routes()
        elif event[0] == core.EVENT_DRAINED:
            self.drained += 1
        elif event[0] == core.EVENT_REQUESTS_OPEN:
            self.opened += event[3]

    def on_agent(self, event: Any) -> None:
        if event[0] == core.EVENT_LINK_UP:
            again(lambda: self.agent.link_send(event[1], b"register " + b"r" * 5000))
        elif event[0] in (core.EVENT_LINK_DOWN, core.EVENT_DIAL_FAILED) and self.is_dialling:
            self.dial()
        elif event[0] == core.EVENT_DRAINED:
            self.drained += 1


class Scenario:
    """One run. `may_fail`: a call of the engines is made to fail, so steps may, too."""

    def __init__(self, origin: Origin, carrier: Carrier, *, may_fail: bool) -> None:
        self.origin = origin
        self.may_fail = may_fail
        origin.seen.clear()
        self.is_tls = carrier == "tls"
        self.is_direct = carrier == "direct"
        # Connections of the server in the end: listeners, the link.
        self.own = {"tls": 4, "direct": 4}.get(carrier, 3)
        self.server, self.port, link_port = again(self.start_server)
        self.agent: Engine = again(self.start_agent)
        ports = 3 if self.is_tls else 2
        self.tcp_port: int = again(lambda: self.server.tcp_listen("127.0.0.1", 0))
        routes = {
            "host:web.test": "web",
            "host:dead.test": "dead",
            f"tcp::{self.tcp_port}": "raw",
            "tcp:raw": "raw",
        }
        if self.is_direct:
            self.dead_port: int = again(lambda: self.server.tcp_listen("127.0.0.1", 0))
            self.udp_port: int = again(lambda: self.server.udp_listen("127.0.0.1", 0))
            ports = 4
            routes |= {f"tcp::{self.dead_port}": "dead", f"udp::{self.udp_port}": "echo"}
        # A port that gets no memory is tried again.
        until(lambda: self.server.stats()["connections"] >= ports, "all ports")
        self.control = Control(self.server, self.agent, link_port, routes, carrier)
        self.visitors: list[Visitor] = []
        self.request_count = 0

    # An engine that could not start is stopped: another one takes its place.

    def start_server(self) -> tuple[Engine, int, int]:
        """Its ports, for visitors and for the device."""
        server = Engine("server", log_ring_size=65536, bandwidth_burst_ms=1)
        port: int = again(lambda: server.listen("127.0.0.1", 0))
        link_port = port
        if self.is_tls:
            tls = server_tls()
            link_port = again(lambda: server.listen("127.0.0.1", 0, tls=tls))
        server.start()
        return server, port, link_port

    def start_agent(self) -> Engine:
        agent = Engine("agent", log_ring_size=65536)
        targets: list[core.Target] = [
            ("web", "127.0.0.1", self.origin.port),
            ("dead", *self.origin.dead.getsockname()),
            ("raw", "127.0.0.1", self.origin.port, core.TARGET_TCP),
            ("echo", *self.origin.datagrams.getsockname(), core.TARGET_UDP),
        ]
        again(lambda: agent.targets_apply(targets))
        agent.start()
        return agent

    def run(self) -> None:
        try:
            self.control.start()
            steps = [
                self.keep_alive, self.chunked_upload, self.upload, self.slow_reader, self.hints,
                self.to_the_end, self.old_visitor, self.tunnel, self.split_head, self.pipelined,
                self.refused_target, self.unknown_tunnel, self.bad_request, self.refused_link,
                self.gone_in_response, self.gone_in_request, self.gone_in_tunnel,
                self.tcp, self.tcp_to_the_end, self.gone_in_tcp, self.joined, self.token_ended,
                self.listed, self.limited,
            ]  # fmt: skip
            if self.is_direct:
                steps = [
                    self.keep_alive, self.tcp, self.tcp_to_the_end, self.upload_by_tcp,
                    self.gone_in_tcp, self.refused_tcp, self.joined, self.token_ended,
                    self.listed, self.limited, self.datagrams, self.was_direct,
                ]  # fmt: skip
            for step in steps:
                self.attempt(step)
            self.recovered()
            self.settle()
            self.drain()
        finally:
            self.end()
        for engine in (self.server, self.agent):
            stats = engine.stats()
            require(stats["connections"] == 0, "connections are left")
            require(stats["buffer_bytes"] == 0, f"{stats['buffer_bytes']} bytes still lent")

    # --- steps ------------------------------------------------------------------------------

    def attempt(self, step: Callable[[], None]) -> None:
        """A step fails by an end of its connection or an answer of the proxy; no other way."""
        try:
            step()
        except TimeoutError as problem:
            raise Violation(f"{step.__name__} hangs") from problem
        except (AssertionError, ConnectionError) as problem:
            require(self.may_fail, f"{step.__name__}: {problem!r}")
        finally:
            for visitor in self.visitors:
                visitor.close()
            self.visitors.clear()

    def visitor(self, receive_buffer: int | None = None) -> Visitor:
        visitor = Visitor(self.port, receive_buffer=receive_buffer)
        visitor.sock.settimeout(PATIENCE)
        self.visitors.append(visitor)
        return visitor

    def fields(self, method: str = "GET") -> str:
        self.request_count += 1
        return f"X-Id: {method} {self.request_count}\r\n"

    def linked(self) -> None:
        until(lambda: self.control.link is not None, "a link")

    def expect(self, response: Response, body: bytes) -> None:
        """The origin's answer, or one of the proxy's own; AssertionError: the latter."""
        if response.status == 200:
            require(response.body == body, f"{len(response.body)} wrong bytes in a 200")
            return
        require(response.status >= 400, f"status {response.status}")
        require(b'"error":' in response.body or not response.body, f"body {response.body!r}")
        raise AssertionError(response)

    def keep_alive(self) -> None:
        self.linked()
        visitor = self.visitor()
        for _ in range(3):
            visitor.get("/small", host="web.test", fields=self.fields())
            self.expect(visitor.response(), b"hello")

    def chunked_upload(self) -> None:
        self.linked()
        visitor = self.visitor()
        head = f"POST /echo HTTP/1.1\r\nHost: web.test\r\n{self.fields('POST')}"
        visitor.send(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        for size in (1, 3000, 9000):
            visitor.send(b"%x\r\n" % size + UPLOAD[:size] + b"\r\n")
        visitor.send(b"0\r\n\r\n")
        self.expect(visitor.response(), UPLOAD[:1] + UPLOAD[:3000] + UPLOAD[:9000])

    def upload(self) -> None:
        self.linked()
        visitor = self.visitor()
        head = f"POST /echo HTTP/1.1\r\nHost: web.test\r\n{self.fields('POST')}"
        visitor.send(f"{head}Content-Length: {len(UPLOAD)}\r\n\r\n".encode() + UPLOAD)
        self.expect(visitor.response(), UPLOAD)

    def slow_reader(self) -> None:
        self.linked()
        visitor = self.visitor(receive_buffer=4096)
        visitor.get("/big", host="web.test", fields=self.fields())
        time.sleep(0.005)  # windows and buffers fill up
        self.expect(visitor.response(), BIG)

    def hints(self) -> None:
        self.linked()
        visitor = self.visitor()
        visitor.get("/hints", host="web.test", fields=self.fields())
        response = visitor.response()
        if response.status == 103:
            response = visitor.response()
        self.expect(response, b"hello")

    def to_the_end(self) -> None:
        self.linked()
        visitor = self.visitor()
        visitor.get("/end", host="web.test", fields=self.fields())
        self.expect(visitor.response(), TO_THE_END)

    def old_visitor(self) -> None:
        self.linked()
        for path, body in (("/end", TO_THE_END), ("/big", BIG)):
            visitor = self.visitor()
            visitor.send(f"GET {path} HTTP/1.0\r\nHost: web.test\r\n{self.fields()}\r\n".encode())
            self.expect(visitor.response(), body)

    def tunnel(self) -> None:
        self.linked()
        visitor = self.visitor()
        visitor.get(
            "/tunnel",
            host="web.test",
            fields=self.fields() + "Connection: Upgrade\r\nUpgrade: echo\r\n",
        )
        response = visitor.response()
        if response.status != 101:
            self.expect(response, b"")
        for size in (1, 5000, 40_000):
            visitor.send(UPLOAD[:size])
            require(visitor.take(size) == UPLOAD[:size], "wrong bytes in a tunnel")
        visitor.sock.shutdown(1)
        require(visitor.rest() == b"", "more bytes in a tunnel")

    def split_head(self) -> None:
        self.linked()
        visitor = self.visitor()
        head = f"GET /small HTTP/1.1\r\nHost: web.test\r\n{self.fields()}\r\n".encode()
        visitor.send(head[:20])
        time.sleep(0.002)
        visitor.send(head[20:])
        self.expect(visitor.response(), b"hello")

    def pipelined(self) -> None:
        self.linked()
        visitor = self.visitor()
        for path in ("/small", "/known", "/small"):
            visitor.get(path, host="web.test", fields=self.fields())
        self.expect(visitor.response(), b"hello")
        self.expect(visitor.response(), BIG)
        self.expect(visitor.response(), b"hello")

    def refused_target(self) -> None:
        self.linked()
        visitor = self.visitor()
        visitor.get("/small", host="dead.test", fields=self.fields())
        response = visitor.response()
        require(response.status >= 500, f"status {response.status} of a dead target")

    def unknown_tunnel(self) -> None:
        visitor = self.visitor()
        visitor.get(host="nobody.test")
        require(visitor.response().status == 404, "an unknown tunnel is no 404")

    def bad_request(self) -> None:
        visitor = self.visitor()
        visitor.send(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
        require(visitor.response().status == 400, "two Hosts are no 400")
        visitor.rest()

    def refused_link(self) -> None:
        visitor = self.visitor()
        visitor.get("/_proxy/link", host="x", fields="X-Refuse: 1\r\n")
        require(visitor.response().status in (401, 503), "a refused link")

    def gone_in_response(self) -> None:
        self.linked()
        visitor = self.visitor(receive_buffer=4096)
        visitor.get("/known", host="web.test", fields=self.fields())
        visitor.take_head()
        visitor.abort()

    def gone_in_request(self) -> None:
        self.linked()
        visitor = self.visitor()
        head = f"POST /echo HTTP/1.1\r\nHost: web.test\r\n{self.fields('POST')}"
        visitor.send(f"{head}Content-Length: 99999\r\n\r\n".encode() + UPLOAD[:5000])
        visitor.abort()

    def gone_in_tunnel(self) -> None:
        self.linked()
        visitor = self.visitor()
        visitor.get(
            "/tunnel",
            host="web.test",
            fields=self.fields() + "Connection: Upgrade\r\nUpgrade: echo\r\n",
        )
        if visitor.response().status == 101:
            visitor.send(b"ping")
            visitor.abort()

    # TCP tunnels: the origin behind one, as plain bytes. No answers of the proxy, only resets.

    def connected(self, receive_buffer: int | None = None) -> Visitor:
        self.linked()
        if self.is_direct:
            self.stocked()
        return self.connected_to(self.tcp_port, receive_buffer)

    def connected_to(self, port: int, receive_buffer: int | None = None) -> Visitor:
        visitor = Visitor(port, receive_buffer=receive_buffer)
        visitor.sock.settimeout(PATIENCE)
        self.visitors.append(visitor)
        return visitor

    def stocked(self) -> None:
        """Wait for a direct connection that is idle; where calls fail there may be none."""
        deadline = time.monotonic() + (0.1 if self.may_fail else PATIENCE)
        while self.idle() <= 0 and time.monotonic() < deadline:
            time.sleep(0.0005)

    def idle(self) -> int:
        stats = self.server.stats()
        gone = stats["direct_connections"] + stats["direct_lost"]
        return stats["direct_tickets_used"] - gone

    def whole(self, visitor: Visitor, path: str, body: bytes) -> None:
        visitor.get(path, host="any", fields=self.fields())
        response = visitor.response()
        require(response.status == 200 and response.body == body, f"{response.status} over TCP")

    def tcp(self) -> None:
        visitor = self.connected(receive_buffer=4096)
        self.whole(visitor, "/small", b"hello")
        self.whole(visitor, "/known", BIG)
        visitor.sock.shutdown(socket.SHUT_WR)
        require(visitor.rest() == b"", "more bytes over TCP")

    def tcp_to_the_end(self) -> None:
        visitor = self.connected()
        visitor.get("/end", host="any", fields=self.fields())
        data = visitor.rest()
        require(data.endswith(TO_THE_END), f"{len(data)} bytes over TCP look whole")

    def gone_in_tcp(self) -> None:
        visitor = self.connected(receive_buffer=4096)
        visitor.get("/known", host="any", fields=self.fields())
        visitor.take_head()
        visitor.abort()

    def upload_by_tcp(self) -> None:
        visitor = self.connected()
        head = f"POST /echo HTTP/1.1\r\nHost: any\r\n{self.fields('POST')}"
        visitor.send(f"{head}Content-Length: {len(BIG)}\r\n\r\n".encode() + BIG)
        response = visitor.response()
        require(response.status == 200 and response.body == BIG, f"{response.status} over TCP")

    def refused_tcp(self) -> None:
        self.linked()
        self.stocked()
        visitor = self.connected_to(self.dead_port)
        require(visitor.is_cut_off(), "a dead target's visitor ends as if all were well")

    def was_direct(self) -> None:
        if self.may_fail:
            return
        for stats in (self.server.stats(), self.agent.stats()):
            require(stats["direct_connections"] >= 6, "visitors went over streams")
            require(stats["spliced_bytes"] > len(BIG), "bulk was copied")

    # UDP tunnels: what arrives is right; what does not is sent again.

    def datagrams(self) -> None:
        self.linked()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(DATAGRAM_PATIENCE)
            sock.connect(("127.0.0.1", self.udp_port))
            for size in (1, 1400, 9000):
                for number in range(3):  # several at a time
                    sock.send(bytes([number]) + UPLOAD[:size])
                self.echoed(sock, size)

    def echoed(self, sock: socket.socket, size: int) -> None:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                data = sock.recv(65_536)
            except (TimeoutError, ConnectionError):
                require(time.monotonic() < deadline, "waited in vain for a datagram")
                self.linked()
                sock.send(b"\0" + UPLOAD[:size])
                continue
            require(data[0] < 3 and UPLOAD.startswith(data[1:]), "a datagram has other bytes")
            if len(data) == size + 1:  # those of earlier sizes may come late
                return

    def join(self) -> Visitor:
        self.linked()
        visitor = self.visitor()
        visitor.get("/_proxy/tcp/pi/raw", host="x")
        head = visitor.take_head()
        if not head.startswith(b"HTTP/1.1 101"):
            raise AssertionError(head)
        return visitor

    def joined(self) -> None:
        visitor = self.join()
        self.whole(visitor, "/small", b"hello")
        visitor.abort()

    def token_ended(self) -> None:
        visitor = self.join()
        again(lambda: self.server.joined_close(JOINED))
        require(visitor.is_cut_off(), "who joined stays, or ends as if all were well")

    def listed(self) -> None:
        visitor = self.connected()
        self.whole(visitor, "/small", b"hello")
        before = self.control.opened
        again(lambda: self.server.requests_open(1, 100))
        until(lambda: self.control.opened > before, "what is under way")

    def limited(self) -> None:
        """Bandwidth, while a request is under way and for those that come."""
        self.linked()
        try:
            visitor = self.visitor(receive_buffer=4096)
            visitor.get("/known", host="web.test", fields=self.fields())
            again(lambda: self.server.limits_apply(LINKS, (3, 0, BANDWIDTH)))
            self.expect(visitor.response(), BIG)
            self.whole(self.connected(), "/small", b"hello")
        finally:
            again(lambda: self.server.limits_apply(LINKS, (0, 0, 0)))

    # --- the law ----------------------------------------------------------------------------

    def recovered(self) -> None:
        # A failing call may cost a step, and the link it ran on; and Python may not have heard
        # yet that it went down.
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                self.keep_alive()
                return
            except (AssertionError, ConnectionError) as problem:
                require(time.monotonic() < deadline, f"the tunnel does not recover: {problem!r}")
                time.sleep(0.02)

    def settle(self) -> None:
        """Everybody has gone: what was accepted is accounted for."""
        for visitor in self.visitors:
            visitor.close()
        if self.is_direct:
            again(lambda: self.server.udp_close(self.udp_port))
        until(
            lambda: self.server.stats()["connections"] <= self.own + max(0, self.idle()),
            "visitors to be gone",
        )
        # The listener of the TCP tunnel may be missing, then one may still be going.
        until(lambda: self.missing() <= self.server.stats()["memory_errors"], "all to end")
        # ... and a direct connection that got no memory was answered after all.
        require(
            self.missing() >= -self.server.stats()["memory_errors"],
            "more requests ended than began",
        )
        until(lambda: self.unlogged() == 0, "the log, which misses some")
        require(self.server.connections(LINKS) == 0, "a connection is counted for ever")
        for record in self.server.poll_logs():
            has_ended = record.status or record.flags & (core.LOG_TCP | core.LOG_UDP)
            ended_well = has_ended and not record.flags & (core.LOG_ABORTED | core.LOG_LOCAL)
            require(ended_well or record.reason, f"no reason: {record}")
        for name, count in self.origin.seen.items():
            require(not name.startswith("POST") or count == 1, f"{name} arrived {count} times")

    def unlogged(self) -> int:
        """Outcomes that have no record."""
        stats = self.server.stats()
        answered = stats["responses"] + stats["responses_local"] + stats["requests_aborted"]
        return answered + stats["udp_visitors"] - stats["log_records"] - stats["log_dropped"]

    def missing(self) -> int:
        """Requests that are not accounted for."""
        stats = self.server.stats()
        answered = stats["responses"] + stats["responses_local"] + stats["requests_aborted"]
        # Devices that ask for a link have a request, too, until they have their answer; so have
        # direct connections.
        asked = stats["links_opened"] + stats["auth_refused"] + stats["direct_tickets_used"]
        return stats["requests"] - answered - asked

    def drain(self) -> None:
        self.control.is_dialling = False
        again(lambda: self.server.drain(20_000))
        again(lambda: self.agent.drain(20_000))
        until(lambda: self.control.drained >= 1, "the drain")

    def end(self) -> None:
        for visitor in self.visitors:
            visitor.close()
        if self.control.thread.ident is not None:
            self.control.stop()
        self.server.stop()
        self.agent.stop()
        until(lambda: not self.origin.live, "the origin's connections to end")
