"""The vectors under tests/vectors/http1, whole and byte by byte."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from proxy_engine_core._testing import http1

VECTORS = Path(__file__).parents[2] / "vectors" / "http1"
FRAMINGS = ("none", "length", "chunked", "close")


def load(name: str) -> list[Any]:
    vectors = json.loads((VECTORS / name).read_text())
    return [pytest.param(vector, id=vector["name"]) for vector in vectors]


@pytest.mark.parametrize("vector", load("requests.json"))
def test_request_vector_is_answered_as_written(vector: dict[str, str]) -> None:
    head = http1.parse_request(vector["raw"].encode("latin-1"))
    assert ("accepted" if isinstance(head, dict) else head) == vector["expect"]
    for key in ("authority", "path"):
        if key in vector:
            assert isinstance(head, dict)
            assert head[key] == vector[key].encode()


@pytest.mark.parametrize("vector", load("requests.json"))
def test_precheck_refuses_no_start_of_an_accepted_request(vector: dict[str, str]) -> None:
    raw = vector["raw"].encode("latin-1")
    refused = {size: reason for size in range(len(raw)) if (reason := http1.precheck(raw[:size]))}
    if vector["expect"] == "accepted":
        assert refused == {}
    # Once refused, always refused: more bytes never mend a head.
    if refused:
        assert sorted(refused) == list(range(min(refused), len(raw)))


@pytest.mark.parametrize("vector", load("responses.json"))
def test_response_vector_is_answered_as_written(vector: dict[str, str]) -> None:
    head = http1.parse_response(vector["raw"].encode("latin-1"))
    assert ("accepted" if isinstance(head, dict) else head) == vector["expect"]
    if "framing" in vector:
        assert isinstance(head, dict)
        assert FRAMINGS[head["framing"]] == vector["framing"]


@pytest.mark.parametrize("allow_extensions", [False, True], ids=["request", "response"])
@pytest.mark.parametrize("vector", load("chunked.json"))
def test_chunked_vector_is_answered_as_written(
    vector: dict[str, Any], allow_extensions: bool
) -> None:
    raw = vector["raw"].encode("latin-1")
    outcome = vector["outcome"]
    if allow_extensions:
        outcome = vector.get("response_outcome", outcome)
    whole = http1.read_chunks([raw], allow_extensions)
    assert whole[1] == outcome
    if "data" in vector:
        assert whole[0] == vector["data"].encode("latin-1")
    if "used" in vector:
        assert whole[2] == vector["used"]
    single = http1.read_chunks([raw[at : at + 1] for at in range(len(raw))], allow_extensions)
    assert single[:2] == whole[:2]
