"""A network that swallows every packet of a link: found out, recovered from, nothing left behind.

The agent lives in a network namespace of its own, joined by a pair of virtual interfaces, so the
firewall can drop what goes between the two and nothing else.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.harness import options, wait_until
from tests.e2e.processes import TIMEOUT, Process
from tests.e2e.site import Site, fd_count
from tests.e2e.test_tcp import is_open, take

# Pings every second: a dead peer is found within three of them. By default it is 15 s and 45 s.
PING_MS = 1000
FOUND_WITHIN = 10.0
POOL = 4  # direct connections that a link has ready, or is about to, when nobody needs more


def can_make_namespaces() -> bool:
    if os.geteuid() != 0 or not all(map(shutil.which, ("ip", "iptables"))):
        return False
    name = f"pe-try-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False)
    subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)
    filters = subprocess.run(["iptables", "-w", "-S"], capture_output=True, check=False)
    return made.returncode == 0 and filters.returncode == 0


pytestmark = pytest.mark.skipif(
    not can_make_namespaces(),
    reason="wants root, network namespaces and iptables (apt-get install iproute2 iptables)",
)


def sh(command: str) -> None:
    subprocess.run(command.split(), check=True, capture_output=True)


class Network:
    """The namespace "inside", 10.213.N.2, and this one, 10.213.N.1."""

    def __init__(self) -> None:
        number = os.getpid() % 250
        self.name, self.interface = f"pe-{os.getpid()}", f"pe{os.getpid() % 100_000}"
        self.here, self.inside = f"10.213.{number}.1", f"10.213.{number}.2"
        self._rules: list[str] = []

    def make(self) -> None:
        sh(f"ip netns add {self.name}")
        sh(f"ip link add {self.interface}a type veth peer name {self.interface}b netns {self.name}")
        sh(f"ip address add {self.here}/24 dev {self.interface}a")
        sh(f"ip link set {self.interface}a up")
        sh(f"ip -n {self.name} address add {self.inside}/24 dev {self.interface}b")
        sh(f"ip -n {self.name} link set {self.interface}b up")
        sh(f"ip -n {self.name} link set lo up")

    def drop(self) -> None:
        """Swallow everything between the two from now on, both ways."""
        self._rules = [
            f"INPUT -i {self.interface}a -j DROP",
            f"OUTPUT -o {self.interface}a -j DROP",
        ]
        for rule in self._rules:
            sh(f"iptables -w -I {rule}")

    def restore(self) -> None:
        for rule in self._rules:
            sh(f"iptables -w -D {rule}")
        self._rules = []

    def delete(self) -> None:
        self.restore()
        subprocess.run(["ip", "netns", "delete", self.name], check=False)
        subprocess.run(["ip", "link", "delete", f"{self.interface}a"], check=False,
                       capture_output=True)  # fmt: skip


@contextmanager
def network() -> Iterator[Network]:
    found = Network()
    try:
        found.make()
        yield found
    finally:
        found.delete()


ECHO = """
import asyncio, sys
host = sys.argv[1]
async def serve(reader, writer):
    try:
        writer.write(b"hello")
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()
class Datagrams(asyncio.DatagramProtocol):
    def connection_made(self, transport): self.transport = transport
    def datagram_received(self, data, address): self.transport.sendto(data, address)
async def main():
    await asyncio.get_running_loop().create_datagram_endpoint(Datagrams, (host, 7))
    server = await asyncio.start_server(serve, host, 7)
    print("ready", flush=True)
    await server.serve_forever()
