"""Pairs of server and agent, shared by all tests that want the same kind."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from tests.e2e.harness import CARRIERS, Pair, RecordingTarget, Tunnel, wait_until

if importlib.util.find_spec("proxy_engine_core.core") is None:
    collect_ignore_glob = ["test_*.py"]  # the engine is not built


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "any_tunnel" in metafunc.fixturenames:
        metafunc.parametrize("carrier", CARRIERS)


def recorded(pair: Pair) -> dict[str, int] | None:
    """The counters once there is a record of each request."""
    now = pair.stats()
    return now if now["log_records"] == now["requests"] - now["auth_asked"] else None


@pytest.fixture(scope="session")
def shared_target() -> Iterator[RecordingTarget]:
    target = RecordingTarget()
    yield target
    target.close()


@pytest.fixture(scope="session")
def shared_pair(
    shared_target: RecordingTarget, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Pair]]:
    """shared_pair(carrier, **engine options): a pair of this kind with an unused tunnel.

    At the end every request that a pair accepted must have had an outcome and a record.
    """
    started: list[Pair] = []
    current: dict[tuple[object, ...], Pair] = {}

    def get(carrier: str = "ws", **engine: int) -> Pair:
        key = (carrier, *sorted(engine.items()))
        if key not in current or not current[key].has_tunnel:
            pair = Pair(tmp_path_factory.mktemp("pair") / "data", engine=engine)
            started.append(pair)
            pair.connect_all(shared_target.port, transport=carrier)
            current[key] = pair
        return current[key]

    yield get
    try:
        for pair in started:
            pair.settled()
            stats = wait_until(partial(recorded, pair))
            assert stats is not None
            assert stats["log_dropped"] == stats["memory_errors"] == 0, stats
            assert stats["link_protocol_errors"] == 0, stats
            assert pair.server.popen.poll() is None
            pair.check_rows()
    finally:
        for pair in started:
            pair.close()


@pytest.fixture
def target(shared_target: RecordingTarget) -> RecordingTarget:
    """Answers 200 until told otherwise, nothing recorded yet."""
    shared_target.restart()
    return shared_target


@pytest.fixture
def tunnel(shared_pair: Callable[..., Pair], target: RecordingTarget) -> Tunnel:
    """An unused tunnel over the default carrier."""
    pair = shared_pair()
    return Tunnel(pair, target, pair.tunnel())


@pytest.fixture
def any_tunnel(shared_pair: Callable[..., Pair], target: RecordingTarget, carrier: str) -> Tunnel:
    """The same, the test is run over each carrier."""
    pair = shared_pair(carrier)
    return Tunnel(pair, target, pair.tunnel())


@pytest.fixture
def tunnel_with(shared_pair: Callable[..., Pair], target: RecordingTarget) -> Callable[..., Tunnel]:
    """tunnel_with(response_timeout_ms=300): a tunnel of a pair with these engine options."""

    def get(carrier: str = "ws", **engine: int) -> Tunnel:
        pair = shared_pair(carrier, **engine)
        return Tunnel(pair, target, pair.tunnel())

    return get
