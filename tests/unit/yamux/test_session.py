"""The session's rules, one sentence a test. `client` and `server` are always ours."""

from __future__ import annotations

import pytest

from proxy_engine_core._testing.yamux import (
    FRAME_PAYLOAD_MAX,
    FRAME_PAYLOAD_SHARED,
    UNACKED_MAX,
    WINDOW_INITIAL,
    Event,
    Session,
    header_decode,
)
from proxy_engine_core._testing.yamux import header_encode as frame

DATA, WINDOW_UPDATE, PING, GO_AWAY = range(4)
SYN, ACK, FIN, RST = 1, 2, 4, 8
CANCEL, REFUSED, UNREACHABLE = 0, 1, 2
ENOMEM = -12


def frames_of(output: bytes) -> list[tuple[int, int, int, int, bytes]]:
    """(type, flags, stream id, length, payload) of every frame of ours."""
    found = []
    while output:
        version, type_, flags, stream_id, length = header_decode(output[:12])
        assert version == 0
        size = length if type_ == DATA else 0
        payload = output[12 : 12 + size]
        assert len(payload) == size
        found.append((type_, flags, stream_id, length, payload))
        output = output[12 + size :]
    return found


def sent(session: Session) -> list[tuple[int, int, int, int, bytes]]:
    return frames_of(session.output())


def opened(session: Session) -> int:
    stream_id = session.open()
    assert stream_id is not None
    return stream_id


@pytest.fixture
def client() -> Session:
    return Session(is_client=True)


@pytest.fixture
def server() -> Session:
    return Session(is_client=False)


# Opening and accepting


def test_client_opens_odd_ids_and_server_even_ids_that_grow(client, server):
    assert [client.open(), client.open(), client.open()] == [1, 3, 5]
    assert [server.open(), server.open()] == [2, 4]


def test_stream_opens_with_an_empty_window_update_that_carries_syn(client):
    opened(client)
    assert sent(client) == [(WINDOW_UPDATE, SYN, 1, 0, b"")]


def test_syn_of_the_peer_is_an_open_event_and_accept_answers_one_ack(server):
    assert server.receive(frame(WINDOW_UPDATE, SYN, 1, 0)) == [("open", 1, 0)]
    assert server.accept(1) == 0
    assert server.accept(1) == 0
    assert sent(server) == [(WINDOW_UPDATE, ACK, 1, 0, b"")]


def test_syn_on_a_data_frame_opens_before_its_payload(server):
    events = server.receive(frame(DATA, SYN, 1, 3) + b"abc")
    assert events == [("open", 1, 0), ("data", 1, b"abc")]
    assert server.stream_state(1)["receive_window"] == WINDOW_INITIAL - 3


def test_syn_on_a_window_update_adds_its_delta_before_the_open_event(server):
    windows = []
    events = server.receive(
        frame(WINDOW_UPDATE, SYN, 1, 1000),
        lambda event: windows.append(server.stream_state(1)["send_window"]),
    )
    assert events == [("open", 1, 0)]
    assert windows == [WINDOW_INITIAL + 1000]


def test_everything_in_one_data_frame_comes_in_order(server):
    events = server.receive(frame(DATA, SYN | FIN, 1, 2) + b"hi")
    assert events == [("open", 1, 0), ("data", 1, b"hi"), ("fin", 1, 0)]


def test_ack_of_our_stream_is_an_event_and_its_delta_grows_the_window(client):
    opened(client)
    events = client.receive(frame(WINDOW_UPDATE, ACK, 1, 500))
    assert events == [("ack", 1, 0), ("window", 1, 0)]
    assert client.stream_state(1)["send_window"] == WINDOW_INITIAL + 500


def test_ack_may_ride_on_the_first_data(client):
    opened(client)
    events = client.receive(frame(DATA, ACK, 1, 2) + b"ok")
    assert events == [("ack", 1, 0), ("data", 1, b"ok")]


def test_missing_ack_is_no_error(client):
    opened(client)
    events = client.receive(frame(DATA, FIN, 1, 2) + b"ok")
    assert events == [("data", 1, b"ok"), ("fin", 1, 0)]


