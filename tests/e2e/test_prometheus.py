"""A real Prometheus, with the example of contrib/, beside a server under traffic."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.harness import wait_until
from tests.e2e.processes import run
from tests.e2e.site import Site
from tests.e2e.target import Target
from tests.e2e.test_tcp import connect, echo
from tests.ports import free_port
from tests.unit.proxy.test_contrib import CONTRIB, DASHBOARD, queries_of

RANGE = "20s"  # of rates; a scrape may take as long as two are apart, 2 s

pytestmark = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="no prometheus (Debian: apt-get install prometheus)"
)


class Prometheus:
    def __init__(self, folder: Path, admin_port: int, token: str) -> None:
        shutil.copytree(CONTRIB / "prometheus", folder)
        (folder / "proxy-engine.token").write_text(token)
        config = (folder / "prometheus.yml").read_text()
        for old, new in (
            ("127.0.0.1:8081", f"127.0.0.1:{admin_port}"),
            ("scrape_interval: 15s", "scrape_interval: 2s\n  evaluation_interval: 500ms"),
        ):
            assert old in config
            config = config.replace(old, new)
        (folder / "prometheus.yml").write_text(config)
        self._port = free_port()
        self._log = (folder / "log").open("w")
        self._process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{self._port}",
            ],
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "GOMAXPROCS": "1"},
        )

    def ask(self, path: str, **query: str) -> Any:
        url = f"http://127.0.0.1:{self._port}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=20) as answer:
            return json.load(answer)["data"]

    def is_scraping(self) -> bool:
        try:
            return any(each["health"] == "up" for each in self.ask("targets")["activeTargets"])
        except OSError:
            return False

    def values(self, query: str) -> list[float]:
        return [float(each["value"][1]) for each in self.ask("query", query=query)["result"]]

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(20)
        self._log.close()


@contextmanager
def traffic(site: Site, tcp_port: int) -> Iterator[None]:
    """Of all that panels show: requests that go well, that find nothing, and refused logins."""
    done = threading.Event()

    def visit() -> None:
        while not done.wait(1.2):  # links are pinged in between
            site.get("web", "/kib")
            site.get("nobody")
            site.get("web", "/bulk?n=100000")
            with connect(tcp_port) as visitor:
                visitor.sendall(b"x" * 1000)
            run_login(site)

    thread = threading.Thread(target=visit)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def run_login(site: Site) -> None:
    with site.visitor() as visitor:
        visitor.send(
            b"GET /_proxy/link HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n"
            b"Upgrade: proxy-engine-yamux\r\nAuthorization: Bearer wrong\r\n\r\n"
        )
        visitor.response()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    args = ["--tcp-ports", "1024-65535", "--workers", "2", "--login-failures", "0"]
    site = Site(tmp_path / "data", server_args=args, engine={"ping_interval_ms": 1000})
    yield site
    site.close()


def test_no_panel_is_empty_and_no_alert_fires(site: Site, tmp_path: Path) -> None:
    made = run(
        *("token", "create", "--name", "prometheus", "--kind", "admin", "--scope", "read-only"),
        *("--data-dir", str(site.data_dir)),
    )
    assert made.returncode == 0, made.stderr
    prometheus = Prometheus(tmp_path / "prometheus", site.admin_port, made.stdout.strip())
    try:
        with Target() as target, echo() as echo_port:
            tcp_port = free_port()
            site.connect({"web": target.port}, f"--tcp=db:{tcp_port}=127.0.0.1:{echo_port}")
            wait_until(prometheus.is_scraping)
            queries = queries_of(json.loads(DASHBOARD.read_text()), RANGE)
            with traffic(site, tcp_port):
                empty = dict.fromkeys(queries)
                until = time.monotonic() + 60
                while empty and time.monotonic() < until:
                    time.sleep(1)
                    for query in list(empty):
                        found = prometheus.values(query)
                        if any(math.isfinite(value) for value in found):
                            del empty[query]
                assert not empty, "\n".join(empty)
                groups = prometheus.ask("rules")["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        assert len(rules) >= 16
        for rule in rules:
            if rule["name"] == "ProxyEngineLoginsFail":
                continue  # by how many there were, which is how fast this machine is
            assert (rule["health"], rule["state"]) == ("ok", "inactive"), rule
        assert prometheus.values("min_over_time(up[1m])") == [1.0]
    finally:
        prometheus.close()
