"""What goes ahead of bulk, and what must not: the rule at the top of send.pxd."""

from __future__ import annotations

import pytest

from proxy_engine_core._testing.yamux import BURST_SMALL, Session, header_decode, header_encode

DATA, WINDOW_UPDATE, PING, GO_AWAY = range(4)
SYN, ACK, FIN, RST = 1, 2, 4, 8
KIB = 1 << 10


def taken(session: Session, bulk: int | None = None) -> list[tuple[int, int, int, int]]:
    """(type, flags, stream, length) of the frames that leave now."""
    data, frames = session.output(bulk), []
    while data:
        _, type_, flags, stream, length = header_decode(data[:12])
        frames.append((type_, flags, stream, length))
        data = data[12 + (length if type_ == DATA else 0) :]
    return frames


@pytest.fixture
def session() -> Session:
    """With streams 2, 4, 6 and 8 open, so that frames are 16 KiB; 2 sends bulk."""
    session = Session(is_client=False, window=1 << 20, passing=True)
    for _ in range(4):
        session.open()
    session.output()
    session.send(2, bytes(64 * KIB))
    return session


def test_a_small_message_passes_bulk(session: Session) -> None:
    session.send(4, bytes(100))
    assert taken(session, 0) == [(DATA, 0, 4, 100)]
    assert taken(session) == [(DATA, 0, 2, 16 * KIB)] * 4


def test_bulk_is_what_a_stream_sends_beyond_its_first_bytes(session: Session) -> None:
    session.send(4, bytes(6 * KIB))
    session.send(4, bytes(6 * KIB))
    session.send(4, bytes(6 * KIB))
    session.send(6, bytes(BURST_SMALL + 1))
    assert taken(session, 0) == [(DATA, 0, 4, 6 * KIB)] * 2
    assert taken(session)[4:] == [
        (DATA, 0, 4, 6 * KIB), (DATA, 0, 6, BURST_SMALL), (DATA, 0, 6, 1),
    ]  # fmt: skip


def test_a_stream_whose_source_rested_may_pass_again(session: Session) -> None:
    session.send(4, bytes(12 * KIB))
    session.output()
    session.send(2, bytes(16 * KIB))
    session.rest(4)
    session.send(4, bytes(12 * KIB))
    assert taken(session, 0) == [(DATA, 0, 4, 12 * KIB)]


def test_a_rest_counts_only_when_the_last_burst_has_left(session: Session) -> None:
    session.send(4, bytes(12 * KIB))
    session.rest(4)
    session.send(4, bytes(12 * KIB))
    assert taken(session, 0) == [(DATA, 0, 4, 12 * KIB)]
    assert taken(session)[-1] == (DATA, 0, 4, 12 * KIB)


def test_a_stream_never_passes_itself(session: Session) -> None:
    session.rest(2)
    session.send(2, b"later")
    assert taken(session, 0) == []
    assert taken(session)[-1] == (DATA, 0, 2, 5)


@pytest.mark.parametrize("end", ["finish", "release"])
def test_fin_and_reset_stay_behind_the_data(session: Session, end: str) -> None:
    if end == "finish":
        session.finish(2)
    else:
        session.release(2, 5)
    assert taken(session, 0) == []
    last = (DATA, FIN, 2, 0) if end == "finish" else (WINDOW_UPDATE, RST, 2, 5)
    assert taken(session)[-1] == last


def test_fin_and_reset_of_a_stream_without_bulk_pass(session: Session) -> None:
    session.send(4, b"all")
    session.finish(4)
    session.release(6, 1)
    assert taken(session, 0) == [
        (DATA, 0, 4, 3), (DATA, FIN, 4, 0), (WINDOW_UPDATE, RST, 6, 1),
    ]  # fmt: skip


def test_pings_pongs_opens_and_credit_pass(session: Session) -> None:
    session.ping(7)
    session.receive(header_encode(PING, SYN, 0, 9))
    stream = session.open()
    assert stream == 10
    size = 256 * KIB
    session.receive(header_encode(DATA, 0, 4, size) + bytes(size))
    session.consume(4, size)
    assert taken(session, 0) == [
        (PING, SYN, 0, 7), (PING, ACK, 0, 9), (WINDOW_UPDATE, SYN, 10, 0),
        (WINDOW_UPDATE, 0, 4, size),
    ]  # fmt: skip


def test_go_away_passes_nothing(session: Session) -> None:
    session.go_away(0)
    assert taken(session, 0) == []
    assert taken(session)[-1] == (GO_AWAY, 0, 0, 0)
