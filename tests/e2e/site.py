"""A Pair whose processes are killed, restarted and weighed."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.e2e.harness import Pair, Response, Visitor, options, wait_until
from tests.e2e.processes import Process, run

FD_LOOKS = 5


class Site(Pair):
    """Several agents, a server that comes back on its old ports."""

    def __init__(
        self, data_dir: Path, *, engine: dict[str, int] | None = None,
        server_args: Sequence[str] = (),
    ) -> None:  # fmt: skip
        super().__init__(data_dir, engine=engine, server_args=server_args)
        self.server_args = tuple(server_args)
        self.processes: list[Process] = [self.server]

    def restart_server(self) -> Process:
        self.server = Process(
            "run", "--listen", f"127.0.0.1:{self.port}", "--admin",
            f"127.0.0.1:{self.admin_port}", "--data-dir", str(self.data_dir),
            "--log-format", "json", *options(self.engine), *self.server_args,
        )  # fmt: skip
        self.processes.append(self.server)
        self.server.log("listening")
        return self.server

    def connect(self, *args: Any, **keywords: Any) -> Process:
        agent = super().connect(*args, **keywords)
        self.processes.append(agent)
        return agent

    def begin(self, path: str, *fields: str, method: str = "GET", body: bytes = b"") -> Visitor:
        """A visitor that has asked the tunnel web; the answer is still to come."""
        visitor = self.visitor()
        lines = "".join(f"{line}\r\n" for line in ("Host: web.localhost", *fields))
        visitor.send(f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode() + body)
        return visitor

    def begin_download(self, path: str) -> tuple[Visitor, Response]:
        """... of which some has come and most has not; with the head of its answer."""
        visitor = self.begin(path)
        head = visitor.head()
        assert head.status == 200
        visitor.take(64 * 1024)
        return visitor, head

    def make_token(self, name: str, *args: str) -> str:
        made = run("token", "create", "--name", name, "--data-dir", str(self.data_dir), *args)
        assert made.returncode == 0, made.stderr
        return made.stdout.strip()

    def is_online(self, tunnel: str) -> bool:
        tunnels = self.api("/api/v1/tunnels")["items"]
        return any(each["name"] == tunnel and each["is_online"] for each in tunnels)

    def wait_online(self, tunnel: str, online: bool = True) -> None:
        wait_until(lambda: self.is_online(tunnel) is online)

    def fds(self) -> list[int]:
        """Open files of server and agent, but for their links: a busy agent makes more.

        The least of some looks: the connection that has asked for the counters may still be open.
        """
        assert self.agent is not None
        looks = []
        for _ in range(FD_LOOKS):
            stats = self.stats()
            links = stats["links_opened"] - stats["links_closed"]
            time.sleep(0.01)
            looks.append([fd_count(each.popen.pid) - links for each in (self.server, self.agent)])
        return [min(each) for each in zip(*looks, strict=True)]

    def output(self) -> str:
        """Everything any process of this site has said so far."""
        return "\n".join(line for each in self.processes for line in [*each.out, *each.err])

    def close(self) -> None:
        for process in reversed(self.processes):
            process.end()


def rss_kib(pid: int) -> int:
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        for line in status:
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
    raise AssertionError(f"process {pid} is gone")


def fd_count(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


class Growth:
    """The largest resident memory each process reached, above where it started."""

    def __init__(self, pids: Sequence[int]) -> None:
        self.before = {pid: rss_kib(pid) for pid in pids}
        self.peak = dict(self.before)

    def look(self) -> None:
        for pid in self.peak:
            self.peak[pid] = max(self.peak[pid], rss_kib(pid))

    @property
    def mib(self) -> list[float]:
        return [(self.peak[pid] - self.before[pid]) / 1024 for pid in self.peak]


@contextmanager
def watch_memory(*processes: Process) -> Iterator[Growth]:
    """Sample the memory of these processes all the while."""
    growth = Growth([process.popen.pid for process in processes])
    done = threading.Event()

    def sample() -> None:
        while not done.wait(0.02):
            growth.look()

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield growth
    finally:
        done.set()
        thread.join()
        growth.look()
