"""Limits of tokens, and tokens that end, as an operator and visitors meet them."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.e2e.harness import wait_until
from tests.e2e.processes import run
from tests.e2e.site import Site
from tests.e2e.target import Target
from tests.e2e.test_access import call, command
from tests.e2e.test_tcp import connect, echo, forward, take

SOON = 30.0  # seconds; it is at once, but on a busy machine
LIFE = 12  # seconds of a token, within which a program starts and connects


@pytest.fixture
def target() -> Iterator[Target]:
    with Target() as target:
        yield target


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(
        tmp_path / "data", engine={"bandwidth_burst_ms": 100},
        server_args=["--tcp-ports", "1024-65535"],
    )  # fmt: skip
    yield site
    site.close()


def limits_of(site: Site, token: str) -> list[str]:
    found = json.loads(command(site, "token", "list", "--json"))
    return next(each["limits"] for each in found if each["name"] == token)


def ends(sock: socket.socket, within: float = SOON) -> bool:
    """Whether it is cut off soon."""
    sock.settimeout(within)
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:
        return True


@pytest.mark.sanitized
def test_connections_of_a_token_are_limited_on_all_its_tunnels(site: Site, target: Target) -> None:
    token = site.make_token("pi", "--limit", "connections=2")
    site.connect({"web": target.port, "api": target.port}, token=token)
    assert limits_of(site, "pi") == ["connections=2"]
    with site.begin("/hang") as first, site.begin("/hang"):
        wait_until(lambda: len(target.requests) == 2)
        for tunnel in ("web", "api"):
            refused = site.get(tunnel, "/kib")
            assert (refused.status, refused.json()["error"]) == (503, "token_busy")
            assert refused.values("retry-after") == ["2"]
        # More are allowed, without a new link.
        assert command(site, "token", "set", "pi", "--limit", "connections=3") == "connections=3\n"
        wait_until(lambda: site.get("api", "/kib").status == 200, SOON)
        command(site, "token", "set", "pi", "--limit", "connections=2,requests=1000/s")
        wait_until(lambda: site.get("api", "/kib").status == 503, SOON)
        assert limits_of(site, "pi") == ["connections=2", "requests=1000/s"]
        first.reset()
        wait_until(lambda: site.get("web", "/kib").status == 200)
    assert site.stats()["token_busy_refused"] >= 3


def test_requests_of_a_token_come_at_its_rate(site: Site, target: Target) -> None:
    rate = 20  # so few that a busy machine can ask for more
    token = site.make_token("pi", "--limit", f"requests={rate}/s")
    site.connect({"web": target.port}, "--links", "2", token=token)
    started = time.monotonic()
    counts = {200: 0, 429: 0}
    with ExitStack() as stack:
        visitors = [stack.enter_context(site.visitor()) for _ in range(4)]
        while time.monotonic() < started + 4:
            for visitor in visitors:
                visitor.send(b"GET /kib HTTP/1.1\r\nHost: web.localhost\r\n\r\n")
            for visitor in visitors:
                counts[visitor.response().status] += 1
    seconds = time.monotonic() - started
    burst = 2 * rate  # rate_burst_ms
    assert counts[200] <= rate * seconds * 1.02 + burst + 1
    assert counts[200] >= rate * 4 * 0.95
    assert counts[429] > 0
    wait_until(lambda: site.stats()["token_rate_refused"] == counts[429])


@pytest.mark.sanitized
@pytest.mark.parametrize("direction", ["down", "up"])
def test_a_token_has_its_bandwidth(site: Site, target: Target, direction: str) -> None:
    token = site.make_token("pi", "--limit", "bandwidth=4MB/s")
    site.connect({"web": target.port}, token=token)
    size = 16_000_000
    started = time.monotonic()
    if direction == "down":
        with site.begin(f"/bulk?n={size}") as visitor:
            assert len(visitor.response().body) == size
    else:
        head = f"Content-Length: {size}"
        with site.begin("/sink", head, method="POST", body=bytes(size)) as visitor:
            assert visitor.response().json()["size"] == size
    seconds = time.monotonic() - started
    # A burst and a window may go ahead; a busy machine may be late.
    assert (size - 400_000 - (1 << 20)) / 4e6 * 0.95 <= seconds <= size / 4e6 * 4
    assert site.stats()["token_pauses"] > 10
    # No limit any more, at once.
    assert call(site, "PATCH", "/api/v1/tokens/pi", {"limits": {"bandwidth": 0}})[0] == 200
    # As much as it has in half a minute: no machine is so slow.
    with site.begin("/bulk?n=120000000") as visitor:
        started = time.monotonic()
        left = int(visitor.head().values("content-length")[0]) - len(visitor.buffer)
        while left:
            data = visitor.socket.recv(1 << 20)
            assert data, f"cut with {left} bytes missing"
            left -= len(data)
        assert time.monotonic() - started < 25


def test_limits_over_the_api_and_what_is_wrong_with_them(site: Site) -> None:
    made = {"name": "pi", "limits": {"connections": 5, "bandwidth": 10_000_000}}
    assert call(site, "POST", "/api/v1/tokens", made)[0] == 201
    status, token = call(site, "PATCH", "/api/v1/tokens/pi", {"limits": {"requests": 7}})
    assert status == 200
    assert token["limits"] == {"connections": 5, "requests": 7, "bandwidth": 10_000_000}
    assert limits_of(site, "pi") == ["connections=5", "requests=7/s", "bandwidth=10MB/s"]
    audit = call(site, "GET", "/api/v1/audit")[1]["items"]
    assert any("pi" in json.dumps(record) and "7" in json.dumps(record) for record in audit)
    for body, expected in [
        ({"limits": {"requests": -1}}, 422),
        ({"limits": {"bandwidth": 10**12}}, 422),
        ({"limits": {"speed": 1}}, 422),
        ({}, 422),
    ]:
        assert call(site, "PATCH", "/api/v1/tokens/pi", body)[0] == expected
    assert call(site, "PATCH", "/api/v1/tokens/nobody", {"limits": {}})[0] == 404
    assert call(site, "PATCH", "/api/v1/tokens/admin", {"limits": {"requests": 1}})[0] == 422
    done = run("token", "set", "pi", "--limit", "bandwith=1MB", "--data-dir", str(site.data_dir))
    assert done.returncode == 2
    assert 'did you mean "bandwidth"' in done.stderr


def tunnel(site: Site, *words: str) -> None:
    site.connect({}, *(f"--tcp={word}" for word in words))


@pytest.mark.sanitized
@pytest.mark.parametrize("how", ["revoke", "rotate", "expire", "block"])
def test_a_forward_ends_with_the_secret_it_was_made_with(site: Site, how: str) -> None:
    with echo() as target, ExitStack() as stack:
        tunnel(site, f"db=127.0.0.1:{target}")
        scope = ("--scope", "connect=default/*")
        _, other_port = forward(site, "default/db", site.make_token("desktop", *scope))
        life = ("--expires", f"{LIFE}s") if how == "expire" else ()
        _, port = forward(site, "default/db", site.make_token("laptop", *scope, *life))
        going = [stack.enter_context(connect(port)) for _ in range(3)]
        staying = stack.enter_context(connect(other_port))
        if how == "revoke":
            command(site, "token", "revoke", "laptop")
        elif how == "rotate":
            command(site, "token", "rotate", "laptop", "--overlap", "1s")
        elif how == "block":
            command(site, "device", "block", "laptop")
        within = SOON + (LIFE if how == "expire" else 0)
        started = time.monotonic()
        for sock in going:
            assert ends(sock, within)
        assert time.monotonic() - started < within
        staying.sendall(b"still here")
        assert take(staying, 10) == b"still here"
        wait_until(lambda: site.stats()["token_ended"] == 3)
        log = call(site, "GET", "/api/v1/requests?reason=token_ended")
        wait_until(
            lambda: len(call(site, "GET", "/api/v1/requests?reason=token_ended")[1]["items"]) == 3
        )
        assert log[0] == 200


def public(site: Site, target: int, token: str) -> int:
    """An agent with a TCP tunnel on this public port."""
    agent = site.connect({}, f"--tcp=0=127.0.0.1:{target}", token=token)
    [made] = agent.printed("connected")["tunnels"]
    return int(made["url"].rpartition(":")[2])


@pytest.mark.parametrize("how", ["revoke", "block"])
def test_public_connections_of_a_device_end_with_its_permission(site: Site, how: str) -> None:
    with echo() as target, ExitStack() as stack:
        token = site.make_token("pi")
        port = public(site, target, token)
        socks = [stack.enter_context(connect(port)) for _ in range(3)]
        command(
            site, *(["token", "revoke", "pi"] if how == "revoke" else ["device", "block", "pi"])
        )
        for sock in socks:
            assert ends(sock)


def test_a_tcp_connection_beyond_the_limit_is_reset(site: Site) -> None:
    with echo() as target, ExitStack() as stack:
        token = site.make_token("pi", "--limit", "connections=2")
        port = public(site, target, token)
        socks = [stack.enter_context(connect(port)) for _ in range(2)]
        # Perhaps so soon that connecting fails.
        with (
            pytest.raises(ConnectionResetError),
            socket.create_connection(("127.0.0.1", port), SOON) as third,
        ):
            third.recv(1)
        socks[0].close()
        wait_until(lambda: site.stats()["token_busy_refused"] == 1)

        def works() -> bool:
            try:
                with socket.create_connection(("127.0.0.1", port), SOON) as sock:
                    return sock.recv(5) == b"hello"
            except ConnectionResetError:
                return False

        wait_until(works)
