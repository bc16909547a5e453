"""References written for this benchmark: bare relays in C, and the floor program.

The relays are in benchmarks/reference and compiled when they are asked for. The floor
program marks what the kernel allows a tunnel with one batched link; it is no part of this
tree: whoever has one names its C source by --floor or PROXY_ENGINE_FLOOR. It takes

    FLOOR server VISITOR_PORT LINK_PORT [raw=1]      one link, visitors behind it
    FLOOR agent LINK_PORT TARGET_PORT

where raw=1 means to forward bytes as they come instead of HTTP requests.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from benchmarks.parts.client import Endpoint
from benchmarks.parts.processes import BenchmarkError, Process, accepts_connections, free_port
from benchmarks.parts.subjects import ROOT, Running

REFERENCE = ROOT / "benchmarks" / "reference"
FLOOR_VARIABLE = "PROXY_ENGINE_FLOOR"


def compiler() -> str | None:
    return shutil.which(os.environ.get("CC", "cc").split()[-1])


def compile_program(source: Path, folder: Path, *libraries: str) -> Path:
    """The executable of one C file, in `folder`."""
    path = compiler()
    if path is None:
        raise BenchmarkError("no C compiler: apt-get install gcc")
    program = folder / source.stem
    command = [path, "-O3", "-march=native", str(source), "-o", str(program), *libraries]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if "error" in line]
        raise BenchmarkError(f"{source.name} does not compile: {' | '.join(lines[:3])}")
    return program


class Relay:
    """`hops` bare relays in a row, each a thread of C that looks at nothing."""

    def __init__(self, name: str, mode: str, hops: int = 2) -> None:
        self.name = name
        self.mode = mode
        self.hops = hops
        self.started: list[Process] = []

    def unavailable(self) -> str | None:
        return None if compiler() else "there is no C compiler"

    def start(self, folder: Path, origin: int) -> Running:
        folder.mkdir(parents=True)
        program = compile_program(REFERENCE / "relay.c", folder)
        port = origin
        proxies = {}
        for role in reversed(("server", "agent")[: self.hops]):
            target, port = port, free_port()
            command = [str(program), str(port), str(target), self.mode]
            proxies[role] = Process(command, folder / f"{role}.log")
            self.started.append(proxies[role])
            bound = port
            proxies[role].wait_until(lambda: accepts_connections(bound))  # noqa: B023
        return Running(Endpoint(port, "127.0.0.1"), proxies)


class Floor:
    """The floor program, where its source is given."""

    def __init__(self, source: str | None, *, is_raw: bool = False) -> None:
        self.name = "floor"
        self.source = source or os.environ.get(FLOOR_VARIABLE)
        self.is_raw = is_raw
        self.started: list[Process] = []

    def unavailable(self) -> str | None:
        if not self.source:
            return f"its source is named by --floor or {FLOOR_VARIABLE}"
        if not Path(self.source).is_file():
            return f"{self.source} is no file"
        return None if compiler() else "there is no C compiler"

    def start(self, folder: Path, origin: int) -> Running:
        folder.mkdir(parents=True)
        assert self.source is not None
        program = str(compile_program(Path(self.source), folder, "-luring"))
        port, link = free_port(), free_port()
        raw = ["raw=1"] if self.is_raw else []
        server = Process([program, "server", str(port), str(link), *raw], folder / "server.log")
        self.started.append(server)
        agent = Process([program, "agent", str(link), str(origin)], folder / "agent.log")
        self.started.append(agent)
        server.wait_until(lambda: accepts_connections(port))
        return Running(Endpoint(port, "127.0.0.1"), {"server": server, "agent": agent})
