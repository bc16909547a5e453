"""Many connections that speak for the first time at once stand in a line of their own."""

from __future__ import annotations

import random

import pytest

from proxy_engine_core import core
from tests.engine.harness import serving, wait_until

COUNT = 400  # many times what a turn takes of them, within the admission of an address


def test_hundreds_that_speak_at_once_are_all_answered() -> None:
    with serving() as server:
        visitors = [server.visitor() for _ in range(COUNT)]
        for visitor in visitors:
            visitor.get("/", host="nobody.test")
        assert [visitor.response().status for visitor in visitors] == [404] * COUNT
        # They are known now: the second request of each takes no line.
        for visitor in visitors:
            visitor.get("/", host="nobody.test")
        assert [visitor.response().status for visitor in visitors] == [404] * COUNT


def test_those_who_leave_while_they_wait_take_nobody_with_them() -> None:
    dice = random.Random(7)
    with serving() as server:
        visitors = [server.visitor() for _ in range(COUNT)]
        for visitor in visitors:
            visitor.get("/", host="nobody.test")
        left = dice.sample(visitors, COUNT // 2)
        for visitor in left:
            visitor.abort()
        for visitor in visitors:
            if visitor not in left:
                assert visitor.response().status == 404
                visitor.close()
        wait_until(lambda: server.connections() == 0, "all connections gone")


def test_who_says_nothing_is_closed_in_time_and_nobody_waits_for_it() -> None:
    with serving(keepalive_timeout_ms=1000) as server:
        silent = [server.visitor() for _ in range(50)]
        visitor = server.visitor()
        visitor.get("/", host="nobody.test")
        assert visitor.response().status == 404
        assert all(each.is_readable(10) and each.rest() == b"" for each in silent)


@pytest.mark.parametrize("how", ["stop", "drain"])
def test_the_end_comes_while_hundreds_wait(how: str) -> None:
    with serving() as server:
        visitors = [server.visitor() for _ in range(COUNT)]
        for visitor in visitors:
            visitor.get("/", host="nobody.test")
        if how == "drain":
            server.engine.drain(1000)
            server.event(core.EVENT_DRAINED)
        server.engine.stop()
        # Answered or cut, none is forgotten.
        for visitor in visitors:
            assert visitor.is_readable(10)
