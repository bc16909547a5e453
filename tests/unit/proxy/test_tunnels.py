from __future__ import annotations

import msgspec
import pytest

from proxy_engine.errors import UsageError
from proxy_engine.storage import Tunnel
from proxy_engine.tunnels.options import Options, check
from proxy_engine.tunnels.routes import TunnelTable, name_refusal


def tunnel(number: int, name: str) -> Tunnel:
    return Tunnel(id=number, name=name, kind="http", device_id=1, created_at=0.0)


WEB, API = tunnel(1, "web"), tunnel(2, "api")


@pytest.fixture
def table() -> TunnelTable:
    return TunnelTable(domain="localhost", port=8080)


def test_known_tunnels_have_routes_before_their_device_is_there(table: TunnelTable) -> None:
    assert table.load([WEB]) == [
        ("set", "host:web.localhost", 1, (), "web"),
        ("set", "name:web", 1, (), "web"),
    ]


def test_a_link_serves_its_tunnels(table: TunnelTable) -> None:
    table.load([WEB])
    assert table.serve(7, [WEB]) == [
        ("set", "host:web.localhost", 1, (7,), "web"),
        ("set", "name:web", 1, (7,), "web"),
    ]
    assert table.links(WEB) == (7,)


def test_serving_the_same_again_changes_nothing(table: TunnelTable) -> None:
    table.serve(7, [WEB])
    assert table.serve(7, [WEB]) == []


def test_a_newer_link_takes_over_and_the_older_ones_end_takes_nothing_away(
    table: TunnelTable,
) -> None:
    table.serve(7, [WEB, API])
    ops = table.serve(8, [WEB], instead_of=[7])
    assert ("set", "name:web", 1, (8,), "web") in ops
    assert table.links(API) == (7,)
    assert table.withdraw(7) == [
        ("set", "host:api.localhost", 2, (), "api"),
        ("set", "name:api", 2, (), "api"),
    ]
    assert table.links(WEB) == (8,)


def test_several_links_serve_a_tunnel_beside_each_other(table: TunnelTable) -> None:
    for link in (7, 8, 9):
        ops = table.serve(link, [WEB])
    assert ops[1] == ("set", "name:web", 1, (7, 8, 9), "web")
    assert len(table.serve(10, [WEB], instead_of=[8])) == 2
    assert table.links(WEB) == (7, 9, 10)
    assert table.withdraw(8) == []
    assert len(table.withdraw(7)) == 2
    assert table.links(WEB) == (9, 10)


def test_registering_fewer_tunnels_withdraws_the_others(table: TunnelTable) -> None:
    table.serve(7, [WEB, API])
    assert table.serve(7, [API]) == [
        ("set", "host:web.localhost", 1, (), "web"),
        ("set", "name:web", 1, (), "web"),
    ]


def test_connections_have_the_default_profile_where_nobody_has_named_one() -> None:
    table = TunnelTable(domain="localhost", port=80, default_profile="throughput")
    named = msgspec.structs.replace(API, options=Options(profile="balanced"))
    table.load([WEB, named])
    assert table.serve(7, [WEB])[0][-1] == {"profile": "throughput"}
    assert table.serve(8, [named])[0][-1] == "api"  # the engine's own default
    ops = table.set_default_profile("latency")
    assert [op[-1] for op in ops] == [{"profile": "latency"}] * 2 + ["api"] * 2
    agents = {"web": Options(profile="throughput")}
    assert table.serve(7, [WEB], options=agents)[0][-1] == {"profile": "throughput"}
    assert [op[-1] for op in table.set_default_profile("balanced")[:2]] == [
        {"profile": "throughput"}
    ] * 2


def test_responses_tell_the_time_where_somebody_said_so() -> None:
    table = TunnelTable(domain="localhost", port=80, default_timing=True)
    named = msgspec.structs.replace(API, options=Options(server_timing=False))
    table.load([WEB, named])
    assert table.serve(7, [WEB])[0][-1] == {"server_timing": True}
    assert table.serve(8, [named])[0][-1] == "api"
    assert [op[-1] for op in table.set_default_timing(False)] == ["web"] * 2 + ["api"] * 2
    agents = {"web": Options(server_timing=True)}
    assert table.serve(7, [WEB], options=agents)[0][-1] == {"server_timing": True}
    tcp = Options(server_timing=True)
    with pytest.raises(UsageError, match="server_timing is an option of HTTP tunnels"):
        check(tcp, "tcp")


def test_the_default_tunnel_has_a_third_key() -> None:
    table = TunnelTable(domain="localhost", port=80, default_tunnel="web")
    assert [op[1] for op in table.load([WEB, API])] == [
        "host:web.localhost",
        "name:web",
        "default",
        "host:api.localhost",
        "name:api",
    ]


def test_urls_leave_out_the_port_of_http(table: TunnelTable) -> None:
    assert table.url(WEB, "pi") == "http://web.localhost:8080/"
    assert TunnelTable(domain="example.com", port=80).url(WEB, "pi") == "http://web.example.com/"


@pytest.mark.parametrize(
    ("name", "kind", "code"),
    [
        ("web", "http", None),
        ("Web", "http", "bad_name"),
        ("web", "tcp", None),
        ("web", "udp", None),
        ("web", "sctp", "bad_kind"),
    ],
)
def test_which_tunnels_can_be(name: str, kind: str, code: str | None) -> None:
    refusal = name_refusal(name, kind)
    assert (refusal and refusal[0]) == code


def test_what_the_store_said_before_does_not_undo_what_was_done_since(table: TunnelTable) -> None:
    table.load([WEB, API])
    before, read = {WEB.id, API.id}, [WEB, API]  # and then, before the answer is looked at:
    newer = msgspec.structs.replace(WEB, version=2, is_enabled=False)
    assert table.put(newer)[0][-1] == {"disabled": True}
    assert ("delete", "name:api") in table.drop(API)
    table.learn([tunnel(3, "new")])
    assert table.sync(read, before) == []
    assert [each.name for each in table] == ["web", "new"]
    assert table.get("web") == newer


def test_a_name_may_be_another_tunnel_meanwhile(table: TunnelTable) -> None:
    table.load([WEB])
    ops = table.sync([tunnel(9, "web")], {WEB.id})
    assert ops[-1] == ("set", "name:web", 9, (), "web")
    assert ops.index(("delete", "name:web")) < ops.index(ops[-1])


def test_a_kind_that_changes_takes_only_what_it_can(table: TunnelTable) -> None:
    """Options of HTTP say nothing of TCP; what keeps visitors away stays."""
    options = Options(deny=("10.0.0.0/8",), strip_prefix="/a")
    table.load([msgspec.structs.replace(WEB, options=options)])
    ops = table.change(msgspec.structs.replace(WEB, options=options, kind="tcp", port=5))
    policy = {"deny": ("10.0.0.0/8",)}
    assert ops[-2:] == [
        ("set", "tcp:web", 1, (), "web", policy),
        ("set", "tcp::5", 1, (), "web", policy),
    ]
