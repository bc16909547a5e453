"""What TLS costs: CPU of a handshake, CPU of a GB, memory of an idle link.

    python benchmarks/load/tls.py [--smoke]

The engine stands alone here, without its control plane: one worker that serves and one that
is the agent, before an origin. A second process is the client, by Python's ssl. Beside it
nginx, one worker, with the same certificate before the same origin. CPU time is that of the
engine's threads, or of nginx's processes; samples are interleaved. A handshake's figure is with
its connection and one small request; `plain` is those two without TLS, to be taken off.
"""

from __future__ import annotations

import argparse
import ctypes
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Run as a file, this folder is on the path and the root is not.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.parts.processes import BenchmarkError, Process, free_port, run_seconds
from benchmarks.parts.results import emit
from benchmarks.parts.rounds import interleaved
from benchmarks.parts.samples import spread
from benchmarks.parts.subjects import ROOT, Certificate, Origin, hop, nginx_path, start_nginx

sys.path[:0] = [str(ROOT / "engine"), str(ROOT / "proxy")]

from proxy_engine_core import core  # noqa: E402  # only now can it be found

NAME = "web.test"
REQUEST = f"GET / HTTP/1.1\r\nHost: {NAME}\r\n\r\n".encode()
LINK_REQUEST = b"GET /_proxy/link HTTP/1.1\r\nHost: x\r\n\r\n"
ACCEPTED = b"HTTP/1.1 101 Switching Protocols\r\nProxy-Engine-Window: 262144\r\n\r\n"
LINK_BUDGET_KIB = 20.0
GB = 1e9
EXIT_FAILED = 1


# --- the client, a process of its own -----------------------------------------------------------


def context_of(folder: Path, version: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(folder / "web.pem"))
    context.maximum_version = ssl.TLSVersion[f"TLSv1_{version[2:]}"]
    context.minimum_version = context.maximum_version
    return context


def connect(port: int, context: ssl.SSLContext | None, session: Any = None) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port), 60)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if context is None:
        return sock
    return context.wrap_socket(sock, server_hostname=NAME, session=session)


def answer(sock: socket.socket) -> None:
    sock.sendall(REQUEST)
    if not sock.recv(65536).startswith(b"HTTP/1.1 200 "):
        raise BenchmarkError("not the answer that was expected")


def shake_hands(port: int, context: ssl.SSLContext | None, count: int, resumes: bool) -> None:
    session = None
    for _ in range(count):
        with connect(port, context, session) as sock:
            answer(sock)
            if resumes and isinstance(sock, ssl.SSLSocket):
                session = sock.session


def download(port: int, context: ssl.SSLContext | None, size: int) -> None:
    with connect(port, context) as sock:
        sock.sendall(REQUEST.replace(b"/ ", b"/bulk1 ", 1))
        buffer = bytearray(262144)
        left = size
        while left > 0:
            got = sock.recv_into(buffer)
            if got == 0:
                raise BenchmarkError("the download ended early")
            left -= got


def hold(port: int, context: ssl.SSLContext | None, count: int) -> None:
    """Links that are idle until this process is ended."""
    held = []
    for _ in range(count):
        sock = connect(port, context)
        sock.sendall(LINK_REQUEST)
        if not sock.recv(4096).startswith(b"HTTP/1.1 101 "):
            raise BenchmarkError("a link was refused")
        held.append(sock)
    print("held", flush=True)
    sys.stdin.read()


def client(arguments: list[str]) -> None:
    what, port, folder, version, count, resumes = arguments
    context = None if version == "plain" else context_of(Path(folder), version)
    if what == "handshakes":
        shake_hands(int(port), context, int(count), resumes == "resumed")
    elif what == "download":
        download(int(port), context, int(count))
    else:
        hold(int(port), context, int(count))


# --- what is measured -----------------------------------------------------------------------------


