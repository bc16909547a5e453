"""Timer wheel, SPSC ring, mailbox, route table and preamble against simple models."""

from __future__ import annotations

import select
import struct
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy_engine_core._testing.core_parts import (
    PREAMBLE_MAX,
    SLOT_COUNT,
    TICK_MS,
    TUNNEL_TLV,
    Box,
    Ring,
    Routes,
    Wheel,
    parse_preamble,
    parse_proxy_header,
    preamble,
    preamble_tcp,
)

ROUND_MS = SLOT_COUNT * TICK_MS
TIMERS = 8

# --- timer wheel --------------------------------------------------------------------------

TIMES = st.one_of(
    st.integers(1, 100),
    st.integers(1, 5_000),
    st.integers(ROUND_MS - 100, ROUND_MS + 100),
    st.integers(1, 4 * ROUND_MS),
)
TIMER_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("set"), st.integers(0, TIMERS - 1), TIMES),
        st.tuples(st.just("cancel"), st.integers(0, TIMERS - 1), st.just(0)),
        st.tuples(st.just("remove"), st.integers(0, TIMERS - 1), st.just(0)),
        st.tuples(st.just("advance"), st.just(0), TIMES),
    ),
    max_size=60,
)


@given(start=st.integers(1, 1 << 40), steps=TIMER_STEPS)
def test_timers_come_never_early_and_at_most_a_tick_late(
    start: int, steps: list[tuple[str, int, int]]
) -> None:
    wheel = Wheel(TIMERS, start)
    deadlines: dict[int, int] = {}
    now = start

    def look(now: int) -> None:
        due = wheel.expire(now)
        assert len(due) == len(set(due))
        for index in due:
            assert deadlines.pop(index) <= now
        assert all(deadline > now - TICK_MS for deadline in deadlines.values())

    for verb, index, value in steps:
        if verb == "set":
            deadlines[index] = now + value
            wheel.set(index, now + value)
        elif verb == "cancel":
            deadlines.pop(index, None)
            wheel.cancel(index)
        elif verb == "remove":
            deadlines.pop(index, None)
            wheel.remove(index)
        else:
            now += value
            look(now)
    # Sleeping exactly as long as the wheel says loses none of them either.
    for _ in range(10_000):
        if not deadlines:
            break
        wait = wheel.wait_ms(now)
        assert wait >= 0, "a timer is armed, so there is something to wait for"
        assert now + wait <= min(deadlines.values()) + TICK_MS
        now += max(wait, 1)
        look(now)
    assert not deadlines


def test_a_deadline_many_rounds_away_comes_once_and_in_time() -> None:
    # It used to go back into the slot being emptied: the worker looped for ever.
    wheel = Wheel(1, 1_000)
    deadline = 1_000 + 3_600_000
    wheel.set(0, deadline)
    now = 1_000
    while not wheel.expire(now):
        wait = wheel.wait_ms(now)
        assert 0 < wait <= ROUND_MS
        now += wait
    assert deadline <= now <= deadline + TICK_MS
    assert wheel.wait_ms(now) == -1


def test_a_long_sleep_brings_all_that_is_due_and_nothing_else() -> None:
    wheel = Wheel(3, 5)
    wheel.set(0, 10)
    wheel.set(1, 20 * ROUND_MS)
    wheel.set(2, 20 * ROUND_MS + 1_000)
    assert sorted(wheel.expire(20 * ROUND_MS + 100)) == [0, 1]
    assert wheel.expire(20 * ROUND_MS + 1_000 + TICK_MS) == [2]


# --- SPSC ring ----------------------------------------------------------------------------


@given(
    st.lists(
        st.one_of(st.binary(max_size=200), st.integers(200, 2_000).map(bytes), st.none()),
        max_size=200,
    )
)
def test_what_goes_into_the_ring_comes_out_in_order(steps: list[bytes | None]) -> None:
    capacity = 4096
    ring = Ring(capacity)
    kept: list[bytes] = []
    for step in steps:
        if step is None:
            assert ring.pop() == (kept.pop(0) if kept else None)
            continue
        is_taken = ring.push(step)
        room = (len(step) + 4 + 7) // 8 * 8
        if is_taken:
            kept.append(step)
        else:
            # Refused only when it really does not fit: with the padding before the wrap it
            # may need twice its room.
            assert ring.used() + 2 * room > capacity
        assert ring.used() <= capacity
    for record in kept:
        assert ring.pop() == record
    assert ring.pop() is None
    assert ring.used() == 0