def test_second_ack_is_an_error(client):
    opened(client)
    ack = frame(WINDOW_UPDATE, ACK, 1, 0)
    assert client.receive(ack + ack) == [("ack", 1, 0), ("error", 0, "flags")]


def test_ack_of_a_stream_the_peer_opened_is_an_error(server):
    server.receive(frame(WINDOW_UPDATE, SYN, 1, 0))
    assert server.receive(frame(WINDOW_UPDATE, ACK, 1, 0)) == [("error", 0, "flags")]


def test_ack_together_with_syn_is_an_error_and_opens_nothing(server):
    assert server.receive(frame(WINDOW_UPDATE, SYN | ACK, 1, 0)) == [("error", 0, "flags")]
    assert server.state()["stream_count"] == 0


def test_at_most_256_opens_wait_for_an_ack(client):
    ids = [client.open() for _ in range(UNACKED_MAX)]
    assert None not in ids
    assert client.open() is None
    client.receive(frame(WINDOW_UPDATE, ACK, 7, 0))
    assert client.open() == 2 * UNACKED_MAX + 1
    assert client.open() is None


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(frame(DATA, 0, 1, 1) + b"x", id="data"),
        pytest.param(frame(WINDOW_UPDATE, 0, 1, 9), id="window update"),
        pytest.param(frame(DATA, FIN, 1, 0), id="fin"),
        pytest.param(frame(WINDOW_UPDATE, RST, 1, 0), id="rst"),
    ],
)
def test_any_answer_counts_as_an_ack_for_the_limit_of_unacked_opens(client, answer):
    opened(client)
    assert client.state()["unacked_count"] == 1
    client.receive(answer)
    assert client.state()["unacked_count"] == 0
    client.release(1)
    assert client.state()["unacked_count"] == 0


def test_late_ack_after_the_first_data_is_still_legal_once(client):
    opened(client)
    client.receive(frame(DATA, 0, 1, 1) + b"x")
    assert client.receive(frame(WINDOW_UPDATE, ACK, 1, 0)) == [("ack", 1, 0)]
    assert client.state()["unacked_count"] == 0


def test_released_stream_no_longer_counts_as_unacked(client):
    client.release(opened(client))
    assert client.state()["unacked_count"] == 0


def test_ids_run_out_at_the_end_of_u32(client, server):
    client.set_next_id(0xFFFFFFFF)
    assert client.open() == 0xFFFFFFFF
    assert client.open() is None
    server.set_next_id(0xFFFFFFFE)
    assert server.open() == 0xFFFFFFFE
    assert server.open() is None


# Ids of the peer


@pytest.mark.parametrize("type_", [DATA, WINDOW_UPDATE])
def test_stream_id_zero_is_an_error(server, type_):
    assert server.receive(frame(type_, 0, 0, 0)) == [("error", 0, "stream_id")]


@pytest.mark.parametrize(("is_client", "wrong_id"), [(True, 1), (False, 2)])
def test_peer_that_opens_an_id_of_our_parity_is_an_error(is_client, wrong_id):
    session = Session(is_client=is_client)
    assert session.receive(frame(WINDOW_UPDATE, SYN, wrong_id, 0)) == [("error", 0, "stream_id")]


def test_syn_on_a_live_id_is_an_error(server):
    syn = frame(WINDOW_UPDATE, SYN, 1, 0)
    assert server.receive(syn + syn) == [("open", 1, 0), ("error", 0, "stream_id")]


def test_syns_may_arrive_out_of_order(server):
    # A Go peer takes ids in order and sends their SYNs from racing goroutines.
    events = server.receive(b"".join(frame(WINDOW_UPDATE, SYN, id_, 0) for id_ in (5, 1, 3)))
    assert [event[1] for event in events] == [5, 1, 3]
    assert server.state()["peer_last_id"] == 5


# Data and windows


