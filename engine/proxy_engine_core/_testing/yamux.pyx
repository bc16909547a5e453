# A yamux session and its output buffer for pytest: bytes and tuples instead of
# pointers, streams by id instead of YamuxStream *.
#
# Input is copied to a malloc'ed block of its exact size, so that AddressSanitizer
# sees a read beyond its end.

cimport cython

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from proxy_engine_core.buffer cimport (
    Buffer, BufferPool, buffer_append, buffer_consume, buffer_free, buffer_head, buffer_init,
    buffer_pool_free, buffer_pool_init, buffer_size
)
from proxy_engine_core.yamux.frame cimport (
    YAMUX_DATA, YAMUX_HEADER_SIZE, YamuxHeader, yamux_header_decode, yamux_header_encode
)
from proxy_engine_core.yamux.receive cimport *
from proxy_engine_core.yamux.send cimport *
from proxy_engine_core.yamux.session cimport *
from proxy_engine_core.yamux.stream cimport *


EVENT_NAMES = {
    YAMUX_EVENT_OPEN: "open",
    YAMUX_EVENT_DATA: "data",
    YAMUX_EVENT_WINDOW: "window",
    YAMUX_EVENT_ACK: "ack",
    YAMUX_EVENT_FIN: "fin",
    YAMUX_EVENT_RESET: "reset",
    YAMUX_EVENT_PONG: "pong",
    YAMUX_EVENT_GO_AWAY: "go_away",
}
ERROR_NAMES = {
    YAMUX_ERROR_VERSION: "version",
    YAMUX_ERROR_TYPE: "type",
    YAMUX_ERROR_STREAM_ID: "stream_id",
    YAMUX_ERROR_WINDOW: "window",
    YAMUX_ERROR_FLAGS: "flags",
    YAMUX_ERROR_PING: "ping",
    YAMUX_ERROR_MEMORY: "memory",
}
Event = tuple[str, int, int | bytes | str]   # name, stream id or 0, value
WINDOW_INITIAL = YAMUX_WINDOW_INITIAL
FRAME_PAYLOAD_MAX = YAMUX_FRAME_PAYLOAD_MAX
FRAME_PAYLOAD_SHARED = YAMUX_FRAME_PAYLOAD_SHARED
BURST_SMALL = YAMUX_BURST_SMALL
UNACKED_MAX = YAMUX_UNACKED_MAX


def header_encode(uint8_t type, uint16_t flags, uint32_t stream_id, uint32_t length):
    cdef uint8_t target[YAMUX_HEADER_SIZE]
    yamux_header_encode(target, type, flags, stream_id, length)
    return (<char *>target)[:YAMUX_HEADER_SIZE]


def header_decode(bytes source):
    """(version, type, flags, stream_id, length)."""
    cdef YamuxHeader header
    if len(source) != YAMUX_HEADER_SIZE:
        raise ValueError("a yamux header is 12 bytes")
    yamux_header_decode(<const uint8_t *><char *>source, &header)
    return (header.version, header.type, header.flags, header.stream_id, header.length)


