"""Which connections to private tunnels end, and when: with the secret they were made with."""

from __future__ import annotations

import msgspec

from proxy_engine.links.joined import Joined
from proxy_engine.storage import Token
from tests.unit.proxy.fake_engine import FakeEngine

PI = Token(
    id=3, name="pi", kind="device", digest=b"a" * 32, device_id=1, device="pi", is_blocked=False,
    created_at=0.0, expires_at=None, revoked_at=None, last_used_at=None,
)  # fmt: skip


def changed(**what: object) -> Token:
    return msgspec.structs.replace(PI, **what)


def test_connections_of_one_secret_share_a_key() -> None:
    joined = Joined(FakeEngine())  # type: ignore[arg-type]
    first = joined.key(PI)
    assert joined.key(PI) == first
    assert joined.key(changed(digest=b"b" * 32)) != first
    assert joined.key(changed(id=4)) != first
    assert first > 2**60  # never a token's id


def test_they_end_when_the_token_is_not_good_any_more() -> None:
    for known in (
        {},
        {3: changed(revoked_at=5.0)},
        {3: changed(expires_at=9.0)},
        {3: changed(is_blocked=True)},
        {3: changed(digest=b"x" * 32)},
    ):
        engine = FakeEngine()
        joined = Joined(engine)  # type: ignore[arg-type]
        key = joined.key(PI)
        joined.recheck({3: PI}, 10.0)
        assert engine.joined_closed == []
        joined.recheck(known, 10.0)
        assert engine.joined_closed == [key]
        joined.recheck(known, 10.0)
        joined.tick(1000.0)
        assert engine.joined_closed == [key]
        assert joined.key(PI) != key  # should it be good again: that one has ended


def test_an_old_secret_ends_with_its_overlap_and_the_new_one_stays() -> None:
    engine = FakeEngine()
    joined = Joined(engine)  # type: ignore[arg-type]
    old = joined.key(PI)
    rotated = changed(digest=b"n" * 32, old_digest=PI.digest, old_expires_at=60.0)
    new = joined.key(rotated)
    joined.recheck({3: rotated}, 10.0)
    joined.tick(59.0)
    assert engine.joined_closed == []
    joined.tick(60.0)
    assert engine.joined_closed == [old]
    joined.recheck({3: changed(digest=b"n" * 32, revoked_at=61.0)}, 61.0)
    assert engine.joined_closed == [old, new]


def test_a_token_that_expires_ends_them_at_that_moment() -> None:
    engine = FakeEngine()
    joined = Joined(engine)  # type: ignore[arg-type]
    key = joined.key(changed(expires_at=20.0))
    joined.tick(19.9)
    assert engine.joined_closed == []
    joined.tick(20.0)
    assert engine.joined_closed == [key]