def test_send_makes_one_frame_and_spends_the_window(client):
    stream = opened(client)
    client.output()
    assert client.send(stream, b"hello") == 0
    assert sent(client) == [(DATA, 0, 1, 5, b"hello")]
    assert client.stream_state(stream)["send_window"] == WINDOW_INITIAL - 5


def test_lone_stream_sends_large_frames(client):
    stream = opened(client)
    client.output()
    client.send(stream, b"x" * (FRAME_PAYLOAD_MAX + 1))
    assert [found[3] for found in sent(client)] == [FRAME_PAYLOAD_MAX, 1]


def test_frames_shrink_while_three_streams_live(client):
    streams = [opened(client) for _ in range(3)]
    client.output()
    client.send(streams[0], b"x" * FRAME_PAYLOAD_MAX)
    assert [found[3] for found in sent(client)] == [FRAME_PAYLOAD_SHARED] * 4
    client.release(streams[1])
    client.output()
    client.send(streams[0], b"x" * FRAME_PAYLOAD_MAX)
    assert [found[3] for found in sent(client)] == [FRAME_PAYLOAD_MAX]


def test_sending_nothing_makes_no_frame(client):
    stream = opened(client)
    client.output()
    assert client.send(stream, b"") == 0
    assert client.output() == b""


def test_frame_written_in_place_is_as_long_as_what_was_committed(client):
    stream = opened(client)
    client.output()
    assert client.send_in_place(stream, b"abc", 4096) == 0
    assert sent(client) == [(DATA, 0, 1, 3, b"abc")]
    assert client.stream_state(stream)["send_window"] == WINDOW_INITIAL - 3


def test_frame_abandoned_in_place_leaves_nothing_and_owns_no_memory(client):
    stream = opened(client)
    client.output()
    assert client.send_in_place(stream, b"", 65536) == 0
    assert client.state()["bytes_lent"] == 0
    assert client.output() == b""


def test_payload_is_delivered_as_it_arrives(server):
    server.receive(frame(WINDOW_UPDATE, SYN, 1, 0))
    assert server.receive(frame(DATA, FIN, 1, 6) + b"ab") == [("data", 1, b"ab")]
    assert server.receive(b"cd") == [("data", 1, b"cd")]
    assert server.receive(b"ef") == [("data", 1, b"ef"), ("fin", 1, 0)]


def test_window_is_debited_when_the_header_arrives(server):
    server.receive(frame(WINDOW_UPDATE, SYN, 1, 0) + frame(DATA, 0, 1, 1000))
    state = server.stream_state(1)
    assert state["receive_window"] == WINDOW_INITIAL - 1000
    assert state["unconsumed"] == 0


def test_frame_as_large_as_the_whole_window_is_accepted(server):
    server.receive(frame(WINDOW_UPDATE, SYN, 1, 0))
    payload = b"x" * WINDOW_INITIAL
    assert server.receive(frame(DATA, 0, 1, WINDOW_INITIAL) + payload) == [("data", 1, payload)]


def test_one_byte_beyond_the_window_is_an_error_at_the_header(server):
    server.receive(frame(WINDOW_UPDATE, SYN, 1, 0))
    assert server.receive(frame(DATA, 0, 1, WINDOW_INITIAL + 1)) == [("error", 0, "window")]


def test_syn_with_more_than_the_window_opens_nothing(server):
    assert server.receive(frame(DATA, SYN, 1, WINDOW_INITIAL + 1)) == [("error", 0, "window")]
    assert server.state()["stream_count"] == 0


def test_peer_may_not_grow_our_window_beyond_u32(client):
    opened(client)
    most = 0xFFFFFFFF - WINDOW_INITIAL
    assert client.receive(frame(WINDOW_UPDATE, 0, 1, most)) == [("window", 1, 0)]
    assert client.stream_state(1)["send_window"] == 0xFFFFFFFF
    assert client.receive(frame(WINDOW_UPDATE, 0, 1, 1)) == [("error", 0, "window")]


def test_window_update_of_zero_is_no_event(client):
    opened(client)
    assert client.receive(frame(WINDOW_UPDATE, 0, 1, 0)) == []


