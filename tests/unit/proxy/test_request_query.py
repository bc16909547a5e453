from __future__ import annotations

import pytest

from proxy_engine.requests.query import parse_status, parse_time, wanted
from proxy_engine.storage.requests import U63_MAX, RequestQuery


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("502", (502, 502)),
        ("5xx", (500, 599)),
        ("4XX", (400, 499)),
        ("400-451", (400, 451)),
        ("0", (0, 0)),
    ],
)
def test_a_status_is_one_a_class_or_a_range(text: str, status: tuple[int, int]) -> None:
    assert parse_status(text) == status


@pytest.mark.parametrize("text", ["", "9xx", "xx", "5x", "1000", "-1", "400-", "٥xx"])
def test_what_is_no_status_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a status"):
        parse_status(text)


def test_a_time_is_a_number_a_date_or_an_age() -> None:
    assert parse_time("1790000000.5") == 1790000000.5
    assert parse_time("1h", now=10_000.0) == 6_400.0
    assert parse_time("90", now=100.0) == 10.0
    assert parse_time("2026-01-31T12:00") == parse_time("2026-01-31T13:00+01:00") == 1769860800.0
    assert parse_time("2026-01-31") == 1769817600.0
    for text in ("", "yesterday", "1 hour", "2026-13-01", "9" * 40):
        with pytest.raises(ValueError, match="neither a time"):
            parse_time(text)


def test_what_is_not_asked_for_is_not_restricted() -> None:
    assert wanted() == RequestQuery()
    query = wanted(since=1.5, until=1e300, min_ms=0.5, max_ms=2, status=(500, 599), path="x")
    assert (query.since_us, query.until_us) == (1_500_000, U63_MAX)
    assert (query.total_us, query.status, query.path) == ((500, 2000), (500, 599), "x")
