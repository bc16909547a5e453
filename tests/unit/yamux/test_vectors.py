"""Byte vectors assembled by hand from the yamux specification."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from proxy_engine_core._testing.yamux import Session, header_decode, header_encode

ROOT = Path(__file__).parents[2]
VECTORS = json.loads((ROOT / "vectors" / "yamux_frames.json").read_text())["vectors"]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_vector_reads_and_writes_as_specified(vector):
    session = Session(is_client=vector["role"] == "client")
    for step in vector["before"]:
        verb, *arguments = step.split()
        getattr(session, verb)(*map(int, arguments))
    events = session.receive(bytes.fromhex(vector["input"]))
    assert [
        [name, stream_id, value.hex() if isinstance(value, bytes) else value]
        for name, stream_id, value in events
    ] == vector["events"]
    assert session.output() == bytes.fromhex(vector["output"])


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("00 00 0000 00000000 00000000", (0, 0, 0, 0, 0)),
        ("00 01 000f 00000003 00040000", (0, 1, 15, 3, 262144)),
        ("00 ff ffff ffffffff ffffffff", (0, 255, 65535, 0xFFFFFFFF, 0xFFFFFFFF)),
        ("00 02 0102 01020304 05060708", (0, 2, 0x0102, 0x01020304, 0x05060708)),
    ],
)
def test_header_fields_lie_where_the_specification_puts_them(text, fields):
    assert header_decode(bytes.fromhex(text)) == fields
    assert header_encode(*fields[1:]) == bytes.fromhex(text)
