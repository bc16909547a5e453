from __future__ import annotations

import pytest

from proxy_engine.requests.redaction import SECRET_KEYS, Redactor


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/", "/"),
        ("/?", "/?"),
        ("/?a=b", "/?a=b"),
        ("/?key=1", "/?key=[redacted]"),
        ("/?KEY=1&secret=2", "/?KEY=[redacted]&secret=[redacted]"),
        ("/?a=1&password=x=y&b=2", "/?a=1&password=[redacted]&b=2"),
        ("/?access_token=a;signature=b", "/?access_token=[redacted];signature=[redacted]"),
        ("/?%74oken=1", "/?%74oken=[redacted]"),
        ("/?+token=1", "/?+token=[redacted]"),
        ("/?a=1&\xa0Token=1", "/?a=1&\xa0Token=[redacted]"),
        ("/?a=1&b=%20&key=1", "/?a=1&b=%20&key=[redacted]"),
        ("/?authorization=Bearer%20x", "/?authorization=[redacted]"),
        ("/?monkey=1&tokens=2", "/?monkey=1&tokens=2"),
        ("/?token=", "/?token="),
        ("/?token", "/?token"),
        ("/?a?token=1", "/?a?token=1"),
    ],
)
def test_redaction(path: str, expected: str) -> None:
    assert Redactor()(path) == expected


def test_every_secret_key_is_found_in_any_case() -> None:
    redact = Redactor()
    for key in SECRET_KEYS:
        assert redact(f"/?{key.upper()}=1&a=2") == f"/?{key.upper()}=[redacted]&a=2"
    assert redact.redacted == len(SECRET_KEYS)


def test_more_keys_may_be_named() -> None:
    redact = Redactor([" Pin", "a.b"])
    assert (
        redact("/?pin=1&PIN=2&a.b=3&axb=4")
        == "/?pin=[redacted]&PIN=[redacted]&a.b=[redacted]&axb=4"
    )
    assert redact("/?pins=1") == "/?pins=1"
    assert redact.redacted == 1


def test_our_own_tokens_are_taken_out_of_any_place() -> None:
    assert Redactor()("/x/pe_" + "A" * 43 + "/y") == "/x/pe_[redacted]/y"
