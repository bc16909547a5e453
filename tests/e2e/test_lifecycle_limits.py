"""When file descriptors or stream ids run out, the service goes on."""

from __future__ import annotations

import os
import select
import stat
import sys
import time
from pathlib import Path

import pytest

from tests.e2e.fixtures import target_of_file
from tests.e2e.harness import wait_until
from tests.e2e.processes import TIMEOUT
from tests.e2e.site import Site
from tests.e2e.target import TargetProcess

CLIENTS = 200
FILES = 64
TICK = os.sysconf("SC_CLK_TCK")


target = target_of_file()


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def test_a_server_without_file_descriptors_waits_and_goes_on(
    target: TargetProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited = tmp_path / "limited"
    limited.write_text(f'#!/bin/sh\nulimit -n {FILES}\nexec {sys.executable} "$@"\n')
    limited.chmod(limited.stat().st_mode | stat.S_IXUSR)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", str(limited))
        site = Site(tmp_path / "data", server_args=("--workers", "2"))  # each has some files
    try:
        site.connect({"web": target.port})
        visitors = [site.visitor() for _ in range(CLIENTS)]  # most of them only in the kernel
        for visitor in visitors:
            visitor.send(b"GET /kib HTTP/1.1\r\nHost: web.localhost\r\n\r\n")
        site.server.log("files short: new connections wait")
        before, started = cpu_seconds(site.server.popen.pid), time.monotonic()
        # The admin API has what is left of them.
        wait_until(lambda: site.stats()["files_short"] and time.monotonic() > started + 1.5)
        share = (cpu_seconds(site.server.popen.pid) - before) / (time.monotonic() - started)
        assert share < 0.5, f"{share:.0%} of a CPU for waiting"
        # Who leaves makes room for who waits; in the end everybody was answered.
        waiting = {visitor.socket: visitor for visitor in visitors}
        while waiting:
            answered = select.select(waiting, [], [], TIMEOUT)[0]
            assert answered, f"{len(waiting)} got no answer"
            for each in answered:
                assert waiting.pop(each).response().status == 200
                each.close()
        site.server.log("files enough again")
        assert site.get("web", "/kib").status == 200
        assert site.stats()["accept_errors"] == 0
        site.settled()
    finally:
        site.close()


@pytest.mark.parametrize("transport", ["tcp", "ws"])
def test_a_link_that_has_carried_enough_streams_is_replaced(
    transport: str, target: TargetProcess, tmp_path: Path
) -> None:
    # No stream is reused, so each request takes an id.
    site = Site(tmp_path / "data", engine={"link_streams_max": 10, "pool_streams_max": 0})
    try:
        site.connect({"web": target.port}, transport=transport)
        first = site.stats()["links_opened"]
        deadline = time.monotonic() + TIMEOUT
        while site.stats()["links_spent"] < 3:
            assert time.monotonic() < deadline
            assert site.get("web", "/kib").status == 200
        assert site.stats()["links_opened"] >= first + 2
        site.server.log("link to be replaced", 2)
        assert site.get("web", "/kib").status == 200
        site.settled()
    finally:
        site.close()