def test_credit_is_granted_in_quarter_window_steps_of_consumed_bytes(server):
    server.receive(frame(WINDOW_UPDATE, SYN, 1, 0))
    quarter = WINDOW_INITIAL // 4
    server.receive(frame(DATA, 0, 1, 2 * quarter) + b"x" * 2 * quarter)
    assert server.output() == b""
    server.consume(1, quarter - 1)
    assert server.output() == b""
    server.consume(1, 1)
    assert sent(server) == [(WINDOW_UPDATE, 0, 1, quarter, b"")]
    assert server.stream_state(1) == {
        "send_window": WINDOW_INITIAL,
        "receive_window": WINDOW_INITIAL - quarter,
        "unconsumed": quarter,
        "ungranted": 0,
        "window": WINDOW_INITIAL,
    }


def test_negotiated_window_applies_to_both_directions():
    session = Session(is_client=False, window=1 << 20)
    session.receive(frame(WINDOW_UPDATE, SYN, 1, 0))
    state = session.stream_state(1)
    assert state["send_window"] == state["receive_window"] == 1 << 20
    session.receive(frame(DATA, 0, 1, 1 << 18) + b"x" * (1 << 18))
    session.consume(1, 1 << 18)
    assert sent(session) == [(WINDOW_UPDATE, 0, 1, 1 << 18, b"")]


def test_no_credit_is_granted_after_fin(server):
    server.receive(frame(DATA, SYN | FIN, 1, WINDOW_INITIAL) + b"x" * WINDOW_INITIAL)
    server.consume(1, WINDOW_INITIAL)
    assert server.output() == b""


# FIN


def test_fin_is_its_own_empty_data_frame_and_is_sent_once(client):
    stream = opened(client)
    client.output()
    client.send(stream, b"bye")
    assert client.finish(stream) == 0
    assert client.finish(stream) == 0
    assert sent(client) == [(DATA, 0, 1, 3, b"bye"), (DATA, FIN, 1, 0, b"")]


@pytest.mark.parametrize("type_", [DATA, WINDOW_UPDATE])
def test_fin_is_heard_on_both_frame_types(server, type_):
    server.receive(frame(WINDOW_UPDATE, SYN, 1, 0))
    assert server.receive(frame(type_, FIN, 1, 0)) == [("fin", 1, 0)]


def test_fin_on_a_window_update_comes_after_its_delta(server):
    server.receive(frame(WINDOW_UPDATE, SYN, 1, 0))
    assert server.receive(frame(WINDOW_UPDATE, FIN, 1, 7)) == [("window", 1, 0), ("fin", 1, 0)]


@pytest.mark.parametrize("type_", [DATA, WINDOW_UPDATE])
def test_second_fin_is_skipped_and_counted(server, type_):
    # rust-yamux says FIN for every close of a stream's owner.
    server.receive(frame(WINDOW_UPDATE, SYN | FIN, 1, 0))
    assert server.receive(frame(type_, FIN, 1, 0)) == []
    assert server.state()["unknown_stream_frames"] == 1


def test_data_after_fin_is_skipped_and_counted(server):
    # hashicorp/yamux: a Close that races with a Write sends its FIN before the data.
    server.receive(frame(WINDOW_UPDATE, SYN | FIN, 1, 0))
    before = server.stream_state(1)
    late = frame(DATA, 0, 1, 3) + b"abc"
    assert server.receive(late + frame(WINDOW_UPDATE, SYN, 3, 0)) == [("open", 3, 0)]
    assert server.state()["unknown_stream_frames"] == 1
    assert server.state()["unknown_stream_bytes"] == 3
    assert server.stream_state(1) == before


def test_reset_behind_data_after_fin_is_a_reset(server):
    server.receive(frame(WINDOW_UPDATE, SYN | FIN, 1, 0))
    late = frame(DATA, 0, 1, 1) + b"x"
    assert server.receive(late + frame(WINDOW_UPDATE, RST, 1, 0)) == [("reset", 1, 0)]


