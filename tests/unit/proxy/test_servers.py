from __future__ import annotations

from proxy_engine.agent.servers import Servers, parse_server

ONE, TWO = (parse_server(f"http://{name}.example") for name in ("one", "two"))


def test_one_server_and_one_carrier_leave_nothing_to_choose() -> None:
    servers = Servers([ONE], "ws")
    for _ in range(3):
        assert (servers.server, servers.carrier) == (ONE, "websocket")
        assert not servers.has_other_carrier
        assert not servers.failed(may_be_carrier=True)


def test_servers_are_tried_in_turn_until_all_were() -> None:
    servers = Servers([ONE, TWO], "tcp")
    assert servers.failed(may_be_carrier=False)
    assert servers.server == TWO
    assert not servers.failed(may_be_carrier=False)
    assert servers.server == ONE


def test_what_worked_begins_a_new_round() -> None:
    servers = Servers([ONE, TWO], "tcp")
    servers.failed(may_be_carrier=False)
    servers.worked("raw")
    assert servers.server == TWO
    assert servers.failed(may_be_carrier=False)
    assert servers.server == ONE
    assert not servers.failed(may_be_carrier=False)


def test_auto_tries_raw_then_websocket_and_remembers_what_worked() -> None:
    servers = Servers([ONE], "auto")
    assert (servers.server, servers.carrier) == (ONE, "raw")
    assert servers.failed(may_be_carrier=True)
    assert (servers.server, servers.carrier) == (ONE, "websocket")
    servers.worked("websocket")
    assert not servers.failed(may_be_carrier=False)
    assert (servers.server, servers.carrier) == (ONE, "websocket")
    assert servers.failed(may_be_carrier=True)
    assert (servers.server, servers.carrier) == (ONE, "raw")
    assert not servers.failed(may_be_carrier=True)
    assert (servers.server, servers.carrier) == (ONE, "websocket")


def test_a_server_that_is_away_is_no_reason_for_another_carrier() -> None:
    servers = Servers([ONE, TWO], "auto")
    assert servers.failed(may_be_carrier=False)
    assert (servers.server, servers.carrier) == (TWO, "raw")
    servers.failed(may_be_carrier=True)
    servers.worked("websocket")
    servers.failed(may_be_carrier=False)
    assert (servers.server, servers.carrier) == (ONE, "raw")
    servers.failed(may_be_carrier=False)
    assert (servers.server, servers.carrier) == (TWO, "websocket")
