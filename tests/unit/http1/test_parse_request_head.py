"""The strict parser as Python sees it."""

from __future__ import annotations

import pytest

from proxy_engine_core.http1.python import parse_request_head


def test_head_is_method_target_and_fields() -> None:
    head = (
        b"GET /_proxy/link?token=x HTTP/1.1\r\nHost: a.example\r\nX-A:  caf\xe9 \r\n"
        b"x-a: 2\r\nConnection: Upgrade\r\n\r\n"
    )
    assert parse_request_head(head) == (
        "GET",
        "/_proxy/link?token=x",
        [("host", b"a.example"), ("x-a", b"caf\xe9"), ("x-a", b"2"), ("connection", b"Upgrade")],
    )


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (b"", "bad_request_line"),
        (b"GET / HTTP/1.1\r\n\r\n", "bad_host"),
        (b"GET / HTTP/1.1\r\nHost: a\r\n", "bad_line_end"),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\nbody", "bad_line_end"),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n\r\n", "bad_line_end"),
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", "version_unsupported"),
    ],
)
def test_refused_head_raises_with_its_reason(head: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=f"^{reason}: [A-Z].*\\.$"):
        parse_request_head(head)


def test_only_bytes_are_parsed() -> None:
    with pytest.raises(TypeError):
        parse_request_head("GET / HTTP/1.1\r\nHost: a\r\n\r\n")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        parse_request_head(None)  # type: ignore[arg-type]
