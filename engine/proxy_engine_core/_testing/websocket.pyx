# The WebSocket codec opened to pytest, the fuzzer and the micro benchmarks. Input is
# copied to a block of exactly its size, so that ASan sees one byte too many.

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset

from proxy_engine_core.simd cimport simd_has_avx2, simd_mask_with, simd_utf8
from proxy_engine_core.websocket.frame cimport (
    WS_ERROR_PROTOCOL,
    WS_ERROR_TOO_BIG,
    WS_ERROR_UTF8,
    WS_EVENT_CLOSE,
    WS_EVENT_DATA,
    WS_EVENT_PING,
    WS_EVENT_PONG,
    WS_HEADER_SIZE_MAX,
    WsEvent,
    WsHeader,
    WsReader,
    ws_header_decode,
    ws_header_encode,
    ws_header_size,
    ws_mask,
    ws_reader_init,
    ws_reader_next,
)


cdef extern from "<stdlib.h>" nogil:
    int posix_memalign(void **block, size_t alignment, size_t size)


ERROR_PROTOCOL = WS_ERROR_PROTOCOL
ERROR_UTF8 = WS_ERROR_UTF8
ERROR_TOO_BIG = WS_ERROR_TOO_BIG
EVENT_DATA = WS_EVENT_DATA
EVENT_PING = WS_EVENT_PING
EVENT_PONG = WS_EVENT_PONG
EVENT_CLOSE = WS_EVENT_CLOSE
HAS_AVX2 = bool(simd_has_avx2())


cdef uint8_t *block_new(size_t size) except NULL:
    # On a cache line, so that offsets into it are alignments.
    cdef void *block = NULL
    if posix_memalign(&block, 64, size) != 0:
        raise MemoryError
    return <uint8_t *>block


def header_decode(const uint8_t[::1] data not None):
    """(size, length, key, opcode, reserved, is_final, is_masked), or the code <= 0."""
    cdef WsHeader header
    cdef size_t size = data.shape[0]
    cdef uint8_t *block = block_new(size)
    cdef int rc
    if size:
        memcpy(block, &data[0], size)
    rc = ws_header_decode(block, size, &header)
    free(block)
    if rc <= 0:
        return rc
    return (
        rc, header.length, header.key[:4], header.opcode, header.reserved,
        bool(header.is_final), bool(header.is_masked),
    )


def header_encode(uint8_t opcode, bint is_final, uint64_t length, bytes key=None):
    """The header's bytes; checks that ws_header_size() agrees."""
    cdef uint8_t target[WS_HEADER_SIZE_MAX]
    cdef const uint8_t *key_bytes = NULL
    cdef int size
    if key is not None:
        if len(key) != 4:
            raise ValueError("a key has 4 bytes")
        key_bytes = key
    size = ws_header_encode(target, opcode, is_final, length, key_bytes)
    if size != ws_header_size(length, key is not None):
        raise AssertionError("ws_header_size() disagrees")
    return target[:size]


def mask(
    const uint8_t[::1] data not None, bytes key not None, uint32_t phase=0,
    size_t alignment=0, bint wide=True,
):
    """(masked bytes, next phase), worked in place `alignment` bytes past a cache line."""
    cdef size_t size = data.shape[0]
    cdef size_t i
    cdef uint8_t *block
    cdef bytes result
    if len(key) != 4:
        raise ValueError("a key has 4 bytes")
    block = block_new(alignment + size)
    memset(block, 0xA5, alignment)
    if size:
        memcpy(block + alignment, &data[0], size)
    if wide:
        phase = ws_mask(block + alignment, size, key, phase)
    else:
        phase = simd_mask_with(False, block + alignment, size, key, phase)
    result = block[alignment:alignment + size]
    for i in range(alignment):
        if block[i] != 0xA5:
            free(block)
            raise AssertionError("wrote before its bytes")
    free(block)
    return result, phase


def utf8_check(list parts not None):
    """(valid so far, may end here) after feeding the parts."""
    cdef uint32_t state = 0
    cdef uint8_t *block
    cdef bytes part
    cdef bint valid = True
    for part in parts:
        block = block_new(len(part))
        memcpy(block, <const uint8_t *>part, len(part))
        valid = simd_utf8(&state, block, len(part))
        free(block)
        if not valid:
            break
    return bool(valid), bool(valid and state == 0)


cdef class Reader:
    """ws_reader_next() over fed bytes; `error` stays at the first WsError."""

    cdef WsReader reader
    cdef readonly int error

    def __init__(self, bint is_server=True, bint text_allowed=True, uint64_t message_size_max=0):
        ws_reader_init(&self.reader, is_server, text_allowed, message_size_max)

    def feed(self, const uint8_t[::1] data not None):
        """[(kind, opcode, is_message_end, close_code, bytes), ...] until more is needed."""
        cdef size_t size = data.shape[0]
        cdef uint8_t *block
        cdef uint8_t *cursor
        cdef WsEvent event
        cdef int kind
        cdef list events = []
        if self.error:
            return events
        block = block_new(size)
        if size:
            memcpy(block, &data[0], size)
        cursor = block
        while True:
            kind = ws_reader_next(&self.reader, &cursor, block + size, &event)
            if kind <= 0:
                break
            events.append((
                kind, event.opcode, bool(event.is_message_end), event.close_code,
                event.data[:event.size],
            ))
        if kind < 0:
            self.error = kind
        elif cursor != block + size:
            raise AssertionError("asked for more with input left")
        free(block)
        return events


# ---- Rounds for the micro benchmarks: no Python between the first and the last.

def mask_rounds(size_t size, uint64_t rounds, size_t alignment=0, bint wide=True):
    cdef uint8_t *block = block_new(alignment + size)
    cdef uint8_t key[4]
    cdef uint64_t _
    cdef uint32_t phase = 0
    memset(block, 0x5A, alignment + size)
    memcpy(key, b"\x12\x34\x56\x78", 4)
    with nogil:
        if wide:
            for _ in range(rounds):
                phase = ws_mask(block + alignment, size, key, phase)
        else:
            for _ in range(rounds):
                phase = simd_mask_with(False, block + alignment, size, key, phase)
    free(block)
    return phase


def reader_rounds(const uint8_t[::1] stream not None, uint64_t rounds, bint is_server=True):
    """Read the same frames again and again; returns payload bytes seen.

    Unmasking works in place, so every second round reads the plain bytes: the
    headers are untouched and binary payload may be anything.
    """
    cdef size_t size = stream.shape[0]
    cdef uint8_t *block = block_new(size)
    cdef uint8_t *cursor
    cdef WsReader reader
    cdef WsEvent event
    cdef uint64_t _
    cdef uint64_t total = 0
    cdef int kind = 0
    memcpy(block, &stream[0], size)
    ws_reader_init(&reader, is_server, False, 0)
    with nogil:
        for _ in range(rounds):
            cursor = block
            while True:
                kind = ws_reader_next(&reader, &cursor, block + size, &event)
                if kind <= 0:
                    break
                total += event.size
            if kind < 0:
                break
    free(block)
    if kind < 0:
        raise ValueError(f"the stream is not valid: {kind}")
    return total


def utf8_rounds(const uint8_t[::1] text not None, uint64_t rounds):
    cdef const uint8_t *bytes = &text[0]
    cdef size_t size = text.shape[0]
    cdef uint32_t state = 0
    cdef uint64_t _
    cdef uint64_t valid = 0
    with nogil:
        for _ in range(rounds):
            valid += simd_utf8(&state, bytes, size)
    return valid == rounds and state == 0