asyncio.run(main())
"""


@contextmanager
def echo_inside(where: Network, host: str = "127.0.0.1") -> Iterator[None]:
    """TCP and UDP on port 7 of the namespace."""
    command = ["ip", "netns", "exec", where.name, sys.executable, "-c", ECHO, host]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as found:
        try:
            assert found.stdout is not None
            assert found.stdout.readline() == b"ready\n"
            yield
        finally:
            found.kill()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(
        tmp_path / "data",
        engine={
            "ping_interval_ms": PING_MS,
            "link_stall_ms": 3 * PING_MS,
            "udp_brief_timeout_ms": 500,
            "udp_timeout_ms": 500,
            "direct_shrink_ms": 500,
        },
        server_args=["--tcp-ports", "20000-29999", "--listen", "0.0.0.0:0"],
    )
    try:
        yield site
    finally:
        site.close()


def start(site: Site, where: Network) -> Process:
    class Inside(Process):
        prefix = ("ip", "netns", "exec", where.name)

    agent = Inside(
        "connect", "--server", f"http://{where.here}:{site.port}", "--transport", "tcp",
        "--links", "1", "--tcp", "echo:0=127.0.0.1:7", "--udp", "dgram:0=127.0.0.1:7",
        "--log-format", "json", *options(site.engine), PROXY_ENGINE_TOKEN=site.device_token,
    )  # fmt: skip
    site.processes.append(agent)
    return agent


def is_reset(sock: socket.socket) -> bool:
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:
        return True


def ask_udp(port: int) -> bytes:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(0.5)
        sock.connect(("127.0.0.1", port))
        sock.send(b"hello")
        try:
            return sock.recv(100)
        except (TimeoutError, ConnectionRefusedError):
            return b""


def test_a_link_whose_packets_vanish_is_found_out_and_comes_back(site: Site) -> None:
    with network() as where, echo_inside(where):
        agent = start(site, where)
        urls = {each["name"]: each["url"] for each in agent.printed("connected")["tunnels"]}
        port, udp_port = (int(urls[name].rpartition(":")[2]) for name in ("echo", "dgram"))
        assert wait_until(lambda: ask_udp(udp_port)) == b"hello"
        connect(port).close()
        site.wait_rows(1, method="TCP")
        idle = [fd_count(each.popen.pid) for each in (site.server, agent)]
        for turn in range(1, 3):
            visitors = [connect(port) for _ in range(10)]
            for visitor in visitors:
                visitor.sendall(b"ping")
                assert take(visitor, 4) == b"ping"
                visitor.settimeout(TIMEOUT)
            where.drop()
            dropped = time.monotonic()
            for visitor in visitors:
                assert is_reset(visitor)
                visitor.close()
            took = time.monotonic() - dropped
            print(f"found dead after {took:.1f} s")
            assert took < FOUND_WITHIN
            site.server.log("link down", turn)
            site.wait_online("echo", False)
            assert ask_udp(udp_port) == b""
            where.restore()
            wait_until(lambda: site.is_online("echo"))
            connect(port).close()
            assert wait_until(lambda: ask_udp(udp_port)) == b"hello"
        stats = site.stats()
        assert stats["links_opened"] - stats["links_closed"] == 1

        def is_as_before() -> bool:
            now = [fd_count(each.popen.pid) for each in (site.server, agent)]
            return all(after <= before + POOL for after, before in zip(now, idle, strict=True))

        # The agent's side of the old link found out by itself.
        wait_until(is_as_before)
        where.drop()  # and nobody's port outlives its device
        wait_until(lambda: not is_open(port))


def connect(port: int) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port), TIMEOUT)
    assert take(sock, 5) == b"hello"
    return sock


def test_a_target_that_says_nothing_any_more_is_asked_and_given_up(tmp_path: Path) -> None:
    # The agent is here, its target inside: the link stands, and nobody sends anything.
    site = Site(
        tmp_path / "data",
        engine={"tcp_keepalive_ms": PING_MS},
        server_args=["--tcp-ports", "20000-29999"],
    )
    try:
        with network() as where, echo_inside(where, where.inside):
            agent = Process(
                "connect", "--server", f"http://127.0.0.1:{site.port}", "--transport", "tcp",
                "--tcp", f"echo:0={where.inside}:7", "--log-format", "json",
                *options(site.engine), PROXY_ENGINE_TOKEN=site.device_token,
            )  # fmt: skip
            site.processes.append(agent)
            [tunnel] = agent.printed("connected")["tunnels"]
            visitors = [connect(int(tunnel["url"].rpartition(":")[2])) for _ in range(3)]
            where.drop()
            dropped = time.monotonic()
            for visitor in visitors:
                visitor.settimeout(TIMEOUT)
                assert is_reset(visitor)
                visitor.close()
            print(f"given up after {time.monotonic() - dropped:.1f} s")
            assert site.is_online("echo")
    finally:
        site.close()
