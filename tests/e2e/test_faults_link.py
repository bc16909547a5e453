"""What a visitor sees when the link breaks, stalls, or comes in pieces.

Whatever happens: an answer that looks complete is complete, an unsafe request reaches the
target at most once, and every request has an outcome that is counted and logged.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.e2e.faultproxy import FaultProxy, one_byte, random_pieces
from tests.e2e.fixtures import own_site, own_target
from tests.e2e.harness import Response, Truncated, Visitor, wait_until
from tests.e2e.processes import TIMEOUT
from tests.e2e.site import Site
from tests.e2e.target import BLOCK, Target, pattern_sha256

MIB = 1 << 20
# A dead link is found within three of these; the processes of a busy machine may stall, too.
PINGS = {"ping_interval_ms": 1000, "link_stall_ms": 3000}
CARRIERS = ["ws", "tcp"]
BULK = f"/bulk?n={256 * MIB}"


target = own_target()
site = own_site(engine=PINGS)


@pytest.fixture
def link(site: Site) -> Iterator[FaultProxy]:
    with FaultProxy(site.port) as proxy:
        yield proxy


@pytest.fixture(params=CARRIERS)
def faulty(site: Site, link: FaultProxy, target: Target, request: pytest.FixtureRequest) -> Site:
    """A site whose agent reaches the server through the fault proxy."""
    site.connect({"web": target.port}, transport=request.param, server_port=link.port)
    return site


def assert_cut(visitor: Visitor, head: Response) -> None:
    """The response ends, and can not be taken for a whole one."""
    with pytest.raises(Truncated):
        if head.values("content-length"):
            visitor.take(int(head.values("content-length")[0]) - 64 * 1024)
        else:
            while not visitor.buffer.endswith(b"0\r\n\r\n"):
                visitor._more()
    visitor.socket.close()


BREAKS: dict[str, Callable[[FaultProxy], None]] = {
    "cut": FaultProxy.cut,
    "reset": FaultProxy.reset,
}


# The carrier matters for how the end is seen, the framing for how it could be hidden.
@pytest.mark.parametrize(
    ("faulty", "how", "path"),
    [
        ("ws", "cut", BULK),
        ("tcp", "cut", "/endless"),
        ("ws", "reset", "/endless"),
        ("tcp", "reset", BULK),
    ],
    indirect=["faulty"],
)
def test_a_broken_link_cuts_downloads_visibly(
    faulty: Site, link: FaultProxy, target: Target, how: str, path: str
) -> None:
    visitor, head = faulty.begin_download(path)
    BREAKS[how](link)
    assert_cut(visitor, head)
    [row] = faulty.wait_rows(path=path)
    assert (row["status"], row["reason"]) == (200, "link_lost")
    # The agent gives up the target's connection, too, and comes back by itself.
    wait_until(lambda: target.connections == 0)
    faulty.wait_online("web")
    assert faulty.get("web", "/kib").status == 200
    assert faulty.settled()["requests_aborted"] == 1


@pytest.mark.parametrize("faulty", ["ws"], indirect=True)
def test_a_broken_link_is_an_answer_while_nothing_was_sent(
    faulty: Site, link: FaultProxy, target: Target
) -> None:
    visitor = faulty.begin("/slow", "Content-Length: 4", method="POST", body=b"once")
    assert target.entered.wait(TIMEOUT)
    link.cut()
    response = visitor.response()
    assert (response.status, response.json()["error"]) == (502, "link_lost")
    assert faulty.row(response.id)["reason"] == "link_lost"
    faulty.wait_online("web")
    assert target.requests == ["POST /slow"]
    faulty.settled()


def test_a_stalled_link_is_given_up_by_both_sides(
    faulty: Site, link: FaultProxy, target: Target
) -> None:
    assert faulty.agent is not None
    visitor = faulty.begin("/hang")
    assert target.entered.wait(TIMEOUT)
    link.stall()
    response = visitor.response()
    assert (response.status, response.json()["error"]) == (502, "link_lost")
    assert faulty.server.log("link down")["reason"] == "ping_timeout"
    assert "ping_timeout" in faulty.agent.log("not connected, trying again")["reason"]
    wait_until(lambda: target.connections == 0)
    link.resume()
    faulty.wait_online("web")
    faulty.settled()


@pytest.mark.parametrize("faulty", ["tcp"], indirect=True)
def test_a_link_stalled_under_load_is_given_up(
    faulty: Site, link: FaultProxy, target: Target
) -> None:
    visitor = faulty.begin("/sink", f"Content-Length: {256 * MIB}", method="POST")
    sender = threading.Thread(target=send_until_refused, args=(visitor, 256))
    sender.start()
    wait_until(lambda: target.body_bytes > MIB)
    link.stall()
    assert faulty.server.log("link down")["reason"] in ("ping_timeout", "stalled")
    sender.join(TIMEOUT)
    assert not sender.is_alive()
    visitor.socket.close()
    assert target.complete == []
    link.resume()
    faulty.wait_online("web")
    faulty.settled()


def send_until_refused(visitor: Visitor, mib: int) -> None:
    try:
        for _ in range(mib):
            visitor.send(BLOCK[:MIB].ljust(MIB, b"."))
    except OSError:
        pass


@pytest.mark.parametrize("faulty", ["ws"], indirect=True)
def test_a_short_stall_loses_nothing(faulty: Site, link: FaultProxy) -> None:
    size = 8 * MIB
    visitor, _ = faulty.begin_download(f"/bulk?n={size}")
    before = link.bytes_moved
    link.stall()
    link.resume()
    body = visitor.take(size - 64 * 1024)
    assert link.bytes_moved > before
    assert len(body) == size - 64 * 1024
    assert body == (BLOCK * 9)[64 * 1024 : size]
    visitor.socket.close()
    faulty.settled()


@pytest.mark.parametrize(
    ("pieces", "size"),
    [
        (one_byte, 20_000),
        (lambda: random_pieces(1), 1_000_000),
        (lambda: random_pieces(2, 64), 100_000),
    ],
    ids=["bytes", "pieces", "crumbs"],
)
def test_a_link_in_pieces_carries_every_byte(
    faulty: Site, link: FaultProxy, pieces: Callable[[], object], size: int
) -> None:
    link.pieces = pieces()  # type: ignore[assignment]
    body = BLOCK[:size]
    digest = hashlib.sha256(body).hexdigest()
    # Up, down and both at once, over a connection that is kept.
    with faulty.visitor() as visitor:
        head = f"Host: web.localhost\r\nContent-Length: {size}\r\n\r\n".encode()
        visitor.send(b"POST /sink HTTP/1.1\r\n" + head + body)
        assert json.loads(visitor.response().body) == {"size": size, "sha256": digest}
        visitor.send(b"POST /echo HTTP/1.1\r\n" + head + body)
        assert visitor.response().body == body
        for kind in ("bulk", "chunked"):
            visitor.send(f"GET /{kind}?n={size} HTTP/1.1\r\nHost: web.localhost\r\n\r\n".encode())
            response = visitor.response()
            assert hashlib.sha256(response.body).hexdigest() == pattern_sha256(size)
    stats = faulty.settled()
    assert (stats["requests_aborted"], stats["link_protocol_errors"]) == (0, 0)


def test_requests_at_once_over_a_link_in_pieces_do_not_mix(faulty: Site, link: FaultProxy) -> None:
    link.pieces = random_pieces(3, 200)
    visitors = [faulty.visitor() for _ in range(20)]
    for turn in range(5):
        bodies = [BLOCK[1000 * number + turn :][: 700 * number] for number in range(20)]
        for visitor, body in zip(visitors, bodies, strict=True):
            visitor.send(
                f"POST /echo HTTP/1.1\r\nHost: web.localhost\r\nContent-Length: {len(body)}"
                "\r\n\r\n".encode()
                + body
            )
        assert [visitor.response().body for visitor in visitors] == bodies
    for visitor in visitors:
        visitor.socket.close()
    faulty.settled()


@pytest.mark.parametrize("faulty", ["ws"], indirect=True)
def test_a_slow_link_is_still_exact(faulty: Site, link: FaultProxy) -> None:
    link.delay = 0.02
    response = faulty.get("web", f"/bulk?n={MIB}")
    assert hashlib.sha256(response.body).hexdigest() == pattern_sha256(MIB)
    faulty.settled()


@pytest.mark.parametrize("faulty", ["ws"], indirect=True)
def test_an_agent_that_is_turned_away_backs_off(faulty: Site, link: FaultProxy) -> None:
    link.refuse = True
    link.cut()
    faulty.wait_online("web", False)
    assert faulty.get("web").json()["error"] == "device_offline"
    wait_until(lambda: link.accepted >= 3)
    end = time.monotonic() + 1
    wait_until(lambda: time.monotonic() > end)
    # The delays are seconds by now, if chance wills it; one that spins would have made hundreds.
    assert link.accepted < 10
    link.refuse = False
    faulty.wait_online("web")
    assert faulty.get("web", "/kib").status == 200
