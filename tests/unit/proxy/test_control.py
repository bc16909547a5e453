from __future__ import annotations

import json

import pytest

from proxy_engine import control


def test_a_register_record_is_read() -> None:
    data = json.dumps(
        {
            "type": "register",
            "agent": "proxy-engine/0.1.0",
            "platform": "Linux",
            "tunnels": [{"name": "web", "kind": "http"}, {"name": "api"}],
        }
    )
    record = control.decode_from_agent(data.encode())
    assert isinstance(record, control.Register)
    assert [(spec.name, spec.kind) for spec in record.tunnels] == [("web", "http"), ("api", "http")]


def test_unknown_fields_are_ignored() -> None:
    record = control.decode_from_agent(b'{"x":1,"type":"drain","y":{"z":[]}}')
    assert isinstance(record, control.Drain)
    record = control.decode_from_agent(
        b'{"type":"register","tunnels":[{"name":"a","future":true}],"future":1}'
    )
    assert isinstance(record, control.Register)


def test_every_record_reads_back_as_written() -> None:
    for record in (
        control.Register(tunnels=[control.TunnelSpec("web")], agent="a", platform="p"),
        control.Drain(),
        control.Error("code", "message"),
    ):
        assert control.decode_from_agent(control.encode(record)) == record
    for answer in (
        control.Registered(
            [control.PublicTunnel("web", "http", "http://web.localhost/")],
            [control.RefusedTunnel("x", "tunnel_taken", "taken")],
        ),
        control.Drain(),
        control.Error("code"),
    ):
        assert control.decode_from_server(control.encode(answer)) == answer


def test_the_wire_form_is_what_the_protocol_says() -> None:
    assert json.loads(control.encode(control.Drain())) == {"type": "drain"}
    assert json.loads(control.encode(control.Error("a", "b"))) == {
        "type": "error",
        "code": "a",
        "message": "b",
    }


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"null", b"\xff", b"{}", b'{"type":1}', b"[" * 60000, b'"drain"']
)
def test_what_is_no_record_at_all_is_fatal(data: bytes) -> None:
    with pytest.raises(control.BadRecord) as caught:
        control.decode_from_agent(data)
    assert caught.value.code == "bad_record"
    assert caught.value.fatal


def test_an_unknown_type_is_not_fatal() -> None:
    with pytest.raises(control.BadRecord) as caught:
        control.decode_from_agent(b'{"type":"registered"}')
    assert caught.value.code == "unknown_record"
    assert not caught.value.fatal


@pytest.mark.parametrize(
    "data", [b'{"type":"register"}', b'{"type":"register","tunnels":[{"name":3}]}']
)
def test_a_known_type_with_wrong_fields_is_not_fatal(data: bytes) -> None:
    with pytest.raises(control.BadRecord) as caught:
        control.decode_from_agent(data)
    assert caught.value.code == "bad_record"
    assert not caught.value.fatal


def test_as_many_records_as_there_are_tunnels_for() -> None:
    assert len(control.encode_register(control.Register([]))) == 1
    tunnels = [control.TunnelSpec(f"t{number}") for number in range(300)]
    records = [
        control.decode_from_agent(record)
        for record in control.encode_register(control.Register(tunnels, "me", "here"))
    ]
    assert all(isinstance(record, control.Register) for record in records)
    assert [(len(each.tunnels), each.more) for each in records] == [  # type: ignore[union-attr]
        (128, True),
        (128, True),
        (44, False),
    ]


def test_the_largest_answer_fits_one_record() -> None:
    name, domain = "a" * 63, ".".join(["b" * 62] * 3)
    tunnel = control.PublicTunnel(name, "http", f"http://{name}.{domain}:65535/")
    answer = control.Registered([tunnel] * control.RECORD_TUNNELS_MAX)
    assert len(control.encode(answer)) <= 65536
