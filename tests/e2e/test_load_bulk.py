"""A GiB each way: every byte, and no more memory than windows and buffers take."""

from __future__ import annotations

import hashlib
import json
import subprocess

from tests.e2e.fixtures import own_site, target_of_file
from tests.e2e.site import Site, watch_memory
from tests.e2e.target import BLOCK, TargetProcess, pattern_sha256

GIB = 1 << 30
# The largest window of a stream, in a buffer of up to twice its size, and what is kept for
# reuse: a reader that takes it in bursts on a busy machine may make the window grow so far.
GROWTH_MIB_MAX = 2 * 16 + 24
CURL = ["curl", "--silent", "--show-error", "--fail", "--max-time", "100"]


target = target_of_file()
site = own_site()


def curl(site: Site, path: str, *args: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*CURL, *args, "--header", "Host: web.localhost", f"http://127.0.0.1:{site.port}{path}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def finish(process: subprocess.Popen[bytes]) -> None:
    assert process.stderr is not None
    errors = process.stderr.read().decode()
    assert process.wait(60) == 0, errors


# One carrier each way: the agent masks what it sends over WebSocket, so down is its harder one.
def test_a_gib_down_is_exact_and_takes_no_memory(site: Site, target: TargetProcess) -> None:
    agent = site.connect({"web": target.port}, transport="ws")
    digest, size = hashlib.sha256(), 0
    with watch_memory(site.server, agent) as growth:
        visitor = curl(site, f"/bulk?n={GIB}")
        assert visitor.stdout is not None
        while data := visitor.stdout.read(1 << 20):
            digest.update(data)
            size += len(data)
        finish(visitor)
    assert size == GIB
    assert digest.hexdigest() == pattern_sha256(GIB)
    assert max(growth.mib) < GROWTH_MIB_MAX, growth.mib
    site.settled()


def test_a_gib_up_is_exact_and_takes_no_memory(site: Site, target: TargetProcess) -> None:
    agent = site.connect({"web": target.port}, transport="tcp")
    with watch_memory(site.server, agent) as growth:
        # From stdin its length is unknown: curl sends it chunked.
        visitor = curl(site, "/sink", "--upload-file", "-", "--header", "Expect:")
        assert visitor.stdin is not None and visitor.stdout is not None
        left = GIB
        while left:
            left -= visitor.stdin.write(BLOCK[:left])
        visitor.stdin.close()
        answer = json.loads(visitor.stdout.read())
        finish(visitor)
    assert answer == {"size": GIB, "sha256": pattern_sha256(GIB)}
    assert max(growth.mib) < GROWTH_MIB_MAX, growth.mib
    site.settled()
