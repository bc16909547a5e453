"""The clients: wrk for requests, a plain socket for bulk."""

from __future__ import annotations

import json
import os
import re
import resource
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.parts.processes import BenchmarkError, CpuTime

REPORT = Path(__file__).with_name("wrk_report.lua")
RECEIVE_BYTES = 1 << 20
STALL_SECONDS = 30.0
BUSY_TRIES = 20
IPERF_BUSY = ("busy", "control message")  # in what it says where the run before has not ended yet


@dataclass(frozen=True)
class Endpoint:
    """Where a subject answers on loopback, and by which name."""

    port: int
    host: str
    scheme: str = "http"


@dataclass(frozen=True)
class WrkResult:
    requests: int
    seconds: float
    size: int  # bytes received, heads and all
    p50_us: int
    p99_us: int
    max_us: int
    errors: int  # statuses of 400 and above, and socket errors
    cpu: CpuTime  # of wrk itself


@dataclass(frozen=True)
class BulkResult:
    size: int  # body bytes of all downloads
    seconds: float
    cpu: CpuTime  # of this process


def run_wrk(
    endpoint: Endpoint,
    connections: int,
    seconds: float,
    path: str = "/",
    *,
    upload: int = 0,
    is_closing: bool = False,
) -> WrkResult:
    """upload: bytes of a body that is posted. is_closing: a connection for every request."""
    # wrk takes whole seconds only. What waits long is no error: the percentiles show it.
    command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--latency"]
    command += ["--timeout", "30s", "-s", str(REPORT), "-H", f"Host: {endpoint.host}"]
    command += ["-H", "Connection: close"] if is_closing else []
    command += [f"{endpoint.scheme}://127.0.0.1:{endpoint.port}{path}"]
    command += ["--", str(upload)] if upload else []
    popen = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert popen.stdout is not None
    output = popen.stdout.read().decode(errors="replace")
    _, status, usage = os.wait4(popen.pid, 0)
    popen.returncode = os.waitstatus_to_exitcode(status)
    match = re.search(r"^RESULT (\{.*\})$", output, re.MULTILINE)
    if popen.returncode != 0 or match is None:
        raise BenchmarkError(f"{' '.join(command)} failed: {' | '.join(output.splitlines()[-5:])}")
    report = json.loads(match[1])
    return WrkResult(
        requests=report["requests"],
        seconds=report["duration_us"] / 1e6,
        size=report["bytes"],
        p50_us=report["p50_us"],
        p99_us=report["p99_us"],
        max_us=report["max_us"],
        errors=report["bad_statuses"] + report["socket_errors"],
        cpu=CpuTime(usage.ru_utime, usage.ru_stime),
    )


def run_iperf(port: int, *arguments: str) -> dict[str, Any]:
    """What iperf3 says at its end. Raises: BenchmarkError."""
    for _ in range(BUSY_TRIES):
        done = subprocess.run(
            ["iperf3", "-J", "-c", "127.0.0.1", "-p", str(port), *arguments],
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        found: dict[str, Any] = json.loads(done.stdout)
        # What the buffers of the run before still hold keeps its server busy for a moment.
        if not any(each in found.get("error", "") for each in IPERF_BUSY):
            break
        time.sleep(0.5)
    if "error" in found:
        raise BenchmarkError(f"iperf3: {found['error']}")
    end: dict[str, Any] = found["end"]
    return end


def download_together(endpoint: Endpoint, path: str, streams: int) -> BulkResult:
    """The same download on so many connections at once, a thread for each."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    started = time.monotonic()
    with ThreadPoolExecutor(streams) as threads:
        size = sum(threads.map(lambda _: download(endpoint, path), range(streams)))
    seconds = time.monotonic() - started
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = CpuTime(after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime)
    return BulkResult(size, seconds, cpu)


def download(endpoint: Endpoint, path: str) -> int:
    """Read one response to its end and throw the body away; its size.

    MSG_TRUNC makes the kernel drop what arrived instead of copying it out, so that
    the client is never what a fast proxy waits for.
    """
    with socket.create_connection(("127.0.0.1", endpoint.port), timeout=STALL_SECONDS) as peer:
        request = f"GET {path} HTTP/1.1\r\nHost: {endpoint.host}\r\nConnection: close\r\n\r\n"
        peer.sendall(request.encode())
        head = b""
        while b"\r\n\r\n" not in head:
            piece = peer.recv(4096)
            if not piece:
                raise BenchmarkError(f"{endpoint.host}{path} closed before its head was complete")
            head += piece
        head, _, body = head.partition(b"\r\n\r\n")
        length = re.search(rb"(?mi)^content-length: *(\d+)\r?$", head)
        if not re.match(rb"HTTP/1\.1 200 ", head) or length is None:
            raise BenchmarkError(f"{endpoint.host}{path} answered {head[:60]!r}")
        size = int(length[1])
        missing = size - len(body)
        sink = bytearray(RECEIVE_BYTES)
        while missing:
            count = peer.recv_into(sink, min(missing, RECEIVE_BYTES), socket.MSG_TRUNC)
            if count == 0:
                raise BenchmarkError(f"{endpoint.host}{path} was cut, {missing} bytes missing")
            missing -= count
        return size


def answers(endpoint: Endpoint) -> bool:
    """Does a request get a 200 already?"""
    try:
        with socket.create_connection(("127.0.0.1", endpoint.port), timeout=1) as peer:
            request = f"GET / HTTP/1.1\r\nHost: {endpoint.host}\r\nConnection: close\r\n\r\n"
            peer.sendall(request.encode())
            return peer.recv(64).startswith(b"HTTP/1.1 200 ")
    except OSError:
        return False
