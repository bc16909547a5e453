from __future__ import annotations

from typing import Any

from proxy_engine.targets import Targets, resolve
from proxy_engine.values import Address
from tests.unit.proxy.fake_engine import FakeEngine


class Names:
    def __init__(self, **known: list[str]) -> None:
        self.known = known

    async def __call__(self, host: str, port: int) -> list[str]:
        if host not in self.known:
            raise OSError("name unknown")
        return list(self.known[host])


def make(engine: Any, names: Names, **targets: Address) -> Targets:
    return Targets(engine, targets, names)


async def test_the_engine_is_given_every_address_in_order(engine: FakeEngine) -> None:
    names = Names(app=["10.0.0.1", "10.0.0.2"], db=["10.0.0.3"])
    targets = make(engine, names, web=Address("app", 80), x=Address("db", 81))
    await targets.refresh()
    assert engine.targets == [
        ("web", "10.0.0.1", 80, 0),
        ("web", "10.0.0.2", 80, 0),
        ("x", "10.0.0.3", 81, 0),
    ]


async def test_a_changed_answer_is_taken_over(engine: FakeEngine) -> None:
    names = Names(app=["10.0.0.1"])
    targets = make(engine, names, web=Address("app", 80))
    await targets.refresh()
    names.known["app"] = ["10.0.0.9"]
    await targets.refresh()
    assert engine.targets == [("web", "10.0.0.9", 80, 0)]


async def test_a_name_that_is_not_found_keeps_its_last_address(engine: FakeEngine) -> None:
    names = Names(app=["10.0.0.1"])
    targets = make(engine, names, web=Address("app", 80), x=Address("nowhere", 81))
    await targets.refresh()
    del names.known["app"]
    await targets.refresh()
    assert engine.targets == [("web", "10.0.0.1", 80, 0)]


async def test_literals_resolve_to_themselves() -> None:
    assert await resolve("127.0.0.1", 80) == ["127.0.0.1"]
    assert await resolve("::1", 80) == ["::1"]
