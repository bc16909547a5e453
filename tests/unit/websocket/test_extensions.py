"""Sec-WebSocket-Extensions: RFC 6455 section 9.1, RFC 7692 section 7.1."""

from __future__ import annotations

import pytest

from proxy_engine_core.websocket.extensions import (
    ANSWER,
    OFFER,
    Deflate,
    Extension,
    accept_deflate,
    check_deflate,
    parse_extensions,
)


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ([], []),
        ([""], []),
        (["a"], [("a", {})]),
        (["a, b;c", "d; e=1;f"], [("a", {}), ("b", {"c": None}), ("d", {"e": "1", "f": None})]),
        ([" a ; b = c ,, d ,"], [("a", {"b": "c"}), ("d", {})]),
        (['a; b="1,2;\\"3\\""'], [("a", {"b": '1,2;"3"'})]),
        (["A; B=C"], [("a", {"b": "C"})]),
    ],
)
def test_lists_of_extensions(values: list[str], found: list[tuple[str, dict[str, str]]]) -> None:
    assert parse_extensions(values) == [Extension(*item) for item in found]


@pytest.mark.parametrize(
    "value", ["a b", "a;", "a; b=", "a; b; b", "a; b; B=1", '"a"', 'a; b="c', "a; =b", "a/b", "é"]
)
def test_malformed_lists_are_refused(value: str) -> None:
    with pytest.raises(ValueError, match=r"malformed|twice"):
        parse_extensions([value])


NO_TAKEOVER = "; server_no_context_takeover; client_no_context_takeover"


@pytest.mark.parametrize(
    ("offer", "window_bits", "answer"),
    [
        ("permessage-deflate", 15, NO_TAKEOVER),
        ("permessage-deflate; client_max_window_bits", 15, NO_TAKEOVER),
        ("permessage-deflate; client_max_window_bits=8", 15, NO_TAKEOVER),
        ("permessage-deflate; server_no_context_takeover", 15, NO_TAKEOVER),
        ("permessage-deflate; client_no_context_takeover", 15, NO_TAKEOVER),
        (
            "permessage-deflate; server_max_window_bits=9",
            9,
            NO_TAKEOVER + "; server_max_window_bits=9",
        ),
        (
            "permessage-deflate; server_max_window_bits=15",
            15,
            NO_TAKEOVER + "; server_max_window_bits=15",
        ),
        (
            "permessage-deflate; server_max_window_bits=8",  # and we compress nothing
            8,
            NO_TAKEOVER + "; server_max_window_bits=8",
        ),
        # The first that can be accepted.
        ("x-webkit-deflate-frame, permessage-deflate", 15, NO_TAKEOVER),
        ("permessage-deflate; server_max_window_bits=7, permessage-deflate", 15, NO_TAKEOVER),
    ],
)
def test_offers_a_server_accepts(offer: str, window_bits: int, answer: str) -> None:
    accepted = accept_deflate(parse_extensions([offer]))
    assert accepted == (Deflate(window_bits), "permessage-deflate" + answer)


@pytest.mark.parametrize(
    "offer",
    [
        "",
        "permessage-bzip2",
        "permessage-deflate; server_max_window_bits=7",
        "permessage-deflate; server_max_window_bits",
        "permessage-deflate; server_max_window_bits=16",
        "permessage-deflate; server_max_window_bits=09",
        "permessage-deflate; client_max_window_bits=7",
        "permessage-deflate; client_no_context_takeover=1",
        "permessage-deflate; unknown",
    ],
)
def test_offers_a_server_declines(offer: str) -> None:
    assert accept_deflate(parse_extensions([offer])) is None


def test_our_server_answers_what_our_client_accepts() -> None:
    accepted = accept_deflate(parse_extensions([OFFER]))
    assert accepted is not None
    assert check_deflate(parse_extensions([accepted[1]])) == Deflate()


@pytest.mark.parametrize(
    ("answer", "agreed"),
    [
        ("", None),
        (ANSWER, Deflate()),
        ("permessage-deflate; server_no_context_takeover", Deflate()),
        (ANSWER + "; server_max_window_bits=8", Deflate()),  # of the server: we read any
        (ANSWER + "; client_max_window_bits=10", Deflate(10)),
        (ANSWER + "; client_max_window_bits=8", Deflate(8)),
    ],
)
def test_answers_a_client_accepts(answer: str, agreed: Deflate | None) -> None:
    assert check_deflate(parse_extensions([answer])) == agreed


@pytest.mark.parametrize(
    "answer",
    [
        "permessage-deflate",  # 7.1.1.1: what was demanded must be agreed to
        ANSWER + "; client_max_window_bits",
        ANSWER + "; client_max_window_bits=16",
        ANSWER + "; server_max_window_bits=7",
        ANSWER + "; server_max_window_bits",
        ANSWER + "; unknown",
        "permessage-deflate; server_no_context_takeover=1",
        "permessage-bzip2",
        f"{ANSWER}, {ANSWER}",
    ],
)
def test_answers_a_client_refuses(answer: str) -> None:
    with pytest.raises(ValueError, match=r"offer|agree"):
        check_deflate(parse_extensions([answer]))