class Ours:
    name = "proxy-engine"

    def __init__(self, folder: Path, origin: int) -> None:
        identity = ((), (folder / "web.pem").read_bytes(), (folder / "web.key").read_bytes())
        tls = core.TlsServer([identity], minimum="1.2")
        self.server, self.agent = core.Engine("server"), core.Engine("agent")
        self.ports = {
            "plain": self.server.listen("127.0.0.1", 0),
            "tls": self.server.listen("127.0.0.1", 0, tls=tls),
        }
        self.server.start()
        self.agent.start()
        self.agent.targets_apply([("web", "127.0.0.1", origin)])
        self.agent.dial("127.0.0.1", self.ports["plain"], LINK_REQUEST, carrier="raw")
        link = 0
        deadline = time.monotonic() + 10
        while not link:
            if time.monotonic() > deadline:
                raise BenchmarkError("the engine's own link did not come up")
            link = self.admit()
        self.server.routes_apply([("set", "default", 1, (link,), "web")])

    def admit(self) -> int:
        """Accept who asks for a link; the last that came up."""
        link = 0
        self.agent.poll()
        for event in self.server.poll():
            if event[0] == core.EVENT_AUTH:
                self.server.auth_reply(event[1], ACCEPTED, accept=True, preamble=True)
            elif event[0] == core.EVENT_LINK_UP:
                link = event[1]
        return link

    def cpu_us(self) -> float:
        return float(self.server.stats()["cpu_us"])

    def stop(self) -> None:
        self.agent.stop()
        self.server.stop()


class Nginx:
    name = "nginx"

    def __init__(self, folder: Path, origin: int) -> None:
        self.ports = {"plain": free_port(), "tls": free_port()}
        plain = hop(self.ports["plain"], origin)
        secure = hop(self.ports["tls"], origin, Certificate(folder / "web.pem", folder / "web.key"))
        secure = secure[secure.index("server {") :]
        self.process = start_nginx(folder / "nginx-tls", plain + secure, self.ports["plain"])

    def admit(self) -> int:
        return 0

    def cpu_us(self) -> float:
        return run_seconds(self.process.pid) * 1e6

    def stop(self) -> None:
        self.process.stop()


Subject = Ours | Nginx


