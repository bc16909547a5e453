"""An engine that moves nothing: it remembers what it was told and says what it is given."""

from __future__ import annotations

import errno
import json
import sys
import types
from typing import Any


class FakeEngine:
    def __init__(self, workers: int = 1) -> None:
        self.workers = workers
        self.cpu_us = [0] * workers
        self.load_asks = 0
        self.calls: list[tuple[Any, ...]] = []
        self.routes: dict[str, tuple[int, tuple[int, ...], str]] = {}
        self.policies: dict[str, dict[str, Any]] = {}  # of those routes that have one
        self.sent: list[tuple[int, dict[str, Any]]] = []
        self.closed: list[tuple[int, str]] = []
        self.drained: list[int] = []  # those that are to close themselves afterwards
        self.replies: list[tuple[int, bytes, dict[str, Any]]] = []
        self.dials: list[tuple[str, int, bytes, str]] = []
        self.dial_workers: list[int] = []
        self.dial_direct = b""  # of the last dial
        self.dial_tls: list[Any] = []
        self.targets: list[tuple[str, str, int, int]] = []
        self.limits: dict[int, tuple[int, int, int]] = {}  # by quota
        self.joined_closed: list[int] = []
        self.ports: set[int] = set()  # listened on
        self.ports_in_use: set[int] = set()  # by somebody else
        self.udp_ports: set[int] = set()
        self.udp_ports_in_use: set[int] = set()

    def auth_reply(self, ticket: int, response: bytes, **options: Any) -> bool:
        self.replies.append((ticket, response, options))
        return True

    def routes_apply(self, ops: Any) -> None:
        for op in ops:
            self.policies.pop(op[1], None)
            if op[0] == "delete":
                del self.routes[op[1]]
            else:
                self.routes[op[1]] = (op[2], tuple(op[3]), op[4])
                if len(op) == 6:
                    self.policies[op[1]] = op[5]
        self.calls.append(("routes", len(ops)))

    def limits_apply(self, quota: int, limits: tuple[int, int, int]) -> None:
        self.limits[quota] = limits

    def joined_close(self, quota: int) -> None:
        self.joined_closed.append(quota)

    def tcp_listen(self, host: str, port: int) -> int:
        assert port not in self.ports
        if port in self.ports_in_use:
            raise OSError(errno.EADDRINUSE, "Address already in use")
        self.ports.add(port)
        return port

    def udp_listen(self, host: str, port: int) -> int:
        assert port not in self.udp_ports
        if port in self.udp_ports_in_use:
            raise OSError(errno.EADDRINUSE, "Address already in use")
        self.udp_ports.add(port)
        return port

    def udp_close(self, port: int) -> None:
        self.udp_ports.discard(port)

    def tcp_close(self, port: int) -> None:
        self.ports.discard(port)

    def link_send(self, link: int, record: bytes) -> bool:
        assert len(record) <= 65536
        self.sent.append((link, json.loads(record)))
        return True

    def link_close(self, link: int, reason: str = "") -> bool:
        self.closed.append((link, reason))
        self.calls.append(("close", link))
        return True

    def link_drain(self, link: int, *, close: bool = False) -> None:
        self.calls.append(("drain", link))
        if close:
            self.drained.append(link)

    def link_flush(self, link: int, route: int) -> None:
        self.calls.append(("flush", link, route))

    def dial(
        self,
        host: str,
        port: int,
        request: bytes,
        *,
        carrier: str,
        timeout_ms: int,
        worker: int,
        fd: int = -1,
        direct: bytes = b"",
        tls: Any = None,
    ) -> int:
        self.dial_direct = direct
        self.dial_tls.append(tls)
        self.dial_workers.append(worker)
        self.dials.append((host, port, request, carrier))
        return 100 + len(self.dials)

    def targets_apply(self, targets: Any) -> None:
        self.targets = list(targets)

    def link_loads(self) -> None:
        self.load_asks += 1

    def stats(self) -> dict[str, int]:
        return {"links": 0, "connections": 0}

    def worker_stats(self, worker: int) -> dict[str, int]:
        return {"cpu_us": self.cpu_us[worker]}


def head(target: str = "/_proxy/link", method: str = "GET", **fields: str) -> bytes:
    """A request head; field names with _ for -. An empty value leaves the field out."""
    lines = [f"{method} {target} HTTP/1.1", "Host: localhost"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items() if value]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def status(response: bytes) -> int:
    return int(response.split(b" ", 2)[1])


def fields(response: bytes) -> dict[str, str]:
    lines = response.partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:]
    return {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}


def body(response: bytes) -> dict[str, Any]:
    return json.loads(response.partition(b"\r\n\r\n")[2])


def parse_request_head(data: bytes) -> tuple[str, str, list[tuple[str, bytes]]]:
    lines = data.removesuffix(b"\r\n\r\n").split(b"\r\n")
    start = lines[0].split(b" ")
    if len(start) != 3:
        raise ValueError("bad_request_line")
    found = []
    for line in lines[1:]:
        name, _, value = line.partition(b":")
        found.append((name.decode().lower(), value.strip()))
    return start[0].decode(), start[1].decode(), found


def install_core_if_missing() -> None:
    """Stand in for the native module where it has not been built."""
    try:
        import proxy_engine_core.core  # noqa: F401
    except ImportError:
        core: Any = types.ModuleType("proxy_engine_core.core")
        names = "AUTH LINK_UP LINK_DOWN CONTROL DIAL_FAILED TARGET_FAILED DRAINED"
        for number, name in enumerate(names.split(), 1):
            setattr(core, f"EVENT_{name}", number)
        core.parse_request_head = parse_request_head
        core.DEFAULTS = {}
        core.Engine = FakeEngine
        sys.modules["proxy_engine_core.core"] = core
