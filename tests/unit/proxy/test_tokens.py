from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from proxy_engine import tokens
from proxy_engine.errors import UsageError
from proxy_engine.storage import NameTaken
from proxy_engine.storage.sqlite import SqliteStore


def test_a_secret_is_256_random_bits_in_url_safe_text() -> None:
    first, second = tokens.new_secret(), tokens.new_secret()
    assert first != second
    assert first.startswith("pe_")
    assert len(first) == 3 + 43


async def test_only_the_digest_is_stored(store: SqliteStore, tmp_path: Path) -> None:
    secret, token = await tokens.create(store, name="pi", now=1.0)
    assert token.digest == hashlib.sha256(secret.encode()).digest()
    await store.close()
    assert secret.encode() not in (tmp_path / "db").read_bytes()


async def test_a_token_is_found_by_its_secret_only(store: SqliteStore) -> None:
    secret, token = await tokens.create(store, name="pi", now=1.0)
    assert await tokens.find(store, secret) == token
    wrong = secret[:-1] + ("A" if secret[-1] != "A" else "B")
    for guess in (wrong, "", "pe_", secret + "x", "pi", secret.upper()):
        assert await tokens.find(store, guess) is None


async def test_a_device_is_named_like_its_token_unless_said_otherwise(store: SqliteStore) -> None:
    _, first = await tokens.create(store, name="pi", now=1.0)
    _, second = await tokens.create(store, name="pi-spare", device="pi", now=1.0)
    assert first.device == second.device == "pi"
    assert first.device_id == second.device_id
    _, admin = await tokens.create(store, name="root", kind="admin", now=1.0)
    assert admin.device_id is None


async def test_names_are_unique_and_checked(store: SqliteStore) -> None:
    await tokens.create(store, name="pi", now=1.0)
    with pytest.raises(NameTaken):
        await tokens.create(store, name="pi", now=1.0)
    for name in ("", "a b", "-a", "a\n", "x" * 64):
        with pytest.raises(UsageError):
            await tokens.create(store, name=name, now=1.0)
    with pytest.raises(UsageError):
        await tokens.create(store, name="a", kind="admin", device="b", now=1.0)


async def test_expired_and_revoked_tokens_open_nothing(store: SqliteStore) -> None:
    secret, token = await tokens.create(store, name="pi", now=100.0, expires_in=10.0)
    assert tokens.refusal(token, 109.9) is None
    assert tokens.refusal(token, 110.0) == "expired_token"
    assert await store.token_revoke("pi", 105.0)
    assert tokens.refusal(await tokens.find(store, secret), 106.0) == "revoked_token"
    assert not await store.token_revoke("pi", 107.0)
    assert not await store.token_revoke("other", 107.0)
    assert tokens.refusal(None, 0.0) == "unknown_token"


@pytest.mark.parametrize(
    ("value", "credential"),
    [
        (b"Bearer abc", "abc"),
        ("bearer  abc ", "abc"),
        (b"Basic abc", None),
        (b"Bearer", None),
        (b"Bearer ", None),
        (None, None),
    ],
)
def test_bearer(value: bytes | str | None, credential: str | None) -> None:
    assert tokens.bearer(value) == credential