def test_window_update_after_fin_still_grows_our_window(server):
    server.receive(frame(WINDOW_UPDATE, SYN | FIN, 1, 0))
    assert server.receive(frame(WINDOW_UPDATE, 0, 1, 5)) == [("window", 1, 0)]


def test_stream_is_closed_only_when_both_sides_finished(client):
    stream = opened(client)
    client.finish(stream)
    assert not client.is_closed(stream)
    client.receive(frame(DATA, ACK | FIN, 1, 0))
    assert client.is_closed(stream)
    client.output()
    client.release(stream)
    assert client.output() == b""


def test_half_closed_stream_still_receives(client):
    stream = opened(client)
    client.finish(stream)
    assert client.receive(frame(DATA, 0, 1, 2) + b"ok") == [("data", 1, b"ok")]


# RST


@pytest.mark.parametrize("type_", [DATA, WINDOW_UPDATE])
def test_length_of_rst_is_a_code_without_payload_or_delta(client, type_):
    opened(client)
    after = frame(PING, SYN, 0, 9)
    assert client.receive(frame(type_, RST, 1, UNREACHABLE) + after) == [("reset", 1, UNREACHABLE)]
    assert client.stream_state(1)["send_window"] == WINDOW_INITIAL
    assert client.is_closed(1)
    assert sent(client)[-1] == (PING, ACK, 0, 9, b"")


def test_rst_with_a_huge_code_overruns_no_window(client):
    opened(client)
    assert client.receive(frame(DATA, RST, 1, 0xFFFFFFFF)) == [("reset", 1, 0xFFFFFFFF)]


def test_rst_together_with_syn_opens_and_resets(server):
    assert server.receive(frame(WINDOW_UPDATE, SYN | RST, 1, 3)) == [
        ("open", 1, 0),
        ("reset", 1, 3),
    ]
    server.release(1)
    assert server.output() == b""


def test_rst_wins_over_fin_in_one_frame(client):
    opened(client)
    assert client.receive(frame(DATA, ACK | FIN | RST, 1, 0)) == [("ack", 1, 0), ("reset", 1, 0)]


def test_rst_wins_over_a_second_fin_too(client):
    opened(client)
    client.receive(frame(DATA, FIN, 1, 0))
    assert client.receive(frame(DATA, FIN | RST, 1, 0)) == [("reset", 1, 0)]


def test_rst_after_fin_is_a_reset(client):
    opened(client)
    client.receive(frame(DATA, FIN, 1, 0))
    assert client.receive(frame(WINDOW_UPDATE, RST, 1, 0)) == [("reset", 1, 0)]


def test_nothing_is_sent_after_the_peer_reset(client):
    stream = opened(client)
    client.receive(frame(DATA, 0, 1, WINDOW_INITIAL) + b"x" * WINDOW_INITIAL)
    client.receive(frame(WINDOW_UPDATE, RST, 1, 0))
    client.output()
    assert client.send(stream, b"late") == 0
    assert client.send_in_place(stream, b"late", 64) == 0
    assert client.finish(stream) == 0
    assert client.consume(stream, WINDOW_INITIAL) == 0
    client.release(stream)
    assert client.output() == b""


def test_frames_after_a_reset_are_ignored_before_and_after_the_release(client):
    opened(client)
    client.receive(frame(WINDOW_UPDATE, RST, 1, 0))
    late = frame(DATA, FIN, 1, 4) + b"late"
    assert client.receive(late) == []
    client.release(1)
    assert client.receive(late) == []
    state = client.state()
    assert (state["unknown_stream_frames"], state["unknown_stream_bytes"]) == (2, 8)


def test_release_of_an_open_stream_resets_it_with_the_code(client):
    stream = opened(client)
    client.output()
    client.release(stream, UNREACHABLE)
    assert sent(client) == [(WINDOW_UPDATE, RST, 1, UNREACHABLE, b"")]


def test_release_of_a_half_closed_stream_resets_it(client):
    stream = opened(client)
    client.finish(stream)
    client.output()
    client.release(stream, CANCEL)
    assert sent(client) == [(WINDOW_UPDATE, RST, 1, CANCEL, b"")]


