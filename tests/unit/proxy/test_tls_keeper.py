from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from proxy_engine.errors import UsageError
from proxy_engine.settings.config import Settings
from proxy_engine.tls import keeper as tls_keeper
from proxy_engine.tls.keeper import DAY, TlsKeeper
from proxy_engine.tls.ticket_keys import TicketKeys
from tests.certificates import Authority, Pair

NAME = "web.example.test"
authority = Authority()


class World:
    """A keeper of one pair of files, its clock and what it applied."""

    def __init__(self, folder: Path, pair: Pair, **settings: Any) -> None:
        self.folder = folder
        self.now = pair.leaf.not_valid_after_utc.timestamp() - 90 * DAY
        certificate, key = pair.write(folder)
        self.certificate, self.key = certificate, key
        self.settings = Settings(tls_cert=(str(certificate),), tls_key=(str(key),), **settings)
        self.applied: list[Any] = []
        self.keeper = TlsKeeper(self.settings, apply=self.applied.append, clock=lambda: self.now)

    def put(self, pair: Pair) -> None:
        for path, data in ((self.certificate, pair.certificate), (self.key, pair.key)):
            fresh = path.with_suffix(".new")
            fresh.touch(mode=0o600)
            fresh.write_bytes(data)
            fresh.rename(path)

    async def look(self) -> None:
        """... until files are at rest."""
        await self.keeper.look()
        await self.keeper.look()


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, authority.issue(NAME))


async def test_files_that_stay_are_read_once(world: World) -> None:
    first = world.keeper.tls
    assert first is not None
    await world.look()
    assert (world.applied, world.keeper.tls) == ([], first)


async def test_files_that_change_are_applied_once_they_rest(world: World) -> None:
    world.put(authority.issue(NAME))
    await world.keeper.look()
    assert world.applied == []
    await world.keeper.look()
    assert world.applied == [world.keeper.tls]
    await world.look()
    assert (len(world.applied), world.keeper.reloads) == (1, 1)


async def test_the_last_good_ones_stay(world: World, caplog: pytest.LogCaptureFixture) -> None:
    good = world.keeper.tls
    world.key.write_bytes(authority.issue(NAME).key)
    for _ in range(3):
        await world.look()
    assert (world.applied, world.keeper.tls, world.keeper.failures) == ([], good, 1)
    assert caplog.text.count("certificates not reloaded") == 1
    world.put(authority.issue(NAME))
    await world.look()
    assert len(world.applied) == 1


async def test_one_that_has_expired_does_not_replace_one_that_has_not(world: World) -> None:
    world.now = world.keeper.certificates[0].not_before + 3600.0
    world.put(authority.issue_expired(NAME))
    await world.look()
    world.put(authority.issue_early(NAME))
    await world.look()
    assert (world.applied, world.keeper.failures) == ([], 2)


def test_settings_are_taken_over_as_a_whole_or_not_at_all(world: World, tmp_path: Path) -> None:
    key = tmp_path / "other.key"
    key.touch(mode=0o600)
    key.write_bytes(authority.issue(NAME).key)
    wrong = Settings(tls_cert=world.settings.tls_cert, tls_key=(str(key),))
    with pytest.raises(UsageError, match="tls_cert"):
        world.keeper.prepare(wrong)
    assert world.applied == []
    ca = str(authority.write(tmp_path))
    right = Settings(
        tls_cert=world.settings.tls_cert, tls_key=world.settings.tls_key, tls_client_ca=ca
    )
    world.keeper.use(world.keeper.prepare(right))
    assert world.applied == [world.keeper.tls]


async def test_authorities_are_watched_too(tmp_path: Path) -> None:
    ca = authority.write(tmp_path)
    world = World(tmp_path, authority.issue(NAME), tls_client_ca=str(ca))
    os.utime(ca)
    await world.look()
    assert len(world.applied) == 1


async def test_an_end_is_told_ahead_each_time_once(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    end = world.now + 90 * DAY
    said = []
    for days in (60, 31, 30, 29, 8, 7, 6.9, 1.5, 1, 0.5, 0, -1):
        world.now = end - days * DAY
        await world.look()
        if caplog.records:
            said.append((days, [record.levelname for record in caplog.records]))
        caplog.clear()
    assert said == [
        (30, ["WARNING"]), (7, ["WARNING"]), (1, ["WARNING"]), (0, ["ERROR"]),
    ]  # fmt: skip
    assert world.keeper.stats()["tls_certificate_days"] == 0
    world.now = end - 12.5 * DAY
    assert world.keeper.stats() == {
        "tls_certificates": 1, "tls_certificate_days": 12, "tls_reloads": 0,
        "tls_reload_failures": 0,
    }  # fmt: skip


def test_who_starts_with_an_expired_one_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(tmp_path, authority.issue_expired(NAME))
    world.now += 100 * DAY
    world.keeper.warn()
    [record] = caplog.records
    assert record.levelname == "ERROR"
    with pytest.raises(UsageError, match=r"server\.pem: the certificate expired on 20\d\d-"):
        tls_keeper.check(world.settings, world.now)


def test_without_tls_there_is_nothing_to_keep() -> None:
    keeper = TlsKeeper(Settings())
    assert (keeper.tls, keeper.certificates, keeper.stats()) == (None, [], {})


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"tls_client_ca": "x"}, "tls_client_ca needs tls_cert"),
        ({"tls_client_crl": "x"}, "tls_client_crl needs tls_client_ca"),
        ({"tls_client_required": "all"}, "tls_client_required needs tls_client_ca"),
        ({"admin_tls_key": "x"}, "admin_tls_key needs admin_tls_cert"),
        ({"tls_key": ("x",)}, "tls_cert names 0 files and tls_key 1 file"),
        ({"admin_tls_cert": "/none"}, "admin_tls_cert /none: No such file"),
    ],
)
def test_settings_that_lack_something(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        tls_keeper.read(Settings(**settings))


async def test_ticket_keys_change_without_a_look_at_the_files(tmp_path: Path) -> None:
    world = World(tmp_path, authority.issue(NAME), tls_ticket_age=100.0)
    world.certificate.unlink()  # the last good one stays
    world.now += 99
    await world.keeper.look()
    assert world.applied == []
    world.now += 1
    await world.keeper.look()
    assert world.applied == [world.keeper.tls]
    await world.keeper.look()
    assert (len(world.applied), world.keeper.reloads) == (1, 0)


def test_the_key_before_the_newest_is_kept_until_the_next() -> None:
    now = 0.0
    keys = TicketKeys(10.0, lambda: now)
    first = keys.keys
    assert [len(key) for key in first] == [80]
    now = 9.0
    assert not keys.rotate()
    now = 11.0
    assert keys.rotate()
    second = keys.keys
    assert second[1:] == first and second[0] not in first
    now = 22.0
    assert keys.rotate()
    assert keys.keys[1:] == second[:1]
    now = 99.0  # the machine slept
    assert keys.rotate()
    assert len(keys.keys) == 1