@pytest.mark.parametrize("lead", range(0, 4096, 504))
def test_a_record_as_large_as_the_ring_fits_once_it_is_empty(lead: int) -> None:
    # It is written from its start again, wherever it had got to.
    ring = Ring(4096)
    assert ring.push(bytes(lead // 2))
    assert not ring.push(bytes(4096 - 4))
    assert ring.pop() is not None
    assert ring.push(bytes(4096 - 4))
    assert ring.used() == 4096
    assert not ring.push(b"")
    assert ring.pop() == bytes(4096 - 4)


@pytest.mark.parametrize("lead", range(0, 2048, 504))
def test_a_ring_is_not_begun_again_while_something_waits_in_it(lead: int) -> None:
    ring = Ring(4096)
    assert ring.push(bytes(lead))
    assert ring.push(b"waits")
    assert ring.pop() == bytes(lead)
    kept = [b"waits"]
    for number in range(1000):  # a dozen times around, never empty
        record = bytes([number % 256]) * (number % 300)
        assert ring.push(record)
        kept.append(record)
        assert ring.pop() == kept.pop(0)
    assert ring.pop() == kept.pop(0)
    assert ring.pop() is None


# --- mailbox ------------------------------------------------------------------------------


@given(st.lists(st.one_of(st.integers(0, 1 << 31), st.none())))
def test_messages_are_taken_in_the_order_they_were_posted(steps: list[int | None]) -> None:
    box = Box()
    posted: list[int] = []
    for step in steps:
        if step is None:
            assert box.take() == posted
            posted = []
        else:
            box.post(step)
            posted.append(step)
    assert box.take() == posted


def test_only_the_first_post_after_arming_wakes() -> None:
    box = Box()
    poller = select.epoll()
    poller.register(box.event_fd, select.EPOLLIN | select.EPOLLET)
    try:
        assert box.arm()
        assert not poller.poll(0)
        box.post(1)
        assert poller.poll(0)
        box.post(2)
        assert not poller.poll(0), "it is awake already"
        assert not box.arm(), "not safe to sleep: messages wait"
        assert box.take() == [1, 2]
        assert box.arm()
        box.post(3)
        assert poller.poll(0), "the eventfd is never read, and still wakes"
    finally:
        poller.close()


def test_no_message_is_lost_or_reordered_between_threads() -> None:
    box = Box()
    writers, messages = 4, 5_000

    def write(writer: int) -> None:
        for number in range(messages):
            box.post(writer << 24 | number)

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(writers)]
    poller = select.epoll()
    poller.register(box.event_fd, select.EPOLLIN | select.EPOLLET)
    for thread in threads:
        thread.start()
    following = [0] * writers
    try:
        while sum(following) < writers * messages:
            for kind in box.take():
                assert kind & 0xFFFFFF == following[kind >> 24]
                following[kind >> 24] += 1
            if sum(following) < writers * messages and box.arm():
                assert poller.poll(10), "a wake-up was lost"
    finally:
        for thread in threads:
            thread.join()
        poller.close()


# --- route table --------------------------------------------------------------------------

KEYS = st.one_of(
    st.sampled_from([f"host:{name}.test".encode() for name in "abcdefgh"]),
    st.binary(min_size=1, max_size=12),
    st.integers(1, 261).map(lambda size: b"k" * size),
)


@given(
    st.lists(
        st.one_of(
            st.tuples(
                st.just("set"),
                KEYS,
                st.integers(1, 1 << 31),
                st.lists(st.integers(0, 2**64 - 1), max_size=128),
                st.binary(min_size=1, max_size=63),
            ),
            st.tuples(st.just("delete"), KEYS, st.just(0), st.just([]), st.just(b"")),
        ),
        max_size=100,
    )
)
def test_the_route_table_is_a_dict(
    steps: list[tuple[str, bytes, int, list[int], bytes]],
) -> None:
    table = Routes()
    model: dict[bytes, tuple[int, list[int], bytes]] = {}
    for verb, key, id_, links, name in steps:
        if verb == "set":
            table.set(key, id_, links, name)
            model[key] = (id_, links, name)
        else:
            table.delete(key)
            model.pop(key, None)
        assert table.find(key) == model.get(key)
    assert len(table) == len(model)
    assert all(table.find(key) == route for key, route in model.items())


def test_the_route_table_grows_and_empties() -> None:
    table = Routes()
    keys = [f"host:{index}.test".encode() for index in range(3_000)]
    for round_ in (1, 2):
        for index, key in enumerate(keys):
            table.set(key, index + round_, [round_] * (index % 129), b"web")
        assert len(table) == len(keys)
        assert all(
            table.find(key) == (index + round_, [round_] * (index % 129), b"web")
            for index, key in enumerate(keys)
        )
    for key in keys:
        table.delete(key)
        assert table.find(key) is None
    assert len(table) == 0


# --- preamble -----------------------------------------------------------------------------

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
ADDRESS_SIZES = {0x00: 0, 0x11: 12, 0x12: 12, 0x21: 36, 0x22: 36}


def header(command: int, family: int, content: bytes) -> bytes:
    return SIGNATURE + struct.pack(">BBH", command, family, len(content)) + content


def tlv(type_: int, value: bytes) -> bytes:
    return struct.pack(">BH", type_, len(value)) + value


@given(st.binary(min_size=1, max_size=63), st.binary(max_size=20))
def test_a_preamble_comes_back_as_it_went_out(tunnel: bytes, behind: bytes) -> None:
    made = preamble(tunnel)
    assert parse_preamble(made + behind) == (len(made), tunnel)


@given(
    st.sampled_from([0x20, 0x21]),
    st.sampled_from(sorted(ADDRESS_SIZES)),
    st.lists(
        st.tuples(st.integers(0, 255).filter(lambda t: t != TUNNEL_TLV), st.binary(max_size=40)),
        max_size=4,
    ),
    st.one_of(st.none(), st.binary(min_size=1, max_size=63)),
)
def test_any_family_and_any_other_tlvs_are_skipped_byte_by_byte(
    command: int, family: int, others: list[tuple[int, bytes]], tunnel: bytes | None
) -> None:
    content = b"\x01" * ADDRESS_SIZES[family] + b"".join(tlv(*other) for other in others)
    if tunnel is not None:
        content += tlv(TUNNEL_TLV, tunnel)
    made = header(command, family, content)
    for size in range(1, len(made)):
        assert parse_preamble(made[:size]) == (0, None)
    assert parse_preamble(made + b"GET /") == (len(made), tunnel)


@pytest.mark.parametrize(
    "source",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\r\n\r\n\x00\r\nQUIT\r",
        SIGNATURE + b"\x11\x00\x00\x00",  # version 1
        SIGNATURE + b"\x22\x00\x00\x00",  # no such command
        header(0x21, 0x31, b""),  # UNIX
        header(0x21, 0x11, b"\x01" * 11),  # addresses cut short
        header(0x21, 0x21, b"\x01" * 35),
        header(0x20, 0, b"\xe0"),  # half a TLV
        header(0x20, 0, b"\xe0\x00"),
        header(0x20, 0, b"\xe0\x00\x05abcd"),  # longer than the header
        header(0x20, 0, b"\xe0\xff\xff"),
        header(0x20, 0, bytes(PREAMBLE_MAX - 15)),  # one byte too large
    ],
)
def test_a_malformed_preamble_is_refused(source: bytes) -> None:
    assert parse_preamble(source) == (-1, None)


