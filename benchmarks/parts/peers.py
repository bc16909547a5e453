"""Other people's tunnels, with the versions and settings of benchmarks/peers.

peers.toml there says how each is installed from its package registry; `scripts/bench peers
--install` does so. Programs are looked for in the folder that PEERS_VARIABLE names, in the cache
that --install fills, and on the path. One that is missing is skipped, and the reason is printed.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.parts.client import Endpoint
from benchmarks.parts.processes import Process, accepts_connections, free_port
from benchmarks.parts.subjects import PEERS, Running, filled

PEERS_VARIABLE = "PROXY_ENGINE_BENCHMARK_PEERS"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "proxy-engine" / "peers"
INSTALL: dict[str, dict[str, Any]] = tomllib.loads((PEERS / "peers.toml").read_text())
BORE_CONTROL_PORT = 7835  # the only one it knows
ONE_THREAD = {"TOKIO_WORKER_THREADS": "1"}


class Peer:
    """A server process and a client process, and the public port between them."""

    program = ""
    host = "127.0.0.1"  # where the server waits for its client

    def __init__(self, *, is_one_thread: bool = False) -> None:
        """is_one_thread: of a program of tokio, which takes a thread for each CPU by itself."""
        self.name = f"{self.program}-w1" if is_one_thread else self.program
        self.environment = ONE_THREAD if is_one_thread else None
        self.started: list[Process] = []

    def unavailable(self) -> str | None:
        return None if self._found() else "not installed: scripts/bench peers --install"

    def start(self, folder: Path, origin: int) -> Running:
        folder.mkdir(parents=True)
        control, public = self.control_port(), free_port()
        server = self._run(folder / "server.log", self.server(folder, control, public, origin))
        bound = self.listens(control, public)
        server.wait_until(lambda: accepts_connections(bound, self.host))
        agent = self._run(folder / "agent.log", self.client(folder, control, public, origin))
        agent.wait_until(lambda: accepts_connections(public))
        return Running(Endpoint(public, "127.0.0.1"), {"server": server, "agent": agent})

    def control_port(self) -> int:
        return free_port()

    def listens(self, control: int, public: int) -> int:
        """Where the server can be seen to be up."""
        return control

    def server(self, folder: Path, control: int, public: int, origin: int) -> list[str]:
        raise NotImplementedError

    def client(self, folder: Path, control: int, public: int, origin: int) -> list[str]:
        raise NotImplementedError

    def _found(self) -> str | None:
        places = [os.environ.get(PEERS_VARIABLE, ""), str(CACHE / "bin"), os.environ["PATH"]]
        return shutil.which(self.program, path=os.pathsep.join([*places, "/usr/sbin"]))

    def _run(self, log: Path, arguments: list[str]) -> Process:
        process = Process([str(self._found()), *arguments], log, self.environment)
        self.started.append(process)
        return process


class Rathole(Peer):
    program = "rathole"

    def server(self, folder: Path, control: int, public: int, origin: int) -> list[str]:
        file = filled("rathole-server.toml", folder, control=control, public=public)
        return ["--server", file]

    def client(self, folder: Path, control: int, public: int, origin: int) -> list[str]:
        file = filled("rathole-client.toml", folder, control=control, origin=origin)
        return ["--client", file]


class Bore(Peer):
    program = "bore"
    _addresses = itertools.count(2)

    def start(self, folder: Path, origin: int) -> Running:
        # Several at a time: the port can not be chosen, so each has an address of its own.
        self.host = f"127.0.0.{next(self._addresses)}"
        return super().start(folder, origin)

    def control_port(self) -> int:
        return BORE_CONTROL_PORT

    def server(self, folder: Path, control: int, public: int, origin: int) -> list[str]:
        return ["server", "--bind-addr", self.host, "--bind-tunnels", "127.0.0.1"]

    def client(self, folder: Path, control: int, public: int, origin: int) -> list[str]:
        return ["local", str(origin), "--to", self.host, "--port", str(public)]


class Absent(Peer):
    """One that its package registry does not give: what could not be tried is not configured."""

    def __init__(self, name: str) -> None:
        self.program = name
        super().__init__()

    def unavailable(self) -> str:
        return INSTALL[self.program]["reason"]


class HaProxyTcp(Peer):
    """Two relays in a row: it has no tunnels, so this is what its TCP mode alone costs."""

    program = "haproxy"

    def __init__(self) -> None:
        super().__init__()
        self.name = "haproxy-chain"

    def unavailable(self) -> str | None:
        return None if self._found() else "not installed: apt-get install haproxy"

    def server(self, folder: Path, control: int, public: int, origin: int) -> list[str]:
        return ["-f", filled("haproxy.cfg", folder, listen=control, target=origin)]

    def client(self, folder: Path, control: int, public: int, origin: int) -> list[str]:
        return ["-f", filled("haproxy.cfg", folder, listen=public, target=control)]


def peers() -> list[Peer]:
    kinds: tuple[type[Peer], ...] = (Rathole, Bore)
    tunnels = [kind(is_one_thread=one) for kind in kinds for one in (False, True)]
    return [*tunnels, *(Absent(name) for name in INSTALL if "reason" in INSTALL[name])]


def install(say: Callable[[str], None]) -> None:
    """Ask each peer's registry, with its ordinary client; what it refuses is said."""
    for name, how in INSTALL.items():
        if "reason" in how:
            say(f"{name}: {how['reason']}")
            continue
        if (CACHE / "bin" / name).exists():
            say(f"{name} {how['version']}: there already")
            continue
        command = [part.replace("@CACHE@", str(CACHE)) for part in how["command"]]
        say(f"{name} {how['version']}: {' '.join(command)}")
        if shutil.which(command[0]) is None:
            say(f"{name}: skipped: there is no {command[0]} here")
            continue
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        if done.returncode != 0:
            lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
            said = next((line for line in lines if "rror" in line or "orbidden" in line), "")
            say(f"{name}: skipped: {said or (lines or ['it failed'])[-1]}")
