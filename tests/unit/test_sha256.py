"""SHA-256, against the one of Python."""

from __future__ import annotations

import hashlib
import random

import pytest

from proxy_engine_core._testing.core_parts import sha256_of


@pytest.mark.parametrize(
    ("message", "digest"),
    [  # FIPS 180-2, appendix B
        (b"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        (
            b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
        ),
        (b"a" * 1_000_000, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"),
    ],
)
def test_the_vectors_of_the_standard(message: bytes, digest: str) -> None:
    assert sha256_of(message).hex() == digest


def test_every_size_around_the_blocks() -> None:
    chance = random.Random(1)
    for size in range(300):
        message = chance.randbytes(size)
        assert sha256_of(message) == hashlib.sha256(message).digest()
