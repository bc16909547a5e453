"""TCP tunnels over direct connections, between real processes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
from pathlib import Path

import pytest

from tests.e2e.harness import wait_until
from tests.e2e.processes import Process, run
from tests.e2e.site import Site
from tests.e2e.test_tcp import PATIENCE, connect, echo, serving, take
from tests.ports import free_port

SIZE = 48 << 20


def tunnel(site: Site, target: int, *args: str, token: str = "") -> tuple[Process, int]:
    """An agent with one TCP tunnel, and its public port."""
    spec = f"0=127.0.0.1:{target}"
    agent = site.connect({}, "--tcp", spec, *args, transport="tcp", token=token)
    [made] = agent.printed("connected")["tunnels"]
    return agent, int(made["url"].rpartition(":")[2])


def filled(site: Site, used: int = 4) -> None:
    wait_until(lambda: site.stats()["direct_tickets_used"] >= used)


def pipes_of(process: Process) -> int:
    folder = Path(f"/proc/{process.popen.pid}/fd")
    found = 0
    for each in folder.iterdir():
        try:
            found += os.readlink(each).startswith("pipe:")
        except OSError:
            pass
    return found


def round_trip(port: int) -> None:
    """Random bytes there and back, then an end each way."""
    block = os.urandom(1 << 20)
    expected, got = hashlib.sha256(), hashlib.sha256()
    with connect(port) as sock:

        def send() -> None:
            for _ in range(SIZE >> 20):
                expected.update(block)
                sock.sendall(block)
            sock.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        while data := sock.recv(1 << 20):
            got.update(data)
        sender.join()
    assert got.digest() == expected.digest()


@pytest.mark.sanitized
def test_bulk_goes_direct_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with serving(tmp_path) as site, echo() as target:
        agent, port = tunnel(site, target)
        filled(site)
        round_trip(port)
        stats = site.stats()
        assert (stats["direct_connections"], stats["streams_opened"]) == (1, 0)
        assert stats["spliced_bytes"] > SIZE
        before = pipes_of(agent)
        round_trip(port)
        wait_until(lambda: pipes_of(agent) <= before + 4)  # a worker keeps a few for the next
        wait_until(lambda: site.stats()["buffer_bytes"] == 0)


def test_without_a_pool_on_either_side_streams_serve(tmp_path: Path) -> None:
    for server, agent in (("0", "64"), ("64", "0")):
        with serving(tmp_path / server, "--pool", server) as site, echo() as target:
            _, port = tunnel(site, target, "--pool", agent)
            with connect(port):
                stats = site.stats()
            assert (stats["direct_tickets_issued"], stats["streams_opened"]) == (0, 1)


def test_an_agent_of_http_tunnels_has_none(tmp_path: Path) -> None:
    with serving(tmp_path) as site, echo() as target:
        site.connect({"web": target}, transport="tcp")
        assert site.stats()["direct_tickets_issued"] == 0


def test_they_begin_at_once_with_a_tcp_tunnel_that_comes_later(tmp_path: Path) -> None:
    with serving(tmp_path) as site, echo() as target:
        file = tmp_path / "agent.toml"
        file.write_text("")
        agent = site.connect({"web": target}, "--config", str(file), transport="tcp")
        file.write_text(f'tcp = ["0=127.0.0.1:{target}"]\n')
        agent.signal(signal.SIGHUP)
        agent.log("settings reloaded")
        filled(site)
        tunnels = site.api("/api/v1/tunnels")["items"]
        [url] = [each["url"] for each in tunnels if each["kind"] == "tcp"]
        round_trip(int(url.rpartition(":")[2]))
        stats = site.stats()
        assert (stats["direct_connections"], stats["streams_opened"]) == (1, 0)
        assert stats["links_closed"] == 0


def test_more_visitors_than_the_pool_has(tmp_path: Path) -> None:
    with serving(tmp_path, "--pool", "4") as site, echo() as target:
        agent, port = tunnel(site, target)
        filled(site)
        os.kill(agent.popen.pid, signal.SIGSTOP)  # else it may be faster than those who come
        socks = [socket.create_connection(("127.0.0.1", port), PATIENCE) for _ in range(60)]
        wait_until(lambda: site.stats()["streams_opened"] > 0)
        os.kill(agent.popen.pid, signal.SIGCONT)
        for sock in socks:
            assert take(sock, 5) == b"hello"
        stats = site.stats()
        assert stats["direct_connections"] + stats["streams_opened"] == 60
        assert stats["direct_connections"] >= 4
        for sock in socks:
            sock.close()


def test_a_killed_agent_takes_its_visitors_along_and_the_next_one_serves(tmp_path: Path) -> None:
    with serving(tmp_path) as site, echo() as target:
        agent, port = tunnel(site, target)
        filled(site)
        with connect(port) as sock:
            assert site.stats()["direct_connections"] == 1
            os.kill(agent.popen.pid, signal.SIGKILL)
            with pytest.raises(ConnectionResetError):
                sock.recv(1)
        _, port = tunnel(site, target)
        filled(site, 8)
        with connect(port):
            assert site.stats()["direct_connections"] == 2


def test_a_server_that_restarts_has_a_pool_again(tmp_path: Path) -> None:
    with serving(tmp_path) as site, echo() as target:
        _, port = tunnel(site, target)
        filled(site)
        site.server.popen.kill()
        site.server.popen.wait()
        site.restart_server()
        wait_until(lambda: site.stats()["direct_tickets_used"] >= 4)
        with connect(port):
            assert site.stats()["direct_connections"] == 1


def test_a_revoked_token_ends_direct_connections(tmp_path: Path) -> None:
    with serving(tmp_path) as site, echo() as target:
        _, port = tunnel(site, target)
        filled(site)
        with connect(port) as sock:
            assert site.stats()["direct_connections"] == 1
            done = run("device", "block", "default", "--data-dir", str(site.data_dir))
            assert done.returncode == 0, done.stderr
            with pytest.raises(ConnectionResetError):
                sock.recv(1)


def test_iperf3_through_direct_connections_and_streams(tmp_path: Path) -> None:
    if shutil.which("iperf3") is None:
        pytest.skip("needs iperf3")
    with serving(tmp_path) as site:
        peer = free_port()
        server = subprocess.Popen(
            ["iperf3", "-s", "-p", str(peer)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            _, direct = tunnel(site, peer)
            filled(site)
            _, mux = tunnel(site, peer, "--pool", "0", token=site.make_token("other"))
            for port in (direct, mux):
                for how in ((), ("-R",), ("-P", "8"), ("-P", "8", "-R")):
                    found = iperf(port, *how)
                    assert found["end"]["sum_sent"]["bytes"] >= 16 << 20
            stats = site.stats()
            assert stats["spliced_bytes"] > 0
            assert stats["streams_opened"] >= 2 + 2 + 9 + 9
        finally:
            server.terminate()
            server.wait()


def iperf(port: int, *how: str) -> dict[str, dict[str, dict[str, int]]]:
    def attempt() -> dict[str, dict[str, dict[str, int]]] | None:
        command = ["iperf3", "-J", "-c", "127.0.0.1", "-p", str(port), "-n", "16M", *how]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        found: dict[str, dict[str, dict[str, int]]] = json.loads(done.stdout)
        return None if "error" in found else found  # busy with the end of the one before

    found = wait_until(attempt, 60)
    assert found is not None
    return found