def run_client(
    subject: Subject, folder: Path, what: str, version: str, count: int, resumes: bool = False
) -> None:
    port = subject.ports["plain" if version == "plain" else "tls"]
    done = subprocess.run(
        [sys.executable, __file__, "--client", what, str(port), str(folder), version, str(count),
         "resumed" if resumes else "full"],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    if done.returncode:
        raise BenchmarkError((done.stderr.strip().splitlines() or ["the client failed"])[-1])


def report(
    what: str,
    subjects: list[Subject],
    sample: Callable[[Subject], float],
    unit: str,
    chosen: argparse.Namespace,
) -> dict[str, float]:
    """Measure what a connection or a GB costs each, in turns; medians by name."""
    by_name = {subject.name: subject for subject in subjects}
    rounds = interleaved(list(by_name), chosen.rounds, lambda name: {"cost": sample(by_name[name])})
    for name, figures in rounds.items():
        emit(chosen.json, f"tls-{what}", name, figures)
    found = {name: [each["cost"] for each in figures] for name, figures in rounds.items()}
    line = f"  {what:28}"
    for name, samples in found.items():
        middle, least, most = spread(samples)
        line += f"  {name} {middle:8.2f} [{least:.2f}-{most:.2f}]"
    print(f"{line} {unit}", flush=True)
    return {name: spread(samples)[0] for name, samples in found.items()}


def handshakes(subjects: list[Subject], folder: Path, chosen: argparse.Namespace) -> None:
    print("CPU us of a connection with its handshake and one request")
    costs: dict[str, dict[str, float]] = {}
    for version, resumes in (
        ("plain", False), ("1.3", False), ("1.3", True), ("1.2", False), ("1.2", True),
    ):  # fmt: skip

        def sample(subject: Subject, version: str = version, resumes: bool = resumes) -> float:
            before = subject.cpu_us()
            run_client(subject, folder, "handshakes", version, chosen.handshakes, resumes)
            return (subject.cpu_us() - before) / chosen.handshakes

        what = version + (" resumed" if resumes else "")
        costs[what] = report(what, subjects, sample, "us", chosen)
    plain = costs.pop("plain")
    print("handshakes a CPU second: what is left of it without the connection and its request")
    for what, found in costs.items():
        rates = {name: 1e6 / max(cost - plain[name], 1) for name, cost in found.items()}
        print(f"  {what:28}" + "".join(f"  {name} {rate:8,.0f}" for name, rate in rates.items()))


def bulk(subjects: list[Subject], folder: Path, chosen: argparse.Namespace) -> None:
    print("CPU s for a GB to a visitor; ours is the server's half of the tunnel")
    for version in ("plain", "1.3", "1.2"):

        def sample(subject: Subject, version: str = version) -> float:
            before = subject.cpu_us()
            run_client(subject, folder, "download", version, chosen.bulk)
            return (subject.cpu_us() - before) / 1e6 / (chosen.bulk / GB)

        report(f"bulk {version}", subjects, sample, "s/GB", chosen)


class Malloc(ctypes.Structure):
    """glibc's struct mallinfo2."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks",
                     "uordblks", "fordblks", "keepcost")
    ]  # fmt: skip


def used_kib() -> float:
    """What is allocated in this process: what was freed before does not blur it, as in RSS."""
    mallinfo = ctypes.CDLL(None).mallinfo2
    mallinfo.restype = Malloc
    found = mallinfo()
    return float(found.uordblks + found.hblkhd) / 1024


def idle_links(ours: Ours, folder: Path, chosen: argparse.Namespace) -> bool:
    """Whether they are within the budget."""
    print("memory of an idle link in the engine")
    is_within = True
    for version in ("plain", "1.3", "1.2"):
        before = used_kib()
        port = ours.ports["plain" if version == "plain" else "tls"]
        holder = subprocess.Popen(
            [sys.executable, __file__, "--client", "hold", str(port), str(folder), version,
             str(chosen.links), "full"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        try:
            assert holder.stdout is not None
            up, deadline = 0, time.monotonic() + 120
            while up < chosen.links:
                if time.monotonic() > deadline or holder.poll() is not None:
                    raise BenchmarkError(f"only {up} links came up")
                up = ours.server.stats()["links_opened"] - ours.server.stats()["links_closed"] - 1
                ours.admit()
                time.sleep(0.001)
            each = (used_kib() - before) / chosen.links
        finally:
            holder.kill()
            holder.wait()
        print(f"  {version:28}  {each:.1f} KiB", flush=True)
        emit(chosen.json, f"tls-idle link {version}", "proxy-engine", [{"kib_a_link": each}])
        is_within = is_within and each < LINK_BUDGET_KIB
    return is_within


def make_certificate(folder: Path) -> None:
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-days", "2", "-subj", f"/CN={NAME}", "-addext", f"subjectAltName=DNS:{NAME}",
         "-keyout", str(folder / "web.key"), "-out", str(folder / "web.pem")],
        check=True, capture_output=True,
    )  # fmt: skip


def run(folder: Path, chosen: argparse.Namespace) -> int:
    make_certificate(folder)
    origin = Origin(folder / "origin", chosen.bulk, [1])
    started: list[Subject | Process] = [origin.process]
    try:
        ours = Ours(folder, origin.port)
        started.append(ours)
        nginx = Nginx(folder, origin.port)
        started.append(nginx)
        print(f"{core.TLS_LIBRARY}; ECDSA P-256; AES-128-GCM; median [least-most] of rounds")
        subjects: list[Subject] = [ours, nginx]
        is_within = idle_links(ours, folder, chosen)
        handshakes(subjects, folder, chosen)
        bulk(subjects, folder, chosen)
    finally:
        for each in reversed(started):
            each.stop()
    if chosen.check and not is_within:
        print(f"over budget: {LINK_BUDGET_KIB:.0f} KiB a link", file=sys.stderr)
        return EXIT_FAILED
    return 0


def main() -> int:
    if sys.argv[1:2] == ["--client"]:
        client(sys.argv[2:])
        return 0
    parser = argparse.ArgumentParser(description="What TLS costs.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", metavar="FILE", help="add samples to this file")
    parser.add_argument("--handshakes", type=int, default=500, help="of a sample")
    parser.add_argument("--bulk", type=int, default=1_000_000_000, help="bytes of a sample")
    parser.add_argument("--links", type=int, default=1000)
    parser.add_argument("--check", action="store_true", help="exit 1 when over the budget")
    parser.add_argument("--smoke", action="store_true", help="does it still run?")
    chosen = parser.parse_args()
    if chosen.smoke:
        chosen.rounds, chosen.handshakes, chosen.bulk, chosen.links = 1, 20, 10_000_000, 20
    if nginx_path() is None or not core.TLS_LIBRARY:
        print("no nginx, or an engine without TLS: nothing is measured", file=sys.stderr)
        return EXIT_FAILED
    with tempfile.TemporaryDirectory(prefix="proxy-engine-tls-") as folder:
        try:
            return run(Path(folder), chosen)
        except (BenchmarkError, OSError, subprocess.SubprocessError) as error:
            print(f"failed: {error}", file=sys.stderr)
            return EXIT_FAILED


if __name__ == "__main__":
    sys.exit(main())
