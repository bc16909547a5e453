"""What ours is measured beside: nginx and HAProxy, one hop and two, and aiohttp.

Every subject stands before the same origin, one nginx worker. References are given
what a careful operator would give them: keep-alive to the upstream, no access log,
large buffers and no temporary files for bulk.
"""

from __future__ import annotations

import importlib.util
import pwd
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from benchmarks.parts.client import Endpoint
from benchmarks.parts.processes import BenchmarkError, Process, accepts_connections, free_port

ROOT = Path(__file__).resolve().parents[2]
PEERS = ROOT / "benchmarks" / "peers"
BODY_BYTES = 1024
CONNECTIONS = 4096  # of an nginx
CONNECTIONS_MANY = 18_000  # of one before which thousands of visitors stand at once
BODY_SIZES = (64 << 10, 10_000_000)  # what the origin has as files

NGINX_COMMON = """
daemon off;
{user}
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections {connections}; }}
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
        location ~ ^/(bulk|body) {{
            default_type application/octet-stream;
            root {folder};
            open_file_cache max=64;
        }}
    }}
"""

HOP = """
    map $http_upgrade $upgrade_connection {{ default upgrade; "" ""; }}
    upstream target {{
        server 127.0.0.1:{upstream};
        keepalive 1024;
        keepalive_requests 1000000000;
    }}
    server {{
        {listen}
        client_max_body_size 0;
        proxy_http_version 1.1;
        proxy_set_header Connection $upgrade_connection;
        proxy_set_header Upgrade $http_upgrade;
        proxy_set_header Host $host;
        proxy_set_header X-Forwarded-For $remote_addr;
        location / {{ proxy_pass http://target; }}
        location /events {{ proxy_pass http://target; proxy_buffering off; proxy_read_timeout 1h; }}
        location /upload {{ proxy_pass http://target; proxy_request_buffering off; }}
        location ~ ^/(bulk|body) {{
            proxy_pass http://target;
            proxy_buffer_size 64k;
            proxy_buffers 16 64k;
            proxy_busy_buffers_size 256k;
            proxy_max_temp_file_size 0;
        }}
    }}
"""


def hop(port: int, upstream: int, certificate: Certificate | None = None) -> str:
    """The http block of one hop, from that port to that one."""
    listen = f"listen 127.0.0.1:{port} backlog=4096;"
    if certificate is not None:
        listen = (
            f"listen 127.0.0.1:{port} ssl backlog=4096; ssl_certificate {certificate.cert};"
            f" ssl_certificate_key {certificate.key}; ssl_protocols TLSv1.2 TLSv1.3;"
            " ssl_buffer_size 16k; ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;"
        )
    return HOP.format(listen=listen, upstream=upstream)


def nginx_path() -> str | None:
    # Debian keeps it in sbin, which is not on everybody's PATH.
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


def haproxy_path() -> str | None:
    return shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin")


def filled(template: str, folder: Path, **values: int) -> str:
    """The path of a configuration of benchmarks/peers with these values in it."""
    text = (PEERS / template).read_text()
    for name, value in values.items():
        text = text.replace(f"@{name.upper()}@", str(value))
    made = folder / f"{len(list(folder.iterdir()))}-{template}"
    made.write_text(text)
    return str(made)


def start_nginx(folder: Path, http: str, port: int, connections: int = CONNECTIONS) -> Process:
    """connections: at most, to visitors and to the next hop; it takes memory for all at once."""
    folder.mkdir(parents=True)
    # As root, workers would become www-data and could not read our folder.
    user = f"user {pwd.getpwuid(0).pw_name};" if Path("/proc/self").stat().st_uid == 0 else ""
    config = folder / "nginx.conf"
    config.write_text(
        NGINX_COMMON.format(folder=folder, http=http, user=user, connections=connections)
    )
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
    unused_kib: int | None = None  # of the proxies, before those counted; kept by who looked


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


def body_path(size: int) -> str:
    """Of a response with that many bytes."""
    return "/" if size == BODY_BYTES else f"/body{size}"


