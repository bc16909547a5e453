from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from proxy_engine.agent.targets import Targets, resolve
from proxy_engine.settings.allowed import parse_allowed
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


async def test_addresses_that_are_not_allowed_are_unknown_to_the_engine(
    engine: FakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    names = Names(app=["10.0.0.1", "192.0.2.1"], db=["192.0.2.2"])
    aims = {"web": Address("app", 80), "x": Address("db", 81)}
    targets = Targets(_any(engine), aims, names, allowed=[parse_allowed("10.0.0.0/8")])
    for _ in range(2):
        await targets.refresh()
    assert engine.targets == [("web", "10.0.0.1", 80, 0)]
    names.known["app"] = ["169.254.169.254"]  # the name was moved elsewhere
    await targets.refresh()
    assert engine.targets == []
    said = [line for line in caplog.messages if "target not allowed" in line]
    assert len(said) == 3


def _any(engine: Any) -> Any:
    return engine


async def test_literals_resolve_to_themselves() -> None:
    assert await resolve("127.0.0.1", 80) == ["127.0.0.1"]
    assert await resolve("::1", 80) == ["::1"]


async def test_a_socket_of_this_machine_is_known_by_where_its_links_lead(
    tmp_path: Path, engine: FakeEngine
) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert await resolve(f"unix:{tmp_path}/link/app", 0) == [f"unix:{tmp_path}/real/app"]
    assert await resolve("unix:@app", 0) == ["unix:@app"]
    aims = {"web": Address(f"unix:{tmp_path}/link/app", 0)}
    rule = parse_allowed(f"unix:{tmp_path}/link/")  # of the folder it leads to now
    targets = Targets(_any(engine), aims, resolve, allowed=[rule])
    await targets.refresh()
    assert engine.targets == [("web", f"unix:{tmp_path}/real/app", 0, 0)]
    (tmp_path / "link").unlink()
    (tmp_path / "link").symlink_to("/run")
    await targets.refresh()
    assert engine.targets == []