ENDS = st.tuples(
    st.one_of(st.binary(min_size=4, max_size=4), st.binary(min_size=16, max_size=16)),
    st.integers(0, 65535),
)
MAPPED = bytes(10) + b"\xff\xff"


@given(st.binary(min_size=1, max_size=63), ENDS, ENDS)
def test_a_preamble_of_tcp_is_a_header_with_both_ends(
    tunnel: bytes, visitor: tuple[bytes, int], listener: tuple[bytes, int]
) -> None:
    made = preamble_tcp(tunnel, visitor, listener)
    assert parse_preamble(made) == (len(made), tunnel)
    address, port = visitor
    if len(address) != len(listener[0]) and len(address) == 4:
        address = MAPPED + address
    assert parse_proxy_header(made) == (len(made), (address, port))


def test_a_preamble_of_tcp_without_an_end_is_one_of_http() -> None:
    assert preamble_tcp(b"db", (b"", 0), (bytes(4), 1)) == preamble(b"db")
    assert parse_proxy_header(preamble(b"db")) == (len(preamble(b"db")), None)


@given(
    st.sampled_from(["TCP4", "TCP6"]),
    st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)),
    st.integers(0, 65535),
    st.binary(max_size=20),
)
def test_a_proxy_line_is_read_byte_by_byte(
    family: str, address: object, port: int, behind: bytes
) -> None:
    line = f"PROXY {family} {address} 192.0.2.1 {port} 443\r\n".encode()
    for size in range(len(line)):
        assert parse_proxy_header(line[:size]) == (0, None)
    assert parse_proxy_header(line + behind) == (len(line), (str(address), port))
    unknown = b"PROXY UNKNOWN ff::1 whatever\r\n"
    assert parse_proxy_header(unknown + behind) == (len(unknown), None)


