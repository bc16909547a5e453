"""Buffers own memory only while they hold bytes, and keep their headroom."""

from __future__ import annotations

import pytest

from proxy_engine_core._testing.buffer import (
    CLASS_SIZE_MAX,
    CLASS_SIZE_MIN,
    HEADROOM_MAX,
    POOL_KEEP_BYTES,
    BufferHandle,
    PoolHandle,
)

ENOMEM = -12


@pytest.fixture
def pool() -> PoolHandle:
    return PoolHandle()


def test_new_buffer_owns_nothing(pool):
    buffer = BufferHandle(pool, HEADROOM_MAX)
    assert buffer.state() == {"capacity": 0, "start": 0, "end": 0}
    assert pool.state()["bytes_lent"] == 0


def test_first_write_borrows_the_smallest_block_that_fits(pool):
    buffer = BufferHandle(pool)
    buffer.append(b"x")
    assert buffer.state()["capacity"] == CLASS_SIZE_MIN
    other = BufferHandle(pool)
    other.append(b"x" * (CLASS_SIZE_MIN + 1))
    assert other.state()["capacity"] == 2 * CLASS_SIZE_MIN
    assert pool.state()["bytes_lent"] == 3 * CLASS_SIZE_MIN


def test_headroom_counts_against_the_block(pool):
    buffer = BufferHandle(pool, HEADROOM_MAX)
    buffer.append(b"x" * CLASS_SIZE_MIN)
    assert buffer.state() == {
        "capacity": 2 * CLASS_SIZE_MIN,
        "start": HEADROOM_MAX,
        "end": HEADROOM_MAX + CLASS_SIZE_MIN,
    }


def test_last_read_gives_the_block_back_and_the_pool_keeps_it(pool):
    buffer = BufferHandle(pool)
    buffer.append(b"hello")
    assert buffer.consume(2) == b"he"
    assert pool.state()["bytes_lent"] == CLASS_SIZE_MIN
    assert buffer.consume(3) == b"llo"
    assert buffer.state()["capacity"] == 0
    assert pool.state() == {
        "bytes_lent": 0,
        "bytes_kept": CLASS_SIZE_MIN,
        "bytes_lent_max": CLASS_SIZE_MIN,
    }


def test_kept_block_is_used_again(pool):
    buffer = BufferHandle(pool)
    for _ in range(3):
        buffer.append(b"hello")
        assert pool.state()["bytes_kept"] == 0
        buffer.consume(5)
    assert pool.state()["bytes_kept"] == CLASS_SIZE_MIN


def test_pool_keeps_no_more_than_its_limit(pool):
    count = POOL_KEEP_BYTES // CLASS_SIZE_MAX + 2
    buffers = [BufferHandle(pool) for _ in range(count)]
    for buffer in buffers:
        assert buffer.grow(CLASS_SIZE_MAX) == 0
    for buffer in buffers:
        buffer.free()
    assert pool.state()["bytes_kept"] == POOL_KEEP_BYTES
    assert pool.state()["bytes_lent"] == 0
    pool.free()
    assert pool.state()["bytes_kept"] == 0


def test_block_beyond_the_classes_is_exact_pages_and_never_kept(pool):
    buffer = BufferHandle(pool)
    assert buffer.grow(CLASS_SIZE_MAX + 1) == 0
    assert buffer.state()["capacity"] == CLASS_SIZE_MAX + CLASS_SIZE_MIN
    buffer.free()
    assert pool.state()["bytes_lent"] == pool.state()["bytes_kept"] == 0


def test_growing_keeps_the_unread_bytes_and_returns_the_old_block(pool):
    buffer = BufferHandle(pool, 14)
    data = bytes(range(256)) * 16
    buffer.append(data)
    buffer.append(data)
    assert buffer.peek() == data + data
    assert pool.state()["bytes_lent"] == buffer.state()["capacity"]


def test_full_buffer_with_few_unread_bytes_is_compacted_in_place(pool):
    buffer = BufferHandle(pool, 14)
    buffer.append(b"a" * (CLASS_SIZE_MIN - 14))
    buffer.consume(CLASS_SIZE_MIN - 24)
    buffer.append(b"b" * 100)
    assert buffer.state() == {"capacity": CLASS_SIZE_MIN, "start": 14, "end": 124}
    assert buffer.peek() == b"a" * 10 + b"b" * 100


def test_full_buffer_with_many_unread_bytes_moves_to_a_larger_block(pool):
    buffer = BufferHandle(pool)
    buffer.append(b"a" * CLASS_SIZE_MIN)
    buffer.consume(200)
    buffer.append(b"b" * 100)
    assert buffer.state()["capacity"] == 2 * CLASS_SIZE_MIN
    assert buffer.peek() == b"a" * (CLASS_SIZE_MIN - 200) + b"b" * 100


def test_header_may_be_written_into_the_headroom_later(pool):
    buffer = BufferHandle(pool, 14)
    buffer.append(b"payload")
    buffer.prepend(b"fourteen bytes")
    assert buffer.consume(21) == b"fourteen bytespayload"
    assert pool.state()["bytes_lent"] == 0


def test_room_is_reserved_without_being_committed(pool):
    buffer = BufferHandle(pool)
    assert buffer.write_in_place(b"ab", 5000) == 0
    assert buffer.peek() == b"ab"
    assert buffer.state()["capacity"] == 2 * CLASS_SIZE_MIN


def test_a_buffer_that_expects_much_borrows_one_block_for_it(pool):
    buffer = BufferHandle(pool)
    buffer.expect(100_000)
    buffer.append(b"x")
    assert buffer.state()["capacity"] == 131072
    buffer.append(b"y" * 100_000)
    assert pool.state()["bytes_lent_max"] == 131072  # it never had to grow
    buffer.consume(100_001)
    buffer.append(b"z" * 200_000)  # more than expected is no matter
    assert buffer.state()["capacity"] == 262144
    buffer.free()
    buffer.expect(0)
    buffer.append(b"x")
    assert buffer.state()["capacity"] == CLASS_SIZE_MIN


def test_appending_nothing_borrows_nothing(pool):
    buffer = BufferHandle(pool)
    assert buffer.append(b"") == 0
    assert buffer.consume(0) == b""
    assert pool.state()["bytes_lent"] == 0


def test_size_beyond_u32_is_refused_and_changes_nothing(pool):
    buffer = BufferHandle(pool, HEADROOM_MAX)
    buffer.append(b"kept")
    before = buffer.state()
    assert buffer.grow(0xFFFFFFFF) == ENOMEM
    assert buffer.grow(0xFFFFFFFF - HEADROOM_MAX - 4) == ENOMEM
    assert buffer.state() == before
    assert buffer.peek() == b"kept"


def test_free_may_be_called_twice_and_drops_unread_bytes(pool):
    buffer = BufferHandle(pool)
    buffer.append(b"x")
    buffer.free()
    buffer.free()
    assert buffer.peek() == b""
    assert pool.state()["bytes_lent"] == 0
