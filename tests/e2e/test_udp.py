"""UDP tunnels between real processes: DNS by dig, an echo, bulk, ports and links that come back."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.harness import wait_until
from tests.e2e.site import Site, fd_count
from tests.e2e.test_tcp import serving
from tests.ports import free_port

PATIENCE = 60.0
QUICK = ("--engine", "udp_brief_timeout_ms=3000", "--engine", "udp_timeout_ms=3000")


@contextmanager
def service(answer: object = None, family: int = socket.AF_INET) -> Iterator[int]:
    """A UDP service that answers each datagram by answer(datagram), or with itself."""
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    sock.bind(("127.0.0.1" if family == socket.AF_INET else "::1", 0))
    sock.settimeout(0.2)
    stopped = threading.Event()

    def serve() -> None:
        while not stopped.is_set():
            try:
                data, address = sock.recvfrom(70_000)
                sock.sendto(answer(data) if callable(answer) else data, address)
            except (TimeoutError, ConnectionRefusedError):
                pass

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield sock.getsockname()[1]
    finally:
        stopped.set()
        thread.join()
        sock.close()


def resolver(query: bytes) -> bytes:
    """A records for every name; so many for "many.test" that the answer is 4 KiB, by EDNS."""
    end = query.index(b"\0", 12) + 5
    count = 250 if b"\x04many" in query[12:end] else 1
    head = query[:2] + b"\x85\x80" + b"\0\1" + count.to_bytes(2, "big") + b"\0\0\0\0"
    records = [b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4\x0a\0\0" + bytes([n]) for n in range(count)]
    return head + query[12:end] + b"".join(records)


def tunnel(site: Site, spec: str, *args: str, transport: str = "tcp") -> int:
    """An agent with one UDP tunnel; its port."""
    agent = site.connect({}, "--udp", spec, *args, transport=transport)
    [made] = agent.printed("connected")["tunnels"]
    assert made["url"].startswith("udp://localhost:")
    return int(made["url"].rpartition(":")[2])


def visitor(port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    sock.settimeout(PATIENCE)
    sock.connect(("127.0.0.1", port))
    return sock


def ask(port: int, data: bytes = b"hello", *, again: float = 0.5) -> bytes:
    """The answer, asked for as a client would: again after so many seconds."""
    with visitor(port) as sock:
        sock.settimeout(again)
        deadline = time.monotonic() + PATIENCE
        while True:
            sock.send(data)
            try:
                return sock.recv(70_000)
            except (TimeoutError, ConnectionRefusedError):
                assert time.monotonic() < deadline, "no answer"


@pytest.mark.skipif(shutil.which("dig") is None, reason="no dig (apt-get install bind9-dnsutils)")
@pytest.mark.parametrize("transport", ["ws", "tcp"])
def test_dig_through_a_tunnel(tmp_path: Path, transport: str) -> None:
    with serving(tmp_path) as site, service(resolver) as target:
        port = tunnel(site, f"dns:0=127.0.0.1:{target}", transport=transport)
        for name, lines in (("one.test", 1), ("many.test", 250)):
            found = subprocess.run(
                ["dig", "+short", "+bufsize=4096", "+ignore", "+tries=5", "-p", str(port),
                 "@127.0.0.1", name],
                capture_output=True, text=True, timeout=60, check=True,
            )  # fmt: skip
            assert len(found.stdout.split()) == lines, found.stdout


@pytest.mark.parametrize("workers", [1, 2])
def test_an_echo_of_full_packets_from_many_visitors(tmp_path: Path, workers: int) -> None:
    with serving(tmp_path, "--workers", str(workers)) as site, service() as target:
        port = tunnel(site, f"0=127.0.0.1:{target}")
        assert ask(port) == b"hello"
        socks = [visitor(port) for _ in range(100)]
        for turn in range(5):
            for number, sock in enumerate(socks):
                sock.send(f"{turn} {number} ".encode().ljust(1400, b"."))
            for number, sock in enumerate(socks):
                answer = sock.recv(2000)
                assert answer.split()[:2] == [b"%d" % turn, b"%d" % number]
                assert len(answer) == 1400
        for sock in socks:
            sock.close()
        for size in (0, 1, 9000, 65_507):
            assert len(ask(port, b"x" * size)) == size
        stats = site.stats()
        assert stats["udp_visitors"] == 105
        assert stats["udp_dropped"] == stats["udp_errors"] == stats["udp_refused"] == 0


def test_visitors_end_and_leave_nothing_but_their_records(tmp_path: Path) -> None:
    with serving(tmp_path, *QUICK) as site, service() as target:
        port = tunnel(site, f"echo:0=127.0.0.1:{target}")
        ask(port)
        assert site.agent is not None
        site.wait_rows(1, method="UDP")
        before = site.fds()
        for _ in range(50):
            ask(port, b"x" * 100, again=PATIENCE)
        rows = site.wait_rows(51, method="UDP")
        assert (rows[-1]["host"], rows[-1]["reason"]) == (f":{port}", "")
        assert (rows[-1]["bytes_in"], rows[-1]["bytes_out"]) == (100, 100)
        wait_until(lambda: all(now <= then for now, then in zip(site.fds(), before, strict=True)))


def test_a_port_goes_with_its_device_and_comes_back_with_it(tmp_path: Path) -> None:
    with serving(tmp_path) as site, service() as target:
        port = tunnel(site, f"echo:0=127.0.0.1:{target}")
        assert ask(port) == b"hello"
        assert site.agent is not None
        site.agent.end()
        site.wait_rows(1, method="UDP", reason="link_lost")

        def is_free() -> bool:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                try:
                    sock.bind(("127.0.0.1", port))
                except OSError:
                    return False
            return True

        wait_until(is_free)
        assert tunnel(site, f"echo:0=127.0.0.1:{target}") == port
        assert ask(port) == b"hello"
        site.server.end()
        site.restart_server()
        site.wait_online("echo")
        assert ask(port) == b"hello"


def test_tcp_and_udp_at_the_same_port(tmp_path: Path) -> None:
    with serving(tmp_path) as site, service() as target:
        listener = socket.create_server(("127.0.0.1", 0))
        with listener:
            tcp = listener.getsockname()[1]
            port = free_port()
            agent = site.connect(
                {}, "--udp", f"{port}=127.0.0.1:{target}", "--tcp", f"{port}=127.0.0.1:{tcp}"
            )
            urls = {each["url"] for each in agent.printed("connected")["tunnels"]}
            assert urls == {f"udp://localhost:{port}", f"tcp://localhost:{port}"}
            assert ask(port) == b"hello"
            with socket.create_connection(("127.0.0.1", port)):
                listener.accept()[0].close()


def has_ipv6() -> bool:
    """Whether localhost has an IPv6 address that can be had: a hosts file says more than is so."""
    try:
        found = {each[4][0] for each in socket.getaddrinfo("localhost", 1)}
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return "::1" in found


@pytest.mark.skipif(not has_ipv6(), reason="localhost has no IPv6 address here")
def test_localhost_is_found_on_ipv6_only(tmp_path: Path) -> None:
    with serving(tmp_path) as site, service(family=socket.AF_INET6) as target:
        assert ask(tunnel(site, f"echo:0=localhost:{target}")) == b"hello"


def test_a_flood_is_dropped_and_counted_and_costs_no_memory(tmp_path: Path) -> None:
    with serving(tmp_path) as site, service() as target:
        port = tunnel(site, f"echo:0=127.0.0.1:{target}")
        assert ask(port) == b"hello"
        stop = time.monotonic() + 2
        with visitor(port) as flood:
            while time.monotonic() < stop:
                for _ in range(100):
                    flood.send(b"x" * 1400)
            assert ask(port, b"in between") == b"in between"
        stats = site.stats()
        assert stats["buffer_bytes_max"] < 16 << 20
        assert stats["memory_errors"] == 0
        assert fd_count(site.server.popen.pid) < 100
