"""The manager of hooks: order, refusals, failures, time-outs, queues; and what hangs."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest

from proxy_engine.errors import ProxyEngineError
from proxy_engine.hooks import (
    DeviceConnect,
    DevicePresence,
    Failure,
    Hook,
    HookError,
    HookTimeout,
    Refuse,
    ServerEvent,
    inline,
)
from proxy_engine.hooks import lane as lane_module
from proxy_engine.hooks.lane import LOST_MAX
from proxy_engine.hooks.manager import Manager

SERVER = ServerEvent(at=0, url="http://a", admin="127.0.0.1:1", domain="a", version="1")
CONNECT = DeviceConnect(
    at=0, device="pi", device_id=1, token="pi", token_id=1, peer="1.2.3.4:5", address="1.2.3.4",
    certificate=(), number=1, links=0,
)  # fmt: skip


def came(name: str = "pi") -> DevicePresence:
    return DevicePresence(at=0, device=name, device_id=1, address="", reason="")


async def until(what: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not what():  # noqa: ASYNC110
            await asyncio.sleep(0.002)


class Errors(Hook):
    """What on_error is told."""

    order = 99

    def __init__(self) -> None:
        self.failures: list[Failure] = []

    @inline
    def on_error(self, failure: Failure) -> None:
        self.failures.append(failure)

    @property
    def texts(self) -> list[str]:
        found = []
        for failure in self.failures:
            assert isinstance(failure.error, ExceptionGroup)
            found += [str(error) for error in failure.error.exceptions]
        return found


class Seen(Hook):
    def __init__(self) -> None:
        self.devices: list[str] = []

    async def on_device_online(self, event: DevicePresence) -> None:
        self.devices.append(event.device)


class Blocking(Hook):
    """A plain method that blocks its thread until it is let go."""

    timeout = 0.05

    def __init__(self) -> None:
        self.let_go = threading.Event()
        self.began = 0

    def on_device_online(self, event: DevicePresence) -> None:
        self.began += 1
        self.let_go.wait(20)


def method(way: str, call: Callable[[], None]) -> Any:
    """A method of a hook, declared in one of the three ways."""

    async def is_async(self: Hook, event: object) -> None:
        call()

    def is_plain(self: Hook, event: object) -> None:
        call()

    @inline
    def is_inline(self: Hook, event: object) -> None:
        call()

    return {"async": is_async, "plain": is_plain, "inline": is_inline}[way]


@pytest.fixture
async def manage() -> AsyncIterator[Callable[..., Manager]]:
    made: list[Manager] = []

    def make(*hooks: Hook, timeout: float = 5.0) -> Manager:
        made.append(Manager(hooks, timeout=lambda: timeout))
        return made[-1]

    yield make
    for manager in made:
        await manager.close(SERVER)


def status(manager: Manager, name: str) -> Any:
    return next(each for each in manager if each.name == name)


async def test_hooks_are_asked_in_order_and_the_first_refusal_counts(manage) -> None:
    asked: list[str] = []

    def made(number: int, order_: int, refuses: bool = False) -> Hook:
        class Asked(Hook):
            order = order_

            async def on_device_connect(self, event: DeviceConnect) -> None:
                asked.append(f"{number}")
                if refuses:
                    raise Refuse("not on\nSundays", retry_after=3)

        return Asked()

    manager = manage(made(1, 5), made(2, 0), made(3, 0), made(4, 7, refuses=True), made(5, 8))
    with pytest.raises(Refuse) as caught:
        await manager.ask("on_device_connect", CONNECT)
    assert asked == ["2", "3", "1", "4"]
    assert (str(caught.value), caught.value.retry_after) == ("not on Sundays", 3)
    assert manager.stats()["hook_refusals"] == 1
    assert manager.stats()["hook_errors"] == 0


def test_a_reason_is_one_short_line() -> None:
    assert str(Refuse("a\x1b[31m b\r\n  c")) == "a\\x1b[31m b c"
    assert str(Refuse("")) == "refused"
    assert len(str(Refuse("x" * 1000))) == 300
    assert "pe_" + "a" * 30 not in str(Refuse("pe_" + "a" * 30))
    error: ProxyEngineError = Refuse("a")
    assert (error.reason, error.retryable) == ("hook_refused", False)
    error = Refuse("a", retry_after=1)
    assert (error.reason, error.retryable) == ("hook_later", True)


@pytest.mark.parametrize("way", ["async", "plain", "inline"])
async def test_who_is_asked_and_fails_refuses_unless_it_may_fail(manage, way: str) -> None:
    def fail() -> None:
        raise ZeroDivisionError("oops")

    class Broken(Hook):
        on_device_connect = method(way, fail)

    errors = Errors()
    manager = manage(Broken(), errors)
    with pytest.raises(HookError, match=r"Broken.on_device_connect: ZeroDivisionError: oops") as e:
        await manager.ask("on_device_connect", CONNECT)
    assert isinstance(e.value.__cause__, ZeroDivisionError)
    assert errors.texts == ["Broken.on_device_connect: ZeroDivisionError: oops"]
    careless = Broken()
    careless.fail_open = True
    after = manage(careless, errors)
    await after.ask("on_device_connect", CONNECT)
    assert after.stats()["hook_errors"] == 1


@pytest.mark.parametrize("blocks", [False, True])
async def test_who_is_asked_and_hangs_is_not_waited_for(manage, blocks: bool) -> None:
    let_go = threading.Event()

    class Blocks(Hook):
        name = "Hanging"
        timeout = 0.05

        def on_device_connect(self, event: DeviceConnect) -> None:
            let_go.wait(20)

    class Sleeps(Hook):
        name = "Hanging"
        timeout = 0.05

        async def on_device_connect(self, event: DeviceConnect) -> None:
            await asyncio.sleep(3600)

    manager = manage(Blocks() if blocks else Sleeps())
    try:
        with pytest.raises(HookTimeout, match=r"Hanging.on_device_connect: not done within 0.05"):
            await manager.ask("on_device_connect", CONNECT)
        assert manager.stats()["hook_timeouts"] == 1
    finally:
        let_go.set()


async def test_one_device_is_asked_about_while_the_hook_thinks_about_another(manage) -> None:
    both = asyncio.Event()
    asked: list[str] = []

    class Thinking(Hook):
        async def on_device_connect(self, event: DeviceConnect) -> None:
            asked.append(event.device)
            if len(asked) == 2:
                both.set()
            await both.wait()

    manager = manage(Thinking())
    await asyncio.gather(*(manager.ask("on_device_connect", CONNECT) for _ in range(2)))


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit,
                                  asyncio.CancelledError, StopIteration])  # fmt: skip
@pytest.mark.parametrize("way", ["async", "plain", "inline"])
async def test_whatever_one_raises_the_others_are_told(manage, way: str, kind: Any) -> None:
    def fail() -> None:
        raise kind("oops")

    class Broken(Hook):
        on_device_online = method(way, fail)

    seen, errors = Seen(), Errors()
    manager = manage(Broken(), seen, errors)
    manager.tell("on_device_online", came("a"))
    manager.tell("on_device_online", came("b"))
    await until(lambda: seen.devices == ["a", "b"] and len(errors.failures) == 2)
    assert status(manager, "Broken").errors == 2
    assert errors.failures[0].where == "on_device_online"


async def test_the_errors_of_one_event_come_together(manage) -> None:
    class First(Hook):
        async def on_device_online(self, event: DevicePresence) -> None:
            raise ValueError("one")

    class Second(Hook):
        def on_device_online(self, event: DevicePresence) -> None:
            raise KeyError("two")

    class Third(Hook):
        @inline
        def on_device_online(self, event: DevicePresence) -> None:
            raise OSError("three")

    errors = Errors()
    manager = manage(First(), Second(), Third(), errors)
    manager.tell("on_device_online", came())
    await until(lambda: errors.failures)
    assert len(errors.failures) == 1
    assert sorted(errors.texts) == [
        "First.on_device_online: ValueError: one",
        "Second.on_device_online: KeyError: 'two'",
        "Third.on_device_online: OSError: three",
    ]


async def test_an_error_does_not_wait_for_a_hook_that_hangs(manage, monkeypatch) -> None:
    monkeypatch.setattr("proxy_engine.hooks.manager.GROUP_SECONDS", 0.05)

    class First(Hook):
        async def on_device_online(self, event: DevicePresence) -> None:
            raise ValueError("one")

    class Slow(Hook):
        async def on_device_online(self, event: DevicePresence) -> None:
            await asyncio.sleep(0.5)
            raise ValueError("late")

    errors = Errors()
    manager = manage(First(), Slow(), errors)
    manager.tell("on_device_online", came())
    await until(lambda: len(errors.failures) == 2)
    assert len(errors.texts) == 2  # two groups of one


async def test_a_hook_that_hangs_is_left_and_goes_on_with_the_next_event(manage) -> None:
    class Hanging(Hook):
        timeout = 0.05

        def __init__(self) -> None:
            self.done: list[str] = []

        async def on_device_online(self, event: DevicePresence) -> None:
            if event.device == "a":
                await asyncio.sleep(3600)
            self.done.append(event.device)

    hanging, seen, errors = Hanging(), Seen(), Errors()
    manager = manage(hanging, seen, errors)
    for name in "abc":
        manager.tell("on_device_online", came(name))
    await until(lambda: hanging.done == ["b", "c"])
    assert seen.devices == ["a", "b", "c"]
    await until(lambda: errors.texts)
    assert errors.texts == ["Hanging.on_device_online: not done within 0.05 seconds"]


async def test_a_hook_that_takes_no_notice_of_being_cancelled_is_left(manage) -> None:
    let_go = asyncio.Event()

    class Stubborn(Hook):
        timeout = 0.05

        def __init__(self) -> None:
            self.done: list[str] = []

        async def on_device_online(self, event: DevicePresence) -> None:
            while event.device == "a" and not let_go.is_set():
                try:
                    await let_go.wait()
                except asyncio.CancelledError:
                    pass
            self.done.append(event.device)

    stubborn = Stubborn()
    manager = manage(stubborn)
    manager.tell("on_device_online", came("a"))
    manager.tell("on_device_online", came("b"))
    await until(lambda: stubborn.done == ["b"])
    let_go.set()
    await until(lambda: stubborn.done == ["b", "a"])
    assert status(manager, "Stubborn").timeouts == 1


async def test_a_plain_hook_that_blocks_holds_up_nobody(manage) -> None:
    blocking, seen = Blocking(), Seen()
    manager = manage(blocking, seen)
    slowest = 0.0
    try:
        for _ in range(20):
            began = time.perf_counter()
            manager.tell("on_device_online", came())
            slowest = max(slowest, time.perf_counter() - began)
            await asyncio.sleep(0)
        await until(lambda: len(seen.devices) == 20)
        assert slowest < 5  # it blocks for 20 s
        # So many threads hang; then nothing more is begun.
        await until(lambda: status(manager, "Blocking").is_stuck)
        assert blocking.began == LOST_MAX
        assert status(manager, "Blocking").waiting == 20 - LOST_MAX
    finally:
        blocking.let_go.set()
    await until(lambda: status(manager, "Blocking").waiting == 0)
    await until(lambda: blocking.began == 20)
    assert not status(manager, "Blocking").is_stuck


async def test_who_is_asked_and_hangs_for_good_is_asked_no_more(manage, monkeypatch) -> None:
    monkeypatch.setattr(lane_module, "LOST_MAX", 1)
    let_go = threading.Event()

    class Hanging(Hook):
        timeout = 0.02

        def on_device_connect(self, event: DeviceConnect) -> None:
            let_go.wait(20)

    manager = manage(Hanging())
    try:
        for text in ("not done within", "too many of its calls hang"):
            with pytest.raises(HookError, match=text):
                await manager.ask("on_device_connect", CONNECT)
    finally:
        let_go.set()


async def test_what_finds_no_room_is_dropped_and_counted(manage) -> None:
    go = asyncio.Event()

    class Slow(Hook):
        queue = 3

        def __init__(self) -> None:
            self.done: list[str] = []

        async def on_device_online(self, event: DevicePresence) -> None:
            await go.wait()
            self.done.append(event.device)

    slow, seen = Slow(), Seen()
    manager = manage(slow, seen)
    for number in range(6):
        manager.tell("on_device_online", came(str(number)))
    assert status(manager, "Slow").dropped == 3
    go.set()
    await until(lambda: len(slow.done) == 3 and len(seen.devices) == 6)
    assert slow.done == ["0", "1", "2"]
    assert manager.stats()["hook_dropped"] == 3
    manager.tell("on_device_online", came("big"), 100)  # more than the queue, but alone
    await until(lambda: slow.done[-1] == "big")


async def test_workers_make_calls_at_once(manage) -> None:
    all_there = threading.Barrier(3, timeout=10)

    class Three(Hook):
        workers = 3

        def __init__(self) -> None:
            self.done = 0

        def on_device_online(self, event: DevicePresence) -> None:
            all_there.wait()
            self.done += 1

    three = Three()
    manager = manage(three)
    for _ in range(3):
        manager.tell("on_device_online", came())
    await until(lambda: three.done == 3)


async def test_plain_methods_run_in_one_thread_which_ends_with_the_hook() -> None:
    threads: list[threading.Thread] = []

    class Plain(Hook):
        def on_device_online(self, event: DevicePresence) -> None:
            threads.append(threading.current_thread())

    manager = Manager([Plain()])
    for _ in range(10):
        manager.tell("on_device_online", came())
        await asyncio.sleep(0.01)
    await manager.close(SERVER)
    assert len(set(threads)) == 1
    assert threads[0] is not threading.main_thread()
    await until(lambda: not threads[0].is_alive())


async def test_inline_methods_that_take_long_are_counted(manage) -> None:
    class Slow(Hook):
        @inline
        def on_device_online(self, event: DevicePresence) -> None:
            time.sleep(0.02)

    manager = manage(Slow())
    manager.tell("on_device_online", came())
    assert status(manager, "Slow").slow == 1


def test_an_async_method_is_not_inline() -> None:
    with pytest.raises(TypeError, match="is_async is async"):
        inline(method("async", lambda: None))


async def test_an_on_error_that_fails_is_told_to_nobody(manage) -> None:
    class Broken(Hook):
        async def on_error(self, failure: Failure) -> None:
            raise ValueError("again")

    errors = Errors()
    manager = manage(Broken(), errors)
    manager.report(Failure(at=0, source="store", where="x", error=OSError("disk")))
    await until(lambda: status(manager, "Broken").calls == 1)
    assert [failure.source for failure in errors.failures] == ["store"]


class Life(Hook):
    def __init__(self, name: str, said: list[str], *, broken: str = "") -> None:
        self.name = name
        self._said = said
        self._broken = broken

    async def on_server_start(self, event: ServerEvent) -> None:
        self._said.append(f"start {self.name}")
        if self._broken == "start":
            raise OSError("no database")

    def on_server_stop(self, event: ServerEvent) -> None:
        self._said.append(f"stop {self.name}")
        if self._broken == "stop":
            raise OSError("no database")


async def test_hooks_start_in_order_and_stop_in_reverse_whatever_fails() -> None:
    said: list[str] = []
    errors = Errors()
    manager = Manager([Life("a", said), Life("b", said, broken="stop"), Life("c", said), errors])
    await manager.start(SERVER)
    await manager.close(SERVER)
    assert said == ["start a", "start b", "start c", "stop c", "stop b", "stop a"]
    assert errors.texts == ["b.on_server_stop: OSError: no database"]


async def test_a_hook_that_can_not_start_ends_the_start() -> None:
    said: list[str] = []
    manager = Manager([Life("a", said), Life("b", said, broken="start"), Life("c", said)])
    with pytest.raises(HookError, match=r"^b.on_server_start: OSError: no database$"):
        await manager.start(SERVER)
    assert said == ["start a", "start b", "stop a"]


async def test_other_hooks_take_over_while_the_server_runs() -> None:
    said: list[str] = []
    a, b, c = Life("a", said), Life("b", said), Life("c", said)
    broken, errors = Life("x", said, broken="start"), Errors()
    manager = Manager([a, b, errors])
    await manager.start(SERVER)
    said.clear()
    await manager.replace([b, c, broken, errors], SERVER)
    assert said == ["start c", "start x", "stop a"]
    assert manager.hooks == [b, c, errors]
    assert errors.texts == ["x.on_server_start: OSError: no database"]
    assert manager.stats()["hooks"] == 3
    await manager.close(SERVER)
    assert said[3:] == ["stop c", "stop b"]


async def test_what_waits_is_done_before_a_hook_stops() -> None:
    class Slow(Hook):
        def __init__(self) -> None:
            self.said: list[str] = []

        async def on_device_online(self, event: DevicePresence) -> None:
            await asyncio.sleep(0.01)
            self.said.append(event.device)

        async def on_server_stop(self, event: ServerEvent) -> None:
            self.said.append("stop")

    slow = Slow()
    manager = Manager([slow])
    await manager.start(SERVER)
    for name in "abc":
        manager.tell("on_device_online", came(name))
    await manager.close(SERVER)
    assert slow.said == ["a", "b", "c", "stop"]
    manager.tell("on_device_online", came("d"))  # nobody is there any more
    assert slow.said[-1] == "stop"


async def test_what_can_not_be_done_before_the_end_is_counted(monkeypatch) -> None:
    monkeypatch.setattr("proxy_engine.hooks.manager.CLOSE_SECONDS", 0.05)
    blocking = Blocking()
    blocking.timeout = 20
    manager = Manager([blocking])
    for _ in range(5):
        manager.tell("on_device_online", came())
    await until(lambda: blocking.began == 1)
    await manager.close(SERVER)
    assert manager.stats()["hook_dropped"] == 4
    blocking.let_go.set()


def test_a_method_that_is_nearly_an_event_is_an_error() -> None:
    class Typo(Hook):
        def on_requests(self, requests: Sequence[Any]) -> None: ...

    text = r'Typo.on_requests is no event of hooks, did you mean "on_request"\?'
    with pytest.raises(HookError, match=text):
        Manager([Typo()])
    nothing: Any = object()
    with pytest.raises(HookError, match="is no hook"):
        Manager([nothing])


async def test_the_numbers_of_a_hook_are_among_the_statistics(manage) -> None:
    class Own(Hook):
        def stats(self) -> dict[str, int]:
            return {"tries": 3}

    class Broken(Hook):
        def stats(self) -> dict[str, int]:
            raise ValueError

    assert manage(Own(), Broken()).stats() == {
        "hooks": 2, "hook_calls": 0, "hook_errors": 0, "hook_timeouts": 0, "hook_refusals": 0,
        "hook_dropped": 0, "hook_waiting": 0, "hooks_stuck": 0, "hook_Own_tries": 3,
    }  # fmt: skip


async def test_a_thread_that_is_given_up_in_the_middle_leaves_the_rest_to_another(manage) -> None:
    let_go = threading.Event()

    class Slow(Hook):
        timeout = 1.0

        def __init__(self) -> None:
            self.done: list[str] = []

        def on_device_online(self, event: DevicePresence) -> None:
            if event.device == "first":
                time.sleep(0.02)  # until the others wait together
            if event.device == "c":
                let_go.wait(20)
            self.done.append(event.device)
            if event.device == "b":
                raise ValueError("b")

    slow, errors = Slow(), Errors()
    manager = manage(slow, errors)
    manager.tell("on_device_online", came("first"))
    await until(lambda: status(manager, "Slow").waiting == 0)
    for name in "abcde":
        manager.tell("on_device_online", came(name))
    await until(lambda: slow.done == ["first", "a", "b", "d", "e"])
    await until(lambda: len(errors.texts) == 2)
    assert errors.texts == [
        "Slow.on_device_online: ValueError: b",
        "Slow.on_device_online: not done within 1 seconds",
    ]
    let_go.set()
    await until(lambda: slow.done[-1] == "c")  # each once
    assert (status(manager, "Slow").calls, status(manager, "Slow").errors) == (6, 2)
