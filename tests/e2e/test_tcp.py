"""TCP tunnels between real processes: bytes, ends, ports that go and come back, real peers."""

from __future__ import annotations

import hashlib
import shutil
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.e2e.harness import wait_until
from tests.e2e.processes import Process
from tests.e2e.site import Site
from tests.ports import free_port

PATIENCE = 60.0


@contextmanager
def echo() -> Iterator[int]:
    """A target that says "hello", then gives back what comes, and finishes when that does."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)

    def serve(sock: socket.socket) -> None:
        with sock:
            try:
                sock.sendall(b"hello")
                while data := sock.recv(65536):
                    sock.sendall(data)
            except OSError:
                pass

    def accept() -> None:
        while True:
            try:
                sock = listener.accept()[0]
            except OSError:
                return
            threading.Thread(target=serve, args=(sock,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def take(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = sock.recv(size - len(data))
        assert more, f"ended {size - len(data)} bytes early"
        data += more
    return data


def connect(port: int) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port), PATIENCE)
    assert take(sock, 5) == b"hello"
    return sock


def is_open(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), PATIENCE).close()
    except ConnectionRefusedError:
        return False
    except ConnectionResetError:  # being closed
        return True
    return True


@contextmanager
def serving(tmp_path: Path, *args: str) -> Iterator[Site]:
    site = Site(tmp_path / "data", server_args=["--tcp-ports", "1024-65535", *args])
    try:
        yield site
    finally:
        site.close()


def tunnel(site: Site, spec: str, *args: str, transport: str = "tcp") -> str:
    """An agent with one TCP tunnel; where it is."""
    agent = site.connect({}, "--tcp", spec, *args, transport=transport)
    [made] = agent.printed("connected")["tunnels"]
    return str(made["url"])


@pytest.mark.parametrize("transport", ["ws", "tcp"])
def test_bytes_half_close_and_the_log(tmp_path: Path, transport: str) -> None:
    with serving(tmp_path) as site, echo() as target:
        port = free_port()
        url = tunnel(site, f"echo:{port}=127.0.0.1:{target}", transport=transport)
        assert url == f"tcp://localhost:{port}"
        block = bytes(range(256)) * 4096
        with connect(port) as sock:

            def send() -> None:
                for _ in range(8):
                    sock.sendall(block)
                sock.shutdown(socket.SHUT_WR)

            sent = threading.Thread(target=send)
            sent.start()
            got = hashlib.sha256()
            while data := sock.recv(65536):
                got.update(data)
            sent.join()
        assert got.digest() == hashlib.sha256(block * 8).digest()
        stats = site.stats()
        assert (stats["tcp_connections"], stats["tcp_refused"]) == (1, 0)


def test_a_reset_goes_through_both_ways(tmp_path: Path) -> None:
    with serving(tmp_path) as site, socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE)
        port = free_port()
        tunnel(site, f"{port}=127.0.0.1:{listener.getsockname()[1]}")
        for is_visitor in (True, False):
            visitor = socket.create_connection(("127.0.0.1", port), PATIENCE)
            target = listener.accept()[0]
            target.settimeout(PATIENCE)
            one, other = (visitor, target) if is_visitor else (target, visitor)
            one.sendall(b"half")
            assert take(other, 4) == b"half"
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            one.close()
            with pytest.raises(ConnectionResetError):
                other.recv(1)
            other.close()


def test_a_thousand_connections(tmp_path: Path) -> None:
    with serving(tmp_path) as site, echo() as target, ExitStack() as stack:
        port = free_port()
        tunnel(site, f"{port}=127.0.0.1:{target}")
        socks = [stack.enter_context(connect(port)) for _ in range(1000)]
        for number, sock in enumerate(socks):
            sock.sendall(b"%08d" % number)
        for number, sock in enumerate(socks):
            assert int(take(sock, 8)) == number
        stack.close()
        wait_until(lambda: site.stats()["connections"] < 200)  # 64 direct ones are ready


def test_a_port_goes_with_its_device_and_comes_back_with_it(tmp_path: Path) -> None:
    with serving(tmp_path) as site, echo() as target:
        url = tunnel(site, f"echo:0=127.0.0.1:{target}")
        port = int(url.rpartition(":")[2])
        connect(port).close()
        assert site.agent is not None
        site.agent.end()
        wait_until(lambda: not is_open(port))
        assert tunnel(site, f"echo:0=127.0.0.1:{target}") == url
        connect(port).close()
        site.server.end()
        assert not is_open(port)
        site.restart_server()
        site.wait_online("echo")
        connect(port).close()


def test_ports_that_can_not_be_had_end_the_agent_with_a_reason(tmp_path: Path) -> None:
    with serving(tmp_path) as site, socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        for port, code in ((22, "port_forbidden"), (taken, "port_taken")):
            agent = Process(
                "connect", "--server", f"http://127.0.0.1:{site.port}", "--tcp",
                f"{port}=127.0.0.1:1", PROXY_ENGINE_TOKEN=site.device_token,
            )  # fmt: skip
            site.processes.append(agent)
            assert agent.exit_code() == 1
            assert any(code in line for line in agent.err)


def test_the_target_is_told_the_visitor(tmp_path: Path) -> None:
    with serving(tmp_path) as site, socket.create_server(("127.0.0.1", 0)) as listener:
        port = free_port()
        target = f"{port}=127.0.0.1:{listener.getsockname()[1]}"
        tunnel(site, target, "--proxy-protocol", str(port))
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as visitor:
            sock = listener.accept()[0]
            with sock:
                head = take(sock, 28)
            assert head[:14] == b"\r\n\r\n\x00\r\nQUIT\n\x21\x11"
            assert struct.unpack(">HH", head[24:28]) == (visitor.getsockname()[1], port)


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="needs redis-server")
def test_redis(tmp_path: Path) -> None:
    redis_port, port = free_port(), free_port()
    command = ["redis-server", "--port", str(redis_port), "--save", "", "--bind", "127.0.0.1"]
    with (
        subprocess.Popen(command, stdout=subprocess.DEVNULL) as redis,
        serving(tmp_path) as site,
    ):
        try:
            wait_until(lambda: is_open(redis_port))
            tunnel(site, f"redis:{port}=127.0.0.1:{redis_port}")
            with socket.create_connection(("127.0.0.1", port), PATIENCE) as sock:
                value = b"v" * 1_000_000
                sock.sendall(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1000000\r\n" + value + b"\r\n")
                assert take(sock, 5) == b"+OK\r\n"
                sock.sendall(b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n")
                assert take(sock, 10 + 1_000_000 + 2) == b"$1000000\r\n" + value + b"\r\n"
        finally:
            redis.terminate()


def forward(site: Site, tunnel: str, token: str) -> tuple[Process, int]:
    """A client of private access, and its local port."""
    client = Process(
        "forward", "0", tunnel, "--server", f"http://127.0.0.1:{site.port}",
        PROXY_ENGINE_TOKEN=token,
    )  # fmt: skip
    site.processes.append(client)
    line = client.wait_for(lambda: client.out and client.out[0])
    return client, int(line.split(" ")[0].rpartition(":")[2])


def test_a_private_tunnel_is_for_those_with_a_token(tmp_path: Path) -> None:
    with serving(tmp_path) as site, echo() as target, ExitStack() as stack:
        assert tunnel(site, f"db=127.0.0.1:{target}") == "private:default/db"
        laptop = site.make_token("laptop", "--scope", "device=none,connect=default/*")
        _, port = forward(site, "default/db", laptop)
        block = bytes(range(256)) * 4096
        socks = [stack.enter_context(connect(port)) for _ in range(20)]
        for sock in socks:
            sock.sendall(b"ping")
            assert take(sock, 4) == b"ping"
        sender = threading.Thread(target=lambda: socks[0].sendall(block * 4))
        sender.start()
        assert take(socks[0], 4 * len(block)) == block * 4
        sender.join()
        socks[0].shutdown(socket.SHUT_WR)
        assert socks[0].recv(1) == b""


def test_a_forward_that_may_not_says_so_and_ends(tmp_path: Path) -> None:
    with serving(tmp_path) as site, echo() as target:
        tunnel(site, f"db=127.0.0.1:{target}")
        client, port = forward(site, "default/db", site.make_token("other"))
        sock = socket.create_connection(("127.0.0.1", port), PATIENCE)
        with sock, pytest.raises(ConnectionResetError):
            sock.recv(1)
        assert client.exit_code() == 1
        assert any("wrong_scope" in line for line in client.err)


def test_a_reset_of_the_target_goes_through_a_forward(tmp_path: Path) -> None:
    with serving(tmp_path) as site, socket.create_server(("127.0.0.1", 0)) as listener:
        tunnel(site, f"db=127.0.0.1:{listener.getsockname()[1]}")
        _, port = forward(site, "default/db", site.device_token)
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as visitor:
            target = listener.accept()[0]
            visitor.sendall(b"half")
            assert take(target, 4) == b"half"
            target.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            target.close()
            with pytest.raises(ConnectionResetError):
                visitor.recv(1)