def test_a_proxy_line_has_at_most_107_bytes() -> None:
    longest = b"PROXY UNKNOWN".ljust(105, b" ") + b"\r\n"
    for size in range(len(longest)):
        assert parse_proxy_header(longest[:size]) == (0, None)
    assert parse_proxy_header(longest + b"behind") == (107, None)
    longer = b"PROXY UNKNOWN".ljust(106, b" ") + b"\r\n"
    for size in range(107, 109):
        assert parse_proxy_header(longer[:size])[0] == -1


@pytest.mark.parametrize(
    "line",
    [
        b"GET / HTTP/1.1\r\n",
        b"PROXY  TCP4 192.0.2.9 192.0.2.1 1 2\r\n",
        b"PROXY TCP5 192.0.2.9 192.0.2.1 1 2\r\n",
        b"PROXY TCP4 192.0.2.9 192.0.2.1 1\r\n",
        b"PROXY TCP4 192.0.2.9 192.0.2.1 1 2 3\r\n",
        b"PROXY TCP4 192.0.2.9 192.0.2.1 1 \r\n",
        b"PROXY TCP4 192.0.2.9 192.0.2.1 65536 2\r\n",
        b"PROXY TCP4 192.0.2.9 192.0.2.1 1 +2\r\n",
        b"PROXY TCP4 192.0.2.9 192.0.2.1 1 2\rx",
        b"PROXY TCP4 " + b"1" * 120,
    ],
)
def test_a_malformed_proxy_line_is_refused(line: bytes) -> None:
    assert parse_proxy_header(line) == (-1, None)


@given(st.binary(max_size=130))
def test_no_proxy_header_reaches_beyond_what_there_is(behind: bytes) -> None:
    for start in (b"", b"PROXY ", b"PROXY TCP4 ", SIGNATURE):
        used, _ = parse_proxy_header(start + behind)
        assert -1 <= used <= len(start + behind)


@given(st.binary(max_size=80), st.integers(0, 95), st.integers(0, 255))
def test_nothing_read_as_a_preamble_is_read_beyond_its_end(
    behind: bytes, place: int, byte: int
) -> None:
    made = bytearray(header(0x21, 0x11, bytes(12) + tlv(TUNNEL_TLV, b"web")) + behind)
    made[place % len(made)] = byte
    used, tunnel = parse_preamble(bytes(made))
    assert -1 <= used <= len(made)
    assert tunnel is None or tunnel in bytes(made[:used])
