"""Targets that are sockets of this machine, between real processes."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.e2e.harness import wait_until
from tests.e2e.processes import run
from tests.e2e.test_tcp import PATIENCE, serving

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nunix"


@contextmanager
def listening(path: Path, *, is_http: bool) -> Iterator[None]:
    """Answers each request, or gives back what comes."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(128)

    def serve(sock: socket.socket) -> None:
        with sock, suppress(OSError):  # an agent that is killed may reset it
            while data := sock.recv(1 << 16):
                sock.sendall(ANSWER if is_http else data)

    def accept() -> None:
        while True:
            try:
                sock = listener.accept()[0]
            except OSError:
                return
            threading.Thread(target=serve, args=(sock,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def test_http_and_the_allow_list(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    spec = f"web=unix:{tmp_path}/run/app.sock,other=unix:{tmp_path}/other.sock"
    with serving(tmp_path) as site:
        agent = site.connect({}, "--http", spec, "--allow-target", f"unix:{tmp_path}/run/")
        assert site.get("web").json()["error"] == "refused"  # nobody listens yet
        with listening(tmp_path / "run" / "app.sock", is_http=True):
            for _ in range(3):
                assert site.get("web").body == b"unix"
        with listening(tmp_path / "other.sock", is_http=True):
            assert site.get("other").json()["error"] == "unknown_target"
        assert f"unix:{tmp_path}/other.sock" in agent.log("target not allowed")["target"]


def test_bulk_of_a_tcp_tunnel_goes_direct(tmp_path: Path) -> None:
    size, block = 16, os.urandom(1 << 20)
    with serving(tmp_path) as site, listening(tmp_path / "db.sock", is_http=False):
        agent = site.connect({}, "--tcp", f"0=unix:{tmp_path}/db.sock", transport="tcp")
        [made] = agent.printed("connected")["tunnels"]
        assert made["target"] == f"unix:{tmp_path}/db.sock"
        wait_until(lambda: site.stats()["direct_tickets_used"] >= 4)
        got = hashlib.sha256()
        where = ("127.0.0.1", int(made["url"].rpartition(":")[2]))
        with socket.create_connection(where, PATIENCE) as sock:

            def send() -> None:
                for _ in range(size):
                    sock.sendall(block)
                sock.shutdown(socket.SHUT_WR)

            sender = threading.Thread(target=send)
            sender.start()
            while data := sock.recv(1 << 16):
                got.update(data)
            sender.join()
        assert got.digest() == hashlib.sha256(block * size).digest()
        assert site.stats()["direct_connections"] == 1
        assert site.stats()["spliced_bytes"] > 0


def test_a_udp_tunnel_has_none() -> None:
    done = run(
        "connect", "--server", "http://127.0.0.1:1", "--udp", "0=unix:/run/x", "--token", "pe_x"
    )
    assert done.returncode == 2
    assert "unix:/run/x" in done.stderr
