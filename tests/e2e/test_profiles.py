"""A tunnel's profile, said by agent, operator and server, and changed under live traffic."""

from __future__ import annotations

import json
import os
import signal
import socket
from pathlib import Path
from typing import Any

from tests.e2e.harness import wait_until
from tests.e2e.processes import Process, run
from tests.e2e.site import Site
from tests.e2e.test_direct import filled
from tests.e2e.test_tcp import connect, echo, serving, take

SIZE = 4 << 20


def ask(site: Site, *words: str) -> dict[str, Any]:
    """A verb of the CLI; what `tunnel show` says then."""
    how = ("--admin", f"http://127.0.0.1:{site.admin_port}")
    for verb in (words, ("show", "db", "--json")):
        done = run("tunnel", *verb, *how, PROXY_ENGINE_ADMIN_TOKEN=site.admin_token)
        assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def pass_through(sock: socket.socket) -> None:
    block = os.urandom(1 << 16)
    for _ in range(SIZE // len(block)):
        sock.sendall(block)
        assert take(sock, len(block)) == block


def is_bulk(site: Site, sock: socket.socket) -> bool:
    """Whether what goes through this connection is spliced."""
    before = site.stats()["spliced_bytes"]
    pass_through(sock)
    moved = site.stats()["spliced_bytes"] - before
    return bool(moved > SIZE)  # the last of another connection may be counted a moment late


def is_new_bulk(site: Site, port: int) -> bool:
    with connect(port) as sock:
        return is_bulk(site, sock)


def serve(site: Site, spec: str, *args: str) -> tuple[Process, int]:
    """An agent with this TCP tunnel, and its public port."""
    agent = site.connect({}, "--tcp", spec, *args, transport="tcp")
    [made] = agent.printed("connected")["tunnels"]
    return agent, int(made["url"].rpartition(":")[2])


def said(site: Site, *words: str) -> tuple[str | None, str | None]:
    found = ask(site, *words)
    return found["options"]["profile"], found["agent_options"]["profile"]


def test_who_says_it_and_when_it_holds(tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    file.write_text("")
    with serving(tmp_path, "--config", str(file)) as site, echo() as target:
        agent, port = serve(site, f"db:0=127.0.0.1:{target}", "--profile", "db=latency")
        filled(site)
        with connect(port) as dialogue:
            assert not is_bulk(site, dialogue)
            assert said(site, "set", "db", "--profile", "throughput") == ("throughput", "latency")
            wait_until(lambda: is_new_bulk(site, port))  # once every worker knows
            assert not is_bulk(site, dialogue)
        assert said(site, "set", "db", "--unset", "profile") == (None, "latency")
        wait_until(lambda: not is_new_bulk(site, port))
        agent.end()

        serve(site, f"db:{port}=127.0.0.1:{target}")
        filled(site, 8)
        assert said(site, "enable", "db") == (None, None)
        wait_until(lambda: is_new_bulk(site, port))
        file.write_text('default_profile = "latency"\n')
        site.server.popen.send_signal(signal.SIGHUP)
        wait_until(lambda: not is_new_bulk(site, port))
        assert said(site, "set", "db", "--profile", "balanced") == ("balanced", None)
        wait_until(lambda: is_new_bulk(site, port))
