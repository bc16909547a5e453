"""What fails in a server is in its log and told to its hooks: which, whose, and how often."""

from __future__ import annotations

import ast
import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

import proxy_engine
from proxy_engine import failure_feed, failures, logs
from proxy_engine.failure_feed import FailureFeed
from proxy_engine.hooks import Failure, Hook, ServerEvent, inline
from proxy_engine.hooks.manager import EVENTS, Manager

SOURCES = Path(proxy_engine.__file__).parent
# Whose lines are no failures of a server.
OTHERS = ("agent/", "agent_admin/", "apps/", "cli/", "demo/", "library/client.py", "tls/client.py",
          "failures.py", "logs.py")  # fmt: skip
NOT_TOLD = {
    # Told already, by the hooks' own way.
    "hook failed",
    "hook events lost, it ends",
    "hook events dropped",
    "an inline hook holds the event loop",
    "failure",
    # What devices and agents do wrong, or say.
    "bad control record",
    "device reports",
    "target not taken",
    "unknown link closed",
    # Nothing failed.
    "it turns again",
    "settings wait for a restart",
    "requests not logged",
}
LOGGED = ("warning", "error", "exception")
SERVER = ServerEvent(at=0, url="", admin="", domain="", version="")
_log = logs.get("test")


def calls() -> Iterator[tuple[str, str, ast.Call]]:
    """Each call of something's method in the sources of the server, with what is called."""
    for path in sorted(SOURCES.rglob("*.py")):
        name = str(path.relative_to(SOURCES))
        if name.startswith(OTHERS):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                yield name, ast.unparse(node.func), node


def test_what_is_logged_as_wrong_is_told() -> None:
    left = []
    for name, called, node in calls():
        if called not in {f"{log}.{each}" for log in ("_log", "seat.log") for each in LOGGED}:
            continue
        message = node.args[0]
        if isinstance(message, ast.Constant) and message.value not in NOT_TOLD:
            left.append(f"{name}:{node.lineno}: {message.value!r}")
    assert left == [], "use failures.error() or warning(), or say here why not"


def test_every_failure_is_of_a_kind_that_is_documented_and_every_kind_happens() -> None:
    found = set()
    for _, called, node in calls():
        words = [x.value if isinstance(x, ast.Constant) else "*" for x in node.args]
        if called in ("failures.error", "failures.warning"):
            found.add((words[1], words[2]))
        elif called == "failures.bug":
            found.add(("bug", words[1]))
    assert ("engine", "*") in found  # memory, files: what the engine says
    assert ("store", "*") in found  # look, devices: what is tried again and again
    found -= {("engine", "*"), ("store", "*")}
    found |= {("engine", "memory"), ("engine", "files"), ("store", "look"), ("store", "devices")}
    assert found == {*failures.KINDS}
    assert all(failures.KINDS.values())
    assert not {source for source, _ in failures.KINDS} & {"hook", *EVENTS}


class Seen(Hook):
    def __init__(self) -> None:
        self.failures: list[Failure] = []
        self.threads: set[int] = set()

    @inline
    def on_error(self, failure: Failure) -> None:
        self.failures.append(failure)
        self.threads.add(threading.get_ident())

    @property
    def told(self) -> list[tuple[str, int]]:
        return [(each.message, each.repeats) for each in self.failures]


class Site:
    def __init__(self) -> None:
        self.seen = Seen()
        self.feed = FailureFeed(clock=lambda: 5.0)
        self.feed.hooks = Manager([self.seen])


@pytest.fixture
async def site(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    monkeypatch.setattr(failure_feed, "INTERVAL", 0.1)
    found = Site()
    yield found
    found.feed.close()


async def until(count: int, seen: Seen) -> None:
    async with asyncio.timeout(10):
        while len(seen.failures) < count:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_storm_is_one_event_at_once_and_one_for_the_rest(site: Site) -> None:
    with site.feed.heard():
        for number in range(1000):
            failures.warning(_log, "redis", "away", f"number {number}")
        failures.error(_log, "journal", "write", "another kind")
        assert site.seen.told == [("number 0", 0), ("another kind", 0)]
        await until(3, site.seen)
        assert site.seen.told[2] == ("number 999", 998)
        await asyncio.sleep(0.3)  # a rest
        failures.warning(_log, "redis", "away", "again")
        assert site.seen.told[3] == ("again", 0)
        failures.warning(_log, "redis", "away", "at the end")
        site.feed.close()
        assert site.seen.told[4:] == [("at the end", 0)]


async def test_a_failure_says_what_and_where_and_no_secret(site: Site) -> None:
    cause = OSError("no")
    with site.feed.heard():
        failures.error(
            _log, "tls", "reload", "not reloaded", error=cause, file=Path("/x"), days=1.5,
            note="token=pe_abcdefghijklmnopqrstuvwxyz0123456789abcdefghijk",
        )  # fmt: skip
        failures.warning(_log, "listener", "port", "port not opened", error="in use", port=7)
    first, second = site.seen.failures
    assert (first.at, first.source, first.where, first.error) == (5.0, "tls", "reload", cause)
    assert first.message == "not reloaded"
    assert {**first.fields, "note": ""} == {"file": "/x", "days": 1.5, "note": ""}
    assert "pe_abc" not in str(first.fields["note"])
    assert str(second.error) == "port not opened: in use"
    assert second.fields == {"port": 7}


async def test_each_server_hears_of_its_own_in_tasks_callbacks_and_threads() -> None:
    sites = {"a": Site(), "b": Site()}
    loop = asyncio.get_running_loop()

    def fail(name: str) -> None:
        failures.error(_log, "journal", "write", name)
        failures.bug(_log, "task", name, ValueError(name))

    for name, site in sites.items():
        with site.feed.heard():
            loop.call_soon(fail, name)
            task = asyncio.create_task(
                asyncio.to_thread(failures.error, _log, "tls", "reload", name)
            )
        await task
    fail("nobody's")
    for name, site in sites.items():
        await until(3, site.seen)
        assert {message for message, _ in site.seen.told} == {name}
        assert site.seen.threads == {threading.get_ident()}
        site.feed.close()


async def test_nobody_who_listens_is_told_nothing(site: Site) -> None:
    site.feed.hooks = Manager([Hook()])
    with site.feed.heard():
        failures.error(_log, "journal", "write", "x")
        site.feed.hooks = None  # the server is starting
        failures.error(_log, "journal", "write", "x")
    assert vars(site.feed)["_held"] == {}
