"""A server with TLS, an authority of its own, and the clients that everybody has."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.certificates import Authority, Pair
from tests.e2e.harness import Visitor
from tests.e2e.processes import TIMEOUT, Process, run
from tests.e2e.site import Site

DOMAIN = "example.test"
NAMES = (DOMAIN, f"*.{DOMAIN}", "127.0.0.1")


def put(pair: Pair, folder: Path, name: str = "server") -> list[str]:
    """Flags for this pair, as files."""
    certificate, key = pair.write(folder, name)
    return ["--tls-cert", str(certificate), "--tls-key", str(key)]


def replace(pair: Pair, certificate: Path, key: Path) -> None:
    """Put other files in the place of these, as tools do that are careful."""
    for path, data in ((certificate, pair.certificate), (key, pair.key)):
        fresh = path.with_suffix(".new")
        fresh.touch(mode=0o600)
        fresh.write_bytes(data)
        fresh.rename(path)


class TlsSite(Site):
    """A plain listener, `port`, and one with TLS, `tls_port`.

    Args:
        pair: of the server; by default a good one for DOMAIN, its tunnels and 127.0.0.1.
        files: a certificate and key that are there already, instead.
    """

    def __init__(
        self, folder: Path, *, authority: Authority | None = None, pair: Pair | None = None,
        files: tuple[Path, Path] | None = None,
        server_args: Sequence[str] = (), engine: dict[str, int] | None = None,
    ) -> None:  # fmt: skip
        self.folder = folder
        self.authority = authority or Authority()
        self.pair = pair or self.authority.issue(*NAMES)
        self.ca = self.authority.write(folder)
        self.certificate, self.key = files or self.pair.write(folder)
        super().__init__(
            folder / "data",
            engine=engine,
            server_args=[
                *("--domain", DOMAIN, "--listen", "http://127.0.0.1:0"),
                *("--tls-cert", str(self.certificate), "--tls-key", str(self.key)), *server_args,
            ],
        )  # fmt: skip
        shown = str(self.server.log("listening")["listen"])
        secret, self.plain = shown.split(",")
        assert secret.startswith("https://"), shown
        self.tls_port = int(secret.rpartition(":")[2])

    def agent_to(
        self, *args: str, port: int = 0, server: str = "", token: str = "", **environ: str
    ) -> Process:
        """An agent of the TLS listener that trusts the authority unless told otherwise."""
        trust = (
            []
            if any(word.startswith(("--ca", "--pin")) for word in args)
            else ["--ca", str(self.ca)]
        )
        agent = Process(
            "connect", "--server", server or f"https://127.0.0.1:{self.tls_port}", *trust,
            "--log-format", "json", *([f"--http=web=127.0.0.1:{port}"] if port else []), *args,
            PROXY_ENGINE_TOKEN=token or self.device_token, **environ,
        )  # fmt: skip
        self.processes.append(agent)
        self.agent = agent
        return agent

    def curl(
        self, *args: str, url: str = "", name: str = f"web.{DOMAIN}", ca: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """curl, to `name` on the TLS listener, trusting our authority alone."""
        return subprocess.run(
            [
                *("curl", "-sS", "--max-time", str(TIMEOUT), "--noproxy", "*"),
                *("--cacert", str(ca or self.ca)),
                *("--resolve", f"{name}:{self.tls_port}:127.0.0.1", *args),
                url or f"https://{name}:{self.tls_port}/kib",
            ],
            capture_output=True,
            text=True,
            errors="replace",
        )

    def s_client(self, *args: str, say: str = "Q\n") -> str:
        """What `openssl s_client` prints of a connection to the TLS listener."""
        done = subprocess.run(
            [
                *("openssl", "s_client", "-connect", f"127.0.0.1:{self.tls_port}"),
                *("-CAfile", str(self.ca), *args),
            ],
            input=say,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT,
        )
        return done.stdout + done.stderr

    def context(self, pair: Pair | None = None) -> ssl.SSLContext:
        """Of a visitor who trusts our authority, with this certificate."""
        context = ssl.create_default_context(cadata=self.authority.pem.decode())
        if pair is not None:
            context.load_cert_chain(*pair.write(self.folder, "visitor"))
        return context

    def tls_visitor(
        self, context: ssl.SSLContext | None = None, name: str = f"web.{DOMAIN}"
    ) -> TlsVisitor:
        return TlsVisitor(self.tls_port, context or self.context(), name)

    def hang_up(self) -> None:
        """SIGHUP."""
        os.kill(self.server.popen.pid, signal.SIGHUP)

    def command(self, *words: str) -> str:
        done = run(*words, "--data-dir", str(self.data_dir))
        assert done.returncode == 0, done.stderr
        return done.stdout


class TlsVisitor(Visitor):
    """The same, inside TLS."""

    def __init__(self, port: int, context: ssl.SSLContext, name: str) -> None:
        super().__init__(port)
        self.name = name
        self.socket: Any = context.wrap_socket(self.socket, server_hostname=name)

    @property
    def serial(self) -> int:
        """Of the certificate that the server has shown."""
        return int(self.socket.getpeercert()["serialNumber"], 16)

    def get(self, path: str = "/kib") -> int:
        """The status of a request on this connection."""
        self.send(f"GET {path} HTTP/1.1\r\nHost: {self.name}\r\n\r\n".encode())
        return self.response().status

    def finish(self) -> None:
        raise NotImplementedError("Python can not end one direction of TLS")

    def reset(self) -> None:
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
