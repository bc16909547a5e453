"""A Redis of the test's own: Debian's redis-server, as a process to be stopped and stalled."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ports import free_port

START_SECONDS = 20.0


class RedisServer:
    """start() after stop() takes the same port; nothing is kept on disk."""

    def __init__(self, folder: Path, *options: str) -> None:
        self._port_option = "--tls-port" if "--tls-cert-file" in options else "--port"
        self._folder = folder
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> None:
        self._process = subprocess.Popen(
            [
                *("redis-server", "--bind", "127.0.0.1", self._port_option, str(self.port)),
                *("--save", "", "--appendonly", "no", "--dir", str(self._folder)),
                *self._options,
            ],
            stdout=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                assert self._process.poll() is None, "redis-server did not start"
                assert time.monotonic() < deadline
                time.sleep(0.02)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stall(self) -> None:
        """Connections stay, and no answer comes."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)

    def cli(self, *words: str) -> str:
        """What redis-cli prints."""
        command = ["redis-cli", "-p", str(self.port), *words]
        done = subprocess.run(command, check=True, capture_output=True)
        return done.stdout.decode(errors="replace").strip()


def redis_server(folder: Path, *options: str) -> Iterator[RedisServer]:
    """A running one; skips where there can be none."""
    if shutil.which("redis-server") is None:
        pytest.skip("no redis-server here")
    server = RedisServer(folder, *options)
    server.start()
    try:
        yield server
    finally:
        server.stop()