def test_release_of_a_stream_never_accepted_resets_it(server):
    server.receive(frame(WINDOW_UPDATE, SYN | FIN, 1, 0))
    server.finish(1)
    server.output()
    server.release(1, REFUSED)
    assert sent(server) == [(WINDOW_UPDATE, RST, 1, REFUSED, b"")]


def test_both_ends_may_reset_at_once(client, server):
    opened(client)
    server.receive(client.output())
    client.release(1, CANCEL)
    server.release(1, REFUSED)
    ours, theirs = client.output(), server.output()
    assert client.receive(theirs) == []
    assert server.receive(ours) == []
    assert client.state()["unknown_stream_frames"] == 1


# Releasing in the middle


def test_stream_released_on_its_open_event_loses_the_rest_of_the_frame(server):
    def refuse(event: Event) -> None:
        if event[0] == "open":
            server.release(1, REFUSED)

    after = frame(PING, SYN, 0, 1)
    events = server.receive(frame(DATA, SYN | FIN, 1, 4) + b"body" + after, refuse)
    assert events == [("open", 1, 0)]
    assert server.state()["unknown_stream_bytes"] == 4
    assert sent(server) == [(WINDOW_UPDATE, RST, 1, REFUSED, b""), (PING, ACK, 0, 1, b"")]


def test_stream_released_between_two_pieces_of_a_frame_loses_the_rest(server):
    server.receive(frame(DATA, SYN | FIN, 1, 4) + b"bo")
    server.release(1)
    assert server.receive(b"dy" + frame(WINDOW_UPDATE, SYN, 3, 0)) == [("open", 3, 0)]


# Strangers and refusals


def test_frames_of_unknown_streams_are_skipped_and_counted(server):
    events = server.receive(
        frame(DATA, FIN, 99, 3) + b"abc" + frame(WINDOW_UPDATE, ACK, 98, 7) + frame(DATA, RST, 1, 5)
    )
    assert events == []
    state = server.state()
    assert (state["unknown_stream_frames"], state["unknown_stream_bytes"]) == (3, 3)


def test_stream_beyond_the_limit_is_reset_and_counted():
    session = Session(is_client=False, streams_max=1)
    session.receive(frame(WINDOW_UPDATE, SYN, 1, 0))
    assert session.receive(frame(DATA, SYN, 3, 2) + b"no") == []
    assert sent(session) == [(WINDOW_UPDATE, RST, 3, REFUSED, b"")]
    assert session.state()["streams_refused"] == 1
    session.release(1)
    assert session.receive(frame(WINDOW_UPDATE, SYN, 5, 0)) == [("open", 5, 0)]


def test_our_own_streams_do_not_count_against_the_peers_limit():
    session = Session(is_client=False, streams_max=1)
    assert session.open() == 2
    assert session.receive(frame(WINDOW_UPDATE, SYN, 1, 0)) == [("open", 1, 0)]
    session.release(2)
    assert session.receive(frame(WINDOW_UPDATE, SYN, 3, 0)) == []


def test_refused_stream_that_resets_itself_gets_no_answer():
    session = Session(is_client=False, streams_max=0)
    assert session.receive(frame(WINDOW_UPDATE, SYN | RST, 1, 0)) == []
    assert session.output() == b""
    assert session.state()["streams_refused"] == 1


# Ping and GoAway


def test_every_ping_is_echoed_once_with_its_value(server):
    assert server.receive(frame(PING, SYN, 0, 7) + frame(PING, SYN, 0, 0xFFFFFFFF)) == []
    assert sent(server) == [(PING, ACK, 0, 7, b""), (PING, ACK, 0, 0xFFFFFFFF, b"")]
    assert server.state()["pings_received"] == 2


def test_pong_of_our_ping_is_an_event(client):
    assert client.ping(42) == 0
    assert sent(client) == [(PING, SYN, 0, 42, b"")]
    assert client.receive(frame(PING, ACK, 0, 42)) == [("pong", 0, 42)]


