"""Ours: `proxy-engine run` and `proxy-engine connect` of a tree, as a user starts them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.parts.client import Endpoint, answers
from benchmarks.parts.processes import BenchmarkError, Process, accepts_connections, free_port
from benchmarks.parts.subjects import ROOT, Certificate, Running


class ProxyEngine:
    """A server and an agent, and between them a tunnel of either kind."""

    def __init__(
        self,
        name: str,
        transport: str = "tcp",
        run: Sequence[str] = (),
        root: Path = ROOT,
        *,
        kind: str = "http",
        connect: Sequence[str] = (),
        certificate: Certificate | None = None,
    ) -> None:
        """run, connect: more arguments for the server, and for the agent. certificate: visitors
        speak TLS."""
        self.name = name
        self.root = root
        self.run = run
        self.transport = transport
        self.kind = kind
        self.connect = connect
        self.certificate = certificate
        self.started: list[Process] = []
        self.command = [sys.executable, "-m", "proxy_engine"]
        self.environment = {"PYTHONPATH": f"{root / 'engine'}:{root / 'proxy'}"}

    def unavailable(self) -> str | None:
        if not (self.root / "proxy" / "proxy_engine" / "cli").exists():
            return "there is no command line in this tree"
        if not list((self.root / "engine" / "proxy_engine_core").glob("core.*.so")):
            return "the engine is not built here (python setup.py build_ext --inplace)"
        return None

    def start(self, folder: Path, origin: int) -> Running:
        folder.mkdir(parents=True, exist_ok=True)
        port, public, data = free_port(), free_port(), folder / "data"
        listen = ["--listen", f"http://127.0.0.1:{port}"]
        if self.certificate is not None:
            # Devices come in by the plain port, so that only the visitor's side differs.
            tls = free_port()
            listen += ["--listen", f"https://127.0.0.1:{tls}"]
            listen += ["--tls-cert", str(self.certificate.cert)]
            listen += ["--tls-key", str(self.certificate.key)]
        server = self._start(
            folder / "server.log",
            *("run", *listen, "--admin", f"127.0.0.1:{free_port()}", "--domain", "localhost"),
            *("--data-dir", str(data), "--tcp-ports", str(public), *self.run),
        )
        server.wait_until(lambda: accepts_connections(port))
        token = self._output("token", "create", "--name", "bench", "--data-dir", str(data))
        name = "bench" if self.kind == "http" else str(public)
        agent = self._start(
            folder / "agent.log",
            *("connect", "--server", f"http://127.0.0.1:{self.link_port(port)}", "--token", token),
            *(
                f"--{self.kind}",
                f"{name}=127.0.0.1:{origin}",
                "--transport",
                self.transport,
                *self.connect,
            ),
        )
        proxies = {"server": server, "agent": agent}
        if self.kind == "tcp":
            agent.wait_until(lambda: accepts_connections(public))
            return Running(Endpoint(public, "127.0.0.1"), proxies)
        agent.wait_until(lambda: answers(Endpoint(port, f"bench.localhost:{port}")))
        if self.certificate is not None:
            return Running(Endpoint(tls, f"bench.localhost:{tls}", "https"), proxies)
        return Running(Endpoint(port, f"bench.localhost:{port}"), proxies)

    def link_port(self, port: int) -> int:
        """Where the agent finds the server; what ill-treats a link stands in between."""
        return port

    def _start(self, log: Path, *arguments: str) -> Process:
        process = Process([*self.command, *arguments], log, self.environment)
        self.started.append(process)
        return process

    def _output(self, *arguments: str) -> str:
        log = Path(self.started[0].log).with_name("token.log")
        with log.open("wb") as errors:
            done = subprocess.run(
                [*self.command, *arguments],
                env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                check=False,
            )
        if done.returncode != 0 or not done.stdout.strip():
            raise BenchmarkError(f"{' '.join(arguments[:2])} failed: {log.read_text().strip()}")
        return done.stdout.strip()
