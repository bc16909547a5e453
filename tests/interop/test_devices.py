"""A device that is only somebody else's yamux library, admitted by a real server for its token.

It knows nothing of us but the Upgrade request: no version, no control stream, the tunnel is named
like the device. test_stock_device.py looks closer, at one of them.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e.site import Site
from tests.e2e.target import Target, pattern_sha256
from tests.engine.harness import CARRIERS
from tests.interop.bridge import TOOLS, Bridge, program

BODY = bytes(range(256)) * 20_000
CLIENTS, REQUESTS = 50, 5

# The first test of a language compiles its bridge.
pytestmark = pytest.mark.timeout(360)


@pytest.fixture(params=list(itertools.product(TOOLS, CARRIERS)), ids="-".join)
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    language, carrier = request.param
    program(language)
    site = Site(tmp_path / "data")
    try:
        token = site.make_token("Stock")
        with Target() as target:
            bridge = Bridge(
                language, "--role", "device", "--carrier", carrier, "--token", token,
                "--connect", f"127.0.0.1:{site.port}", "--target", f"127.0.0.1:{target.port}",
            )  # fmt: skip
            try:
                site.wait_online("stock")
                yield site
            finally:
                bridge.close()
    finally:
        site.close()


def test_a_device_of_another_library_serves_http(site: Site) -> None:
    answer = site.get("stock", f"/bulk?n={len(BODY)}")
    assert hashlib.sha256(answer.body).hexdigest() == pattern_sha256(len(BODY))

    def ask_all(client: int) -> None:
        body = BODY[client : client + 100_000]
        head = (
            f"POST /echo HTTP/1.1\r\nHost: stock.localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        with site.visitor() as visitor:
            for _ in range(REQUESTS):
                visitor.send(head.encode() + body)
                answer = visitor.response()
                assert (answer.status, answer.body) == (200, body)

    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(ask_all, range(CLIENTS)))
    stats = site.settled()
    assert stats["responses"] == CLIENTS * REQUESTS + 1
    assert stats["link_protocol_errors"] == stats["memory_errors"] == 0
