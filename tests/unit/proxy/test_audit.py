from __future__ import annotations

import pytest

from proxy_engine.audit import audited, describe
from proxy_engine.errors import StorageError
from proxy_engine.storage.sqlite import SqliteStore


async def test_a_write_has_a_record_before_and_an_outcome_after(store: SqliteStore) -> None:
    async with audited(store, actor="root", address="::1", action="a", subject="pi", detail="d"):
        [record] = await store.audit(10)
        assert (record.actor, record.address, record.action) == ("root", "::1", "a")
        assert (record.subject, record.detail, record.outcome) == ("pi", "d", "")
    assert (await store.audit(10))[0].outcome == "ok"


async def test_a_write_that_fails_says_why(store: SqliteStore) -> None:
    with pytest.raises(ValueError, match="no such thing"):
        async with audited(store, actor="root", address="", action="a", subject="pi"):
            raise ValueError("no such thing")
    assert (await store.audit(10))[0].outcome == "failed: no such thing"


async def test_what_can_have_no_record_is_not_tried(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> int:
        raise StorageError("no")

    monkeypatch.setattr(store, "audit_begin", fail)
    with pytest.raises(StorageError):
        async with audited(store, actor="root", address="", action="a", subject="pi"):
            raise AssertionError("it was tried")


def test_values_that_may_be_secret_are_left_out() -> None:
    given = {"name": "pi", "password": "x", "is_blocked": True, "size": 3, "labels": {}, "no": None}
    assert describe(given) == "name, password, is_blocked=true, size=3, labels"
