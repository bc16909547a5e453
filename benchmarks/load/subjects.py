"""What is measured: nginx in three arrangements, and ours over each carrier.

Every subject stands before the same origin, one nginx worker. References are given
what a careful operator would give them: keep-alive to the upstream, no access log,
large buffers and no temporary files for bulk.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from benchmarks.load.client import Endpoint, answers
from benchmarks.load.processes import BenchmarkError, Process, accepts_connections, free_port

ROOT = Path(__file__).resolve().parents[2]
BODY_BYTES = 1024

NGINX_COMMON = """
daemon off;
{user}
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    server_tokens off;
    keepalive_requests 1000000000;
    keepalive_timeout 600s;
    tcp_nodelay on;
    sendfile on;
    sendfile_max_chunk 2m;
    client_body_temp_path {folder}/client_body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {http}
}}
"""

ORIGIN = """
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{ default_type text/plain; return 200 "{body}"; }}
        location /bulk {{ default_type application/octet-stream; root {folder}; }}
    }}
"""

HOP = """
    upstream target {{
        server 127.0.0.1:{upstream};
        keepalive 1024;
        keepalive_requests 1000000000;
    }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        proxy_set_header Host $host;
        proxy_set_header X-Forwarded-For $remote_addr;
        location / {{ proxy_pass http://target; }}
        location /bulk {{
            proxy_pass http://target;
            proxy_buffer_size 64k;
            proxy_buffers 16 64k;
            proxy_busy_buffers_size 256k;
            proxy_max_temp_file_size 0;
        }}
    }}
"""


def nginx_path() -> str | None:
    # Debian keeps it in sbin, which is not on everybody's PATH.
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


def start_nginx(folder: Path, http: str, port: int) -> Process:
    folder.mkdir(parents=True)
    # As root, workers would become www-data and could not read our folder.
    user = f"user {pwd.getpwuid(0).pw_name};" if Path("/proc/self").stat().st_uid == 0 else ""
    config = folder / "nginx.conf"
    config.write_text(NGINX_COMMON.format(folder=folder, http=http, user=user))
    path = nginx_path()
    assert path is not None
    process = Process([path, "-p", str(folder), "-c", str(config)], folder / "output.log")
    process.wait_until(lambda: accepts_connections(port))
    return process


@dataclass
class Running:
    """A started subject; `proxies` are the processes whose CPU is its price."""

    endpoint: Endpoint
    proxies: dict[str, Process] = field(default_factory=dict)


class Subject(Protocol):
    name: str

    def unavailable(self) -> str | None:
        """Why it can not be run here, in one line."""

    def start(self, folder: Path, origin: int) -> Running:
        """Start before the origin at that port. What has started is stopped by the caller,
        also after a failure: it finds the processes in `started`."""

    @property
    def started(self) -> list[Process]: ...


def bulk_path(streams: int) -> str:
    return f"/bulk{streams}"


class Origin:
    """One nginx worker: 1 KiB from memory, or a large file by sendfile.

    The files are shares of `bulk_bytes`, for so many downloads at the same time.
    """

    def __init__(self, folder: Path, bulk_bytes: int, streams: Sequence[int]) -> None:
        self.port = free_port()
        folder.mkdir(parents=True)
        for count in streams:
            with (folder / bulk_path(count).strip("/")).open("wb") as bulk:
                bulk.truncate(bulk_bytes // count)
        http = ORIGIN.format(port=self.port, body="x" * BODY_BYTES, folder=folder)
        self.process = start_nginx(folder / "nginx", http, self.port)


class Nginx:
    """`hops` nginx in a row; none: the origin itself."""

    def __init__(self, name: str, hops: int) -> None:
        self.name = name
        self.hops = hops
        self.started: list[Process] = []

    def unavailable(self) -> str | None:
        return None

    def start(self, folder: Path, origin: int) -> Running:
        # The first hop a visitor meets stands for our server, the next for the agent.
        port = origin
        proxies = {}
        for role in reversed(("server", "agent")[: self.hops]):
            upstream, port = port, free_port()
            http = HOP.format(port=port, upstream=upstream)
            proxies[role] = start_nginx(folder / role, http, port)
            self.started.append(proxies[role])
        return Running(Endpoint(port, "127.0.0.1"), proxies)


class ProxyEngine:
    """`proxy-engine run` and `proxy-engine connect` of a tree, as a user starts them."""

    def __init__(
        self, name: str, transport: str, run: Sequence[str] = (), root: Path = ROOT
    ) -> None:
        """run: more arguments for the server."""
        self.name = name
        self.root = root
        self.run = run
        self.transport = transport
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
        port, data = free_port(), folder / "data"
        server = self._start(
            folder / "server.log",
            *("run", "--listen", f"127.0.0.1:{port}", "--admin", f"127.0.0.1:{free_port()}"),
            *("--domain", "localhost", "--data-dir", str(data), *self.run),
        )
        server.wait_until(lambda: accepts_connections(port))
        token = self._output("token", "create", "--name", "bench", "--data-dir", str(data))
        agent = self._start(
            folder / "agent.log",
            *("connect", "--server", f"http://127.0.0.1:{port}", "--token", token),
            *("--http", f"bench=127.0.0.1:{origin}", "--transport", self.transport),
        )
        endpoint = Endpoint(port, f"bench.localhost:{port}")
        agent.wait_until(lambda: answers(endpoint))
        return Running(endpoint, {"server": server, "agent": agent})

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


def product_subjects() -> Sequence[Subject]:
    return (
        Nginx("direct", 0),
        Nginx("nginx", 1),
        Nginx("nginx-chain", 2),
        ProxyEngine("proxy-engine-tcp", "tcp"),
        ProxyEngine("proxy-engine-ws", "ws"),
        ProxyEngine("proxy-engine-w1", "tcp", ("--workers", "1")),
    )