def test_only_one_ping_is_in_flight(client):
    assert client.ping(1) == 0
    assert client.ping(2) == 1
    assert [found[3] for found in sent(client)] == [1]
    client.receive(frame(PING, ACK, 0, 1))
    assert client.ping(2) == 0


def test_pong_nobody_asked_for_is_an_error(client):
    assert client.receive(frame(PING, ACK, 0, 0)) == [("error", 0, "ping")]


def test_pong_with_another_value_is_an_error(client):
    client.ping(1)
    assert client.receive(frame(PING, ACK, 0, 2)) == [("error", 0, "ping")]


def test_second_pong_is_an_error(client):
    client.ping(1)
    pong = frame(PING, ACK, 0, 1)
    assert client.receive(pong + pong) == [("pong", 0, 1), ("error", 0, "ping")]


def test_go_away_is_an_event_after_which_nothing_opens(client):
    assert client.receive(frame(GO_AWAY, 0, 0, 2)) == [("go_away", 0, 2)]
    assert client.open() is None


def test_event_of_the_session_names_no_stream(client):
    opened(client)
    client.ping(1)
    events = client.receive(
        frame(DATA, ACK, 1, 0)
        + frame(PING, ACK, 0, 1)
        + frame(DATA, 0, 1, 0)
        + frame(GO_AWAY, 0, 0, 0)
    )
    assert events == [("ack", 1, 0), ("pong", 0, 1), ("go_away", 0, 0)]


def test_streams_outlive_a_go_away(client):
    stream = opened(client)
    client.receive(frame(GO_AWAY, 0, 0, 0))
    assert client.receive(frame(DATA, FIN, 1, 2) + b"ok") == [("data", 1, b"ok"), ("fin", 1, 0)]
    client.output()
    client.send(stream, b"still")
    assert sent(client) == [(DATA, 0, 1, 5, b"still")]


def test_streams_opened_after_our_go_away_are_refused(server):
    assert server.go_away(0) == 0
    assert server.receive(frame(WINDOW_UPDATE, SYN, 1, 0)) == []
    assert sent(server) == [(GO_AWAY, 0, 0, 0, b""), (WINDOW_UPDATE, RST, 1, REFUSED, b"")]


# Headers


def test_other_version_is_an_error(server):
    assert server.receive(b"\x01" + frame(DATA, SYN, 1, 0)[1:]) == [("error", 0, "version")]


def test_other_type_is_an_error(server):
    assert server.receive(frame(4, 0, 0, 0)) == [("error", 0, "type")]


def test_unknown_flags_are_ignored(server):
    assert server.receive(frame(WINDOW_UPDATE, 0xFFF0 | SYN, 1, 0)) == [("open", 1, 0)]


def test_error_ends_the_session_for_good(server):
    assert server.receive(frame(4, 0, 0, 0)) == [("error", 0, "type")]
    block = frame(WINDOW_UPDATE, SYN, 1, 0)
    assert server.receive(block) == [("error", 0, "type")]
    assert server.receive(b"") == [("error", 0, "type")]
    assert server.go_away(1) == 0
    assert sent(server) == [(GO_AWAY, 0, 0, 1, b"")]


def test_header_may_be_cut_at_any_byte():
    stream = frame(DATA, SYN | FIN, 1, 3) + b"abc" + frame(PING, SYN, 0, 5)
    for cut in range(1, len(stream)):
        session = Session(is_client=False)
        events = session.receive(stream[:cut]) + session.receive(stream[cut:])
        data = b"".join(event[2] for event in events if isinstance(event[2], bytes))
        assert data == b"abc"
        assert [event[0] for event in events if event[0] != "data"] == ["open", "fin"]
        assert sent(session) == [(PING, ACK, 0, 5, b"")]


# Memory


def test_session_without_streams_or_output_owns_nothing(client, server):
    for session in (client, server):
        assert session.state()["bucket_count"] == 0
        assert session.state()["bytes_lent"] == 0
    opened(client)
    server.receive(client.output())
    client.release(1)
    server.receive(client.output())
    server.release(1)
    for session in (client, server):
        assert session.state()["bucket_count"] == 0
        assert session.state()["bytes_lent"] == 0


