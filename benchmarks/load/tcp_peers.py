"""Other people's TCP tunnels, as far as they are installed, with the settings of benchmarks/peers.

A program is looked for on the path and in the folder that PEERS_VARIABLE names. One that is missing
is skipped, and the reason is printed.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from benchmarks.load.client import Endpoint
from benchmarks.load.processes import Process, accepts_connections, free_port
from benchmarks.load.subjects import Running

PEERS = Path(__file__).resolve().parents[1] / "peers"
PEERS_VARIABLE = "PROXY_ENGINE_BENCHMARK_PEERS"
BORE_CONTROL_PORT = 7835  # the only one it knows


class Peer:
    """A server process and a client process, and the public port between them."""

    program = ""
    how_to_install = ""

    def __init__(self) -> None:
        self.name = self.program
        self.started: list[Process] = []

    def unavailable(self) -> str | None:
        return None if self._found() else f"not installed: {self.how_to_install}"

    def start(self, folder: Path, origin: int) -> Running:
        folder.mkdir(parents=True)
        control, public = self.control_port(), free_port()
        server = self._run(folder / "server.log", self.server(folder, control, public, origin))
        bound = self.listens(control, public)
        server.wait_until(lambda: accepts_connections(bound))
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
        path = os.pathsep.join(
            [os.environ.get(PEERS_VARIABLE, ""), os.environ["PATH"], "/usr/sbin"]
        )
        return shutil.which(self.program, path=path)

    def _run(self, log: Path, arguments: list[str]) -> Process:
        process = Process([str(self._found()), *arguments], log)
        self.started.append(process)
        return process

    @staticmethod
    def _filled(template: str, folder: Path, **values: int) -> str:
        """The path of a configuration of ours with these values in it."""
        text = (PEERS / template).read_text()
        for name, value in values.items():
            text = text.replace(f"@{name.upper()}@", str(value))
        made = folder / f"{len(list(folder.iterdir()))}-{template}"
        made.write_text(text)
        return str(made)


class Rathole(Peer):
    program = "rathole"
    how_to_install = "cargo install rathole --no-default-features --features server,client"

    def server(self, folder: Path, control: int, public: int, origin: int) -> list[str]:
        file = self._filled("rathole-server.toml", folder, control=control, public=public)
        return ["--server", file]

    def client(self, folder: Path, control: int, public: int, origin: int) -> list[str]:
        file = self._filled("rathole-client.toml", folder, control=control, origin=origin)
        return ["--client", file]


class Bore(Peer):
    program = "bore"
    how_to_install = "cargo install bore-cli"

    def control_port(self) -> int:
        return BORE_CONTROL_PORT

    def server(self, folder: Path, control: int, public: int, origin: int) -> list[str]:
        return ["server", "--min-port", "1024", "--bind-addr", "127.0.0.1"]

    def client(self, folder: Path, control: int, public: int, origin: int) -> list[str]:
        return ["local", str(origin), "--to", "127.0.0.1", "--port", str(public)]


class Chisel(Peer):
    program = "chisel"
    how_to_install = "go install github.com/jpillora/chisel@latest"

    def server(self, folder: Path, control: int, public: int, origin: int) -> list[str]:
        return ["server", "--host", "127.0.0.1", "--port", str(control), "--reverse"]

    def client(self, folder: Path, control: int, public: int, origin: int) -> list[str]:
        remote = f"R:127.0.0.1:{public}:127.0.0.1:{origin}"
        return ["client", f"http://127.0.0.1:{control}", remote]


class HaProxy(Peer):
    """Two relays in a row: it has no tunnels, so this is what its TCP mode alone costs."""

    program = "haproxy"
    how_to_install = "apt-get install haproxy"

    def server(self, folder: Path, control: int, public: int, origin: int) -> list[str]:
        return ["-f", self._filled("haproxy.cfg", folder, listen=control, target=origin)]

    def client(self, folder: Path, control: int, public: int, origin: int) -> list[str]:
        return ["-f", self._filled("haproxy.cfg", folder, listen=public, target=control)]


def peers() -> list[Peer]:
    return [Rathole(), Bore(), Chisel(), HaProxy()]