class Origin:
    """One nginx worker: 1 KiB from memory, or a large file by sendfile.

    The files are shares of `bulk_bytes`, for so many downloads at the same time.
    """

    def __init__(self, folder: Path, bulk_bytes: int, streams: Sequence[int]) -> None:
        self.port = free_port()
        folder.mkdir(parents=True)
        sizes = {bulk_path(count): bulk_bytes // count for count in streams}
        sizes |= {body_path(size): size for size in BODY_SIZES}
        for path, size in sizes.items():
            with (folder / path.strip("/")).open("wb") as file:
                file.truncate(size)
        http = ORIGIN.format(port=self.port, body="x" * BODY_BYTES, folder=folder)
        self.process = start_nginx(folder / "nginx", http, self.port, CONNECTIONS_MANY)


@dataclass(frozen=True)
class Certificate:
    """Of a server that speaks TLS to visitors; self-signed, as none of the clients here cares."""

    cert: Path
    key: Path

    @classmethod
    def make(cls, folder: Path) -> Certificate:
        """Raises: BenchmarkError."""
        made = cls(folder / "web.pem", folder / "web.key")
        done = subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
             "-nodes", "-days", "2", "-subj", "/CN=bench.localhost",
             "-addext", "subjectAltName=DNS:bench.localhost,DNS:localhost",
             "-keyout", str(made.key), "-out", str(made.cert)],
            capture_output=True, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise BenchmarkError("openssl made no certificate")
        return made


class Nginx:
    """`hops` nginx in a row; none: the origin itself. With a certificate the first speaks TLS."""

    def __init__(
        self,
        name: str,
        hops: int,
        certificate: Certificate | None = None,
        connections: int = CONNECTIONS,
    ) -> None:
        self.name = name
        self.hops = hops
        self.certificate = certificate
        self.connections = connections
        self.started: list[Process] = []

    def unavailable(self) -> str | None:
        return None

    def start(self, folder: Path, origin: int) -> Running:
        # The first hop a visitor meets stands for our server, the next for the agent.
        port = origin
        proxies = {}
        for role in reversed(("server", "agent")[: self.hops]):
            upstream, port = port, free_port()
            http = hop(port, upstream, self.certificate if role == "server" else None)
            proxies[role] = start_nginx(folder / role, http, port, self.connections)
            self.started.append(proxies[role])
        scheme = "http" if self.certificate is None else "https"
        return Running(Endpoint(port, "127.0.0.1", scheme), proxies)


class HaProxy:
    """`hops` HAProxy in a row, HTTP mode, connections to the target reused."""

    def __init__(self, name: str, hops: int) -> None:
        self.name = name
        self.hops = hops
        self.started: list[Process] = []

    def unavailable(self) -> str | None:
        return None if haproxy_path() else "not installed: apt-get install haproxy"

    def start(self, folder: Path, origin: int) -> Running:
        folder.mkdir(parents=True)
        path, port, proxies = haproxy_path(), origin, {}
        assert path is not None
        for role in reversed(("server", "agent")[: self.hops]):
            upstream, port = port, free_port()
            config = filled("haproxy-http.cfg", folder, listen=port, target=upstream)
            proxies[role] = Process([path, "-f", config], folder / f"{role}.log")
            self.started.append(proxies[role])
            bound = port
            proxies[role].wait_until(lambda: accepts_connections(bound))  # noqa: B023
        return Running(Endpoint(port, "127.0.0.1"), proxies)


class AiohttpProxy:
    """One hop as a Python programmer would write it, on uvloop."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.started: list[Process] = []

    def unavailable(self) -> str | None:
        return None if importlib.util.find_spec("aiohttp") else "aiohttp is not installed"

    def start(self, folder: Path, origin: int) -> Running:
        folder.mkdir(parents=True)
        port = free_port()
        program = str(Path(__file__).with_name("aiohttp_proxy.py"))
        process = Process([sys.executable, program, str(port), str(origin)], folder / "proxy.log")
        self.started.append(process)
        process.wait_until(lambda: accepts_connections(port))
        return Running(Endpoint(port, "127.0.0.1"), {"server": process})