def test_sixty_five_thousand_streams_work_and_their_table_shrinks_again():
    count = 65_000
    session = Session(is_client=False, streams_max=count)
    syns = b"".join(frame(WINDOW_UPDATE, SYN, id_, 0) for id_ in range(1, 2 * count, 2))
    assert len(session.receive(syns)) == count
    assert session.state()["bucket_count"] == 65536
    assert session.receive(frame(DATA, 0, 2 * count - 1, 1) + b"x")[0][2] == b"x"
    for id_ in range(1, 2 * count - 20, 2):
        session.release(id_)
    assert session.state()["bucket_count"] <= 128
    assert session.receive(frame(DATA, 0, 2 * count - 1, 1) + b"y")[0][2] == b"y"


def test_walk_by_releasing_meets_every_stream_once():
    session = Session(is_client=True)
    for _ in range(200):
        opened(session)
    session.receive(b"".join(frame(WINDOW_UPDATE, SYN, id_, 0) for id_ in range(2, 802, 2)))
    met = []
    while (stream_id := session.any_stream()) is not None:
        met.append(stream_id)
        session.release(stream_id)
    assert sorted(met) == sorted([*range(1, 401, 2), *range(2, 802, 2)])


def test_walk_meets_streams_opened_behind_it(server):
    server.receive(b"".join(frame(WINDOW_UPDATE, SYN, id_, 0) for id_ in range(1, 11, 2)))
    first = [server.any_stream()]
    server.release(first[0])
    second = server.any_stream()
    assert second not in first
    server.receive(frame(WINDOW_UPDATE, SYN, first[0], 0))
    met = set()
    while (stream_id := server.any_stream()) is not None:
        met.add(stream_id)
        server.release(stream_id)
    assert met == set(range(1, 11, 2))


def test_free_may_be_called_twice(client):
    opened(client)
    client.free()
    client.free()
    assert client.state()["stream_count"] == 0


def test_failed_write_of_a_frame_changes_nothing(server):
    quarter = WINDOW_INITIAL // 4
    server.receive(frame(DATA, SYN, 1, quarter) + b"x" * quarter)
    server.exhaust_memory()
    before = server.stream_state(1)
    assert server.open() is None
    assert server.accept(1) == ENOMEM
    assert server.send(1, b"abc") == ENOMEM
    assert server.send_in_place(1, b"abc", 64) == ENOMEM
    assert server.finish(1) == ENOMEM
    assert server.ping(1) == ENOMEM
    assert server.go_away(0) == ENOMEM
    assert server.stream_state(1) == before
    assert server.consume(1, quarter) == ENOMEM
    server.restore_memory()
    assert server.stream_state(1)["ungranted"] == quarter
    assert server.open() == 2
    assert server.accept(1) == 0
    assert server.consume(1, 0) == 0
    assert server.send(1, b"abc") == 0
    assert server.finish(1) == 0
    assert server.ping(1) == 0
    assert sent(server) == [
        (WINDOW_UPDATE, SYN, 2, 0, b""),
        (WINDOW_UPDATE, ACK, 1, 0, b""),
        (WINDOW_UPDATE, 0, 1, quarter, b""),
        (DATA, 0, 1, 3, b"abc"),
        (DATA, FIN, 1, 0, b""),
        (PING, SYN, 0, 1, b""),
    ]


@pytest.mark.parametrize(
    "input_", [frame(PING, SYN, 0, 1), frame(WINDOW_UPDATE, SYN, 1, 0)], ids=["pong", "refusal"]
)
def test_answer_that_finds_no_memory_ends_the_session(input_):
    session = Session(is_client=False, streams_max=0)
    session.exhaust_memory()
    assert session.receive(input_) == [("error", 0, "memory")]


def test_reset_that_finds_no_memory_ends_the_session(client):
    stream = opened(client)
    client.output()
    client.exhaust_memory()
    client.release(stream)
    assert client.receive(b"") == [("error", 0, "memory")]