@cython.final
cdef class Session:
    cdef BufferPool pool
    cdef Buffer out
    cdef Buffer urgent
    cdef YamuxSession session
    cdef WindowBudget budget
    cdef uint64_t clock_us
    cdef dict streams                # id -> YamuxStream * as an int

    def __cinit__(
        self, *, bint is_client, uint32_t window=YAMUX_WINDOW_INITIAL, uint32_t streams_max=1024,
        bint passing=False,
    ):
        self.streams = {}
        buffer_pool_init(&self.pool)
        buffer_init(&self.out, &self.pool, 0)
        buffer_init(&self.urgent, &self.pool, 0)
        yamux_session_init(
            &self.session, is_client, &self.out, &self.urgent if passing else &self.out, window,
            streams_max,
        )

    def __dealloc__(self):
        yamux_session_free(&self.session)
        if self.out.headroom <= 16:
            buffer_free(&self.out)
        buffer_free(&self.urgent)
        buffer_pool_free(&self.pool)

    cdef YamuxStream *stream(self, uint32_t id) except NULL:
        return <YamuxStream *><size_t>self.streams[id]

    def receive(self, bytes data, on_event=None):
        """Read all of `data`; events as (name, stream id, value) with value the bytes or code.

        An error is the last event, ("error", 0, name). on_event(event) is called
        between two reads and may do anything to the session but receive.
        """
        cdef Py_ssize_t size = len(data)
        cdef uint8_t *block = <uint8_t *>malloc(size if size else 1)
        cdef uint8_t *cursor = block
        cdef YamuxEvent event
        cdef int kind
        cdef list events = []
        if block == NULL:
            raise MemoryError
        memcpy(block, <char *>data, size)
        try:
            while True:
                kind = yamux_session_next(&self.session, &cursor, block + size, &event)
                if kind == YAMUX_EVENT_NEED_MORE:
                    if cursor != block + size:
                        raise AssertionError("NEED_MORE with input left")
                    return events
                if kind < 0:
                    found = ("error", 0, ERROR_NAMES[kind])
                elif kind == YAMUX_EVENT_DATA:
                    found = ("data", event.stream.id, (<char *>event.data)[:event.size])
                elif event.stream != NULL:
                    found = (EVENT_NAMES[kind], event.stream.id, event.code)
                else:
                    found = (EVENT_NAMES[kind], 0, event.code)
                if kind == YAMUX_EVENT_OPEN:
                    self.streams[event.stream.id] = <size_t>event.stream
                events.append(found)
                if on_event is not None:
                    on_event(found)
                if kind < 0:
                    return events
        finally:
            free(block)

    def output(self, size=None):
        """Take `size` bytes (all by default) from the front of the output.

        With `passing`, all that is urgent first, then whole frames to at least `size`."""
        cdef uint32_t taken = buffer_size(&self.out)
        urgent = b""
        if buffer_size(&self.urgent):
            urgent = (<char *>buffer_head(&self.urgent))[:buffer_size(&self.urgent)]
            buffer_free(&self.urgent)
            self.session.urgent_start = self.session.urgent_end
        if size is not None and size < taken:
            taken = size
        if self.session.urgent != self.session.out and taken:
            taken = yamux_frames_size(buffer_head(&self.out), buffer_size(&self.out), taken)
        data = (<char *>buffer_head(&self.out))[:taken] if taken else b""
        buffer_consume(&self.out, taken)
        self.session.bulk_start += taken
        return urgent + data

    def rest(self, uint32_t id):
        yamux_stream_rest(self.stream(id))

    def open(self):
        """The id of a new stream, or None."""
        cdef YamuxStream *stream = yamux_stream_open(&self.session, self.session.window_start)
        if stream == NULL:
            return None
        self.streams[stream.id] = <size_t>stream
        return stream.id

    def accept(self, uint32_t id):
        return yamux_stream_accept(self.stream(id), self.session.window_start)

    def send(self, uint32_t id, bytes data):
        return yamux_stream_send(self.stream(id), <const uint8_t *><char *>data, len(data))

    def send_in_place(self, uint32_t id, bytes data, uint32_t reserved):
        """Reserve `reserved` bytes, write `data` there, commit its size."""
        cdef YamuxStream *stream = self.stream(id)
        cdef uint8_t *target
        if len(data) > reserved:
            raise ValueError("data exceeds the reserved size")
        target = yamux_stream_reserve(stream, reserved)
        if target == NULL:
            return -12
        memcpy(target, <char *>data, len(data))
        yamux_stream_commit(stream, len(data))
        return 0

    def finish(self, uint32_t id):
        return yamux_stream_finish(self.stream(id))

    def consume(self, uint32_t id, uint32_t size):
        cdef YamuxStream *stream = self.stream(id)
        if size > stream.unconsumed:
            raise ValueError("more than was received")
        return yamux_stream_consume(stream, size)

    def release(self, uint32_t id, uint32_t code=0):
        yamux_stream_release(self.stream(id), code)
        del self.streams[id]

    def any_stream(self):
        cdef YamuxStream *stream = yamux_session_any_stream(&self.session)
        return None if stream == NULL else stream.id

    def ping(self, uint32_t value):
        return yamux_session_ping(&self.session, value)

    def go_away(self, uint32_t code):
        return yamux_session_go_away(&self.session, code)

    def free(self):
        self.streams.clear()
        yamux_session_free(&self.session)

    def settle(self, uint32_t id):
        return yamux_stream_settle(self.stream(id))

    def tune(
        self, *, uint32_t start, uint32_t stream_max, uint64_t session_max, uint64_t extra_max
    ):
        """Let windows grow, by a clock and a round trip that the test sets."""
        self.budget.clock_us = &self.clock_us
        self.budget.stream_max = stream_max
        self.budget.session_max = session_max
        self.budget.extra_max = extra_max
        yamux_session_tune(&self.session, &self.budget, start)

    def set_clock(self, uint64_t now_us):
        self.clock_us = now_us

    def set_round_trip(self, uint64_t rtt_us):
        self.session.rtt_us = rtt_us

    def set_short(self, bint is_short):
        self.budget.is_short = is_short

    def is_closed(self, uint32_t id):
        return yamux_stream_is_closed(self.stream(id))

    def stream_state(self, uint32_t id):
        cdef YamuxStream *stream = self.stream(id)
        return {
            "send_window": stream.send_window,
            "receive_window": stream.receive_window,
            "unconsumed": stream.unconsumed,
            "ungranted": stream.ungranted,
            "window": stream.window,
        }

    def state(self):
        return {
            "bucket_count": self.session.bucket_count,
            "stream_count": self.session.stream_count,
            "unacked_count": self.session.unacked_count,
            "peer_last_id": self.session.peer_last_id,
            "payload_max": yamux_session_payload_max(&self.session),
            "payload_remaining": self.session.payload_remaining,
            "unknown_stream_frames": self.session.unknown_stream_frames,
            "unknown_stream_bytes": self.session.unknown_stream_bytes,
            "streams_refused": self.session.streams_refused,
            "pings_received": self.session.pings_received,
            "extra": self.session.extra,
            "budget_extra": self.budget.extra,
            "grown": self.budget.grown,
            "withheld": self.budget.withheld,
            "output_bytes": buffer_size(&self.out) + buffer_size(&self.urgent),
            "bytes_lent": self.pool.bytes_lent,
        }

    def set_next_id(self, uint32_t id):
        self.session.next_id = id

    def exhaust_memory(self):
        """From now on every write to the (empty) output fails with -ENOMEM."""
        if buffer_size(&self.out) != 0:
            raise ValueError("output is not empty")
        self.out.headroom = <uint32_t>0xFFFFFFFF

    def restore_memory(self):
        self.out.headroom = 0


