"""A buffer behaves like a bytearray whatever is done to it, and leaks no block."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from proxy_engine_core._testing.buffer import HEADROOM_MAX, BufferHandle, PoolHandle

SIZES = st.one_of(st.integers(0, 64), st.sampled_from([4082, 4096, 5000, 8192, 70_000]))


class Buffers(RuleBasedStateMachine):
    """Two buffers on one pool beside two bytearrays."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = PoolHandle()
        self.headrooms = (0, HEADROOM_MAX)
        self.buffers = [BufferHandle(self.pool, headroom) for headroom in self.headrooms]
        self.models = [bytearray(), bytearray()]
        self.counter = 0

    def data(self, size: int) -> bytes:
        self.counter += 1
        return (self.counter.to_bytes(4, "big") * (size // 4 + 1))[:size]

    @rule(index=st.integers(0, 1), size=SIZES)
    def append(self, index: int, size: int) -> None:
        data = self.data(size)
        assert self.buffers[index].append(data) == 0
        self.models[index] += data

    @rule(index=st.integers(0, 1), size=SIZES.filter(bool), spare=SIZES)
    def write_in_place(self, index: int, size: int, spare: int) -> None:
        data = self.data(size)
        assert self.buffers[index].write_in_place(data, size + spare) == 0
        self.models[index] += data

    @rule(index=st.integers(0, 1), share=st.floats(0, 1))
    def consume(self, index: int, share: float) -> None:
        model = self.models[index]
        size = round(len(model) * share)
        assert self.buffers[index].consume(size) == bytes(model[:size])
        del model[:size]

    @precondition(lambda self: self.models[1])
    @rule()
    def headroom_is_free(self) -> None:
        assert self.buffers[1].state()["start"] >= HEADROOM_MAX

    @rule(index=st.integers(0, 1))
    def free(self, index: int) -> None:
        self.buffers[index].free()
        self.models[index].clear()

    @invariant()
    def contents_are_equal(self) -> None:
        for buffer, model in zip(self.buffers, self.models, strict=True):
            assert buffer.peek() == bytes(model)

    @invariant()
    def pool_has_lent_what_the_buffers_own(self) -> None:
        owned = [buffer.state()["capacity"] for buffer in self.buffers]
        state = self.pool.state()
        assert state["bytes_lent"] == sum(owned) <= state["bytes_lent_max"]
        for capacity, model in zip(owned, self.models, strict=True):
            assert (capacity == 0) == (not model)

    def teardown(self) -> None:
        for buffer in self.buffers:
            buffer.free()
        assert self.pool.state()["bytes_lent"] == 0


Buffers.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestBuffers = Buffers.TestCase