def benchmark_header(uint32_t rounds):
    """Encode and decode `rounds` headers.

    Decoding reads another header than the one just written, or the compiler would
    leave out both.
    """
    cdef uint8_t headers[64][YAMUX_HEADER_SIZE]
    cdef YamuxHeader header
    cdef uint64_t total = 0
    cdef uint32_t index
    memset(headers, 0, sizeof(headers))
    with nogil:
        for index in range(rounds):
            yamux_header_encode(headers[index & 63], YAMUX_DATA, 0, index, 1024)
            yamux_header_decode(headers[(index * 7) & 63], &header)
            total += header.stream_id + header.type + header.flags + header.length
    return total


@cython.final
cdef class BenchmarkSession:
    """A client and a server joined back to back, each with streams open on both."""

    cdef BufferPool pool
    cdef Buffer client_out
    cdef Buffer server_out
    cdef Buffer frames
    cdef YamuxSession client
    cdef YamuxSession server
    cdef YamuxStream *streams[64]
    cdef uint32_t stream_count
    cdef uint32_t frame_size
    cdef uint8_t payload[65536]

    def __cinit__(self, uint32_t stream_count, uint32_t frame_size):
        cdef uint32_t index
        if stream_count > 64 or frame_size > 65536:
            raise ValueError("at most 64 streams and 65536 bytes")
        self.stream_count = stream_count
        self.frame_size = frame_size
        buffer_pool_init(&self.pool)
        buffer_init(&self.client_out, &self.pool, 0)
        buffer_init(&self.server_out, &self.pool, 0)
        buffer_init(&self.frames, &self.pool, 0)
        yamux_session_init(
            &self.client, True, &self.client_out, &self.client_out, YAMUX_WINDOW_INITIAL, 1024
        )
        yamux_session_init(
            &self.server, False, &self.server_out, &self.server_out, YAMUX_WINDOW_INITIAL, 1024
        )
        for index in range(stream_count):
            self.streams[index] = yamux_stream_open(&self.client, 0)
            if self.streams[index] == NULL:
                raise MemoryError
        self.deliver()

    def __dealloc__(self):
        yamux_session_free(&self.client)
        yamux_session_free(&self.server)
        buffer_free(&self.client_out)
        buffer_free(&self.server_out)
        buffer_free(&self.frames)
        buffer_pool_free(&self.pool)

    cdef uint64_t pump(self, YamuxSession *session, Buffer *source) except? 0:
        # Hand `source` to `session`, consume what comes at once; payload bytes seen.
        cdef uint8_t *cursor = buffer_head(source)
        cdef uint8_t *end = cursor + buffer_size(source)
        cdef YamuxEvent event
        cdef uint64_t total = 0
        cdef int kind = 1
        with nogil:
            while kind > 0:
                kind = yamux_session_next(session, &cursor, end, &event)
                if kind == YAMUX_EVENT_DATA:
                    total += event.size
                    if yamux_stream_consume(event.stream, <uint32_t>event.size) < 0:
                        kind = -1
                elif kind == YAMUX_EVENT_OPEN:
                    if yamux_stream_accept(event.stream, 0) < 0:
                        kind = -1
        if kind < 0:
            raise RuntimeError(ERROR_NAMES[kind])
        return total

    cdef uint64_t deliver(self) except? 0:
        cdef uint64_t total = 0
        if buffer_size(&self.client_out):
            total = self.pump(&self.server, &self.client_out)
            buffer_free(&self.client_out)
        if buffer_size(&self.server_out):
            self.pump(&self.client, &self.server_out)
            buffer_free(&self.server_out)
        return total

    def receive(self, uint32_t rounds):
        """Read `rounds` prepared frames in batches of 64, granting credit as we go.

        The same frames are read again and again: the sender's side is not measured.
        """
        cdef uint64_t total = 0
        cdef uint32_t index, _batch
        cdef uint8_t header[YAMUX_HEADER_SIZE]
        if buffer_size(&self.frames) == 0:
            for index in range(64):
                yamux_header_encode(
                    header, YAMUX_DATA, 0, self.streams[index % self.stream_count].id,
                    self.frame_size,
                )
                if (
                    buffer_append(&self.frames, header, YAMUX_HEADER_SIZE) < 0
                    or buffer_append(&self.frames, self.payload, self.frame_size) < 0
                ):
                    raise MemoryError
        for _batch in range(rounds // 64):
            total += self.pump(&self.server, &self.frames)
            buffer_free(&self.server_out)
        return total

    def send(self, uint32_t rounds):
        """Encode `rounds` frames in batches of 64; the output is dropped, not read."""
        cdef uint32_t index, _batch
        cdef YamuxStream *stream
        with nogil:
            for _batch in range(rounds // 64):
                for index in range(64):
                    stream = self.streams[index % self.stream_count]
                    stream.send_window = YAMUX_WINDOW_INITIAL
                    yamux_stream_send(stream, self.payload, self.frame_size)
                buffer_free(&self.client_out)

    def relay(self, uint32_t rounds):
        """Send on one side and read on the other, windows and all; bytes received."""
        cdef uint64_t total = 0
        cdef uint32_t index, _batch
        cdef YamuxStream *stream
        for _batch in range(rounds // 64):
            for index in range(64):
                stream = self.streams[index % self.stream_count]
                if stream.send_window >= self.frame_size:
                    if yamux_stream_send(stream, self.payload, self.frame_size) < 0:
                        raise MemoryError
            total += self.deliver()
        return total
