# The frame codec of RFC 6455. See frame.pxd for the contract.
#
# The reader walks one path, and may stop at any byte of it:
#
#   header (2..14 bytes) ──▶ data payload ──▶ DATA events, one per run of input
#            │                                        │
#            └──▶ control payload, collected whole ──▶ PING, PONG or CLOSE
#
# - A header that is whole in the input is decoded where it lies; only one that the
#   input cuts is copied to `partial`.
# - Its first two bytes are judged as soon as they are there: every rule about RSV
#   bits, opcodes, masking, control frames and fragments can be read from them, so
#   junk is refused without waiting for the rest.
# - Data is unmasked in place and handed on as it lies, never gathered. Control
#   payloads are at most 125 bytes and are gathered in `control`.
# - A message is `message_opcode != 0`. Control frames may come between the frames
#   of a message and touch nothing of its state.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from proxy_engine_core.check cimport CHECK
from proxy_engine_core.simd cimport simd_mask, simd_utf8
from proxy_engine_core.wire cimport load_be16, load_be64, store_be16, store_be64


cdef enum:
    FIN_BIT = 0x80
    RSV_BITS = 0x70
    OPCODE_BITS = 0x0F
    CONTROL_BIT = 0x08            # of an opcode
    MASK_BIT = 0x80
    LENGTH_BITS = 0x7F
    LENGTH_16 = 126               # the length is in the next 2 bytes
    LENGTH_64 = 127               # ... 8 bytes
    CLOSE_NO_STATUS = 1005        # never on the wire


# ---- Headers

cdef inline int header_size(const uint8_t *source) noexcept nogil:
    # The whole size of the header that begins with these two bytes.
    cdef int length = source[1] & LENGTH_BITS
    cdef int size = 2
    if length == LENGTH_16:
        size = 4
    elif length == LENGTH_64:
        size = 10
    return size + 4 if source[1] & MASK_BIT else size


cdef inline int header_decode(
    const uint8_t *source, size_t size, WsHeader *header
) noexcept nogil:
    cdef int whole
    cdef const uint8_t *rest = source + 2
    cdef uint64_t length
    if size < 2:
        return 0
    whole = header_size(source)
    if size < <size_t>whole:
        return 0
    length = source[1] & LENGTH_BITS
    if length == LENGTH_16:
        length = load_be16(rest)
        rest += 2
        if length < LENGTH_16:
            return WS_ERROR_PROTOCOL
    elif length == LENGTH_64:
        length = load_be64(rest)
        rest += 8
        if length <= 0xFFFF or length >> 63:
            return WS_ERROR_PROTOCOL
    header.length = length
    header.opcode = source[0] & OPCODE_BITS
    header.reserved = (source[0] & RSV_BITS) >> 4
    header.is_final = source[0] & FIN_BIT != 0
    header.is_masked = source[1] & MASK_BIT != 0
    if header.is_masked:
        memcpy(header.key, rest, 4)
    else:
        memset(header.key, 0, 4)
    return whole


cdef int ws_header_decode(const uint8_t *source, size_t size, WsHeader *header) noexcept nogil:
    return header_decode(source, size, header)


cdef int ws_header_size(uint64_t length, bint is_masked) noexcept nogil:
    cdef int size = 2
    if length > 0xFFFF:
        size = 10
    elif length >= LENGTH_16:
        size = 4
    return size + 4 if is_masked else size


cdef int ws_header_encode(
    uint8_t *target, uint8_t opcode, bint is_final, uint64_t length, const uint8_t *key
) noexcept nogil:
    cdef int size = 2
    cdef uint8_t mask_bit = MASK_BIT if key != NULL else 0
    CHECK(opcode & ~(OPCODE_BITS | WS_COMPRESSED) == 0 and length >> 63 == 0)
    target[0] = opcode | (FIN_BIT if is_final else 0)
    if length < LENGTH_16:
        target[1] = mask_bit | <uint8_t>length
    elif length <= 0xFFFF:
        target[1] = mask_bit | LENGTH_16
        store_be16(target + 2, <uint16_t>length)
        size = 4
    else:
        target[1] = mask_bit | LENGTH_64
        store_be64(target + 2, length)
        size = 10
    if key != NULL:
        memcpy(target + size, key, 4)
        size += 4
    return size


cdef uint32_t ws_mask(
    uint8_t *bytes, size_t size, const uint8_t *key, uint32_t phase
) noexcept nogil:
    return simd_mask(bytes, size, key, phase)


# ---- Reader

cdef void ws_reader_init(
    WsReader *reader, bint is_server, bint text_allowed, uint64_t message_size_max
) noexcept nogil:
    memset(reader, 0, sizeof(WsReader))
    reader.is_server = is_server
    reader.text_allowed = text_allowed
    reader.message_size_max = message_size_max


cdef inline bint is_acceptable(const WsReader *reader, const uint8_t *source) noexcept nogil:
    # Whether a frame may begin with these two bytes now.
    cdef uint8_t opcode = source[0] & OPCODE_BITS
    if source[0] & RSV_BITS and not (
        reader.deflate_allowed and source[0] & RSV_BITS == WS_COMPRESSED
        and (opcode == WS_TEXT or opcode == WS_BINARY)
    ):
        return False                      # no extension that would have asked for it
    if (source[1] & MASK_BIT != 0) != reader.is_server:
        return False                      # section 5.1
    if opcode & CONTROL_BIT:
        return (
            opcode <= WS_PONG
            and source[0] & FIN_BIT != 0
            and source[1] & LENGTH_BITS <= WS_CONTROL_SIZE_MAX
        )
    if opcode == WS_CONTINUATION:
        return reader.message_opcode != 0
    if reader.message_opcode != 0:
        return False
    return opcode == WS_BINARY or (opcode == WS_TEXT and reader.text_allowed)


cdef bint ws_close_code_is_valid(uint16_t code) noexcept nogil:
    # Section 7.4 and the IANA registry: 1004 is reserved, 1005, 1006 and 1015 only
    # exist inside programs.
    if code < 1000 or code >= 5000:
        return False
    return code >= 3000 or code <= 1003 or 1007 <= code <= 1014


cdef int next_frame(WsReader *reader, uint8_t **cursor, uint8_t *end) noexcept nogil:
    # Consume a header: 1 when a frame has begun, 0 when more bytes are needed.
    cdef WsHeader header
    cdef size_t available = end - cursor[0]
    cdef size_t missing
    cdef int size
    if reader.partial_size == 0 and available >= 2:
        if not is_acceptable(reader, cursor[0]):
            return WS_ERROR_PROTOCOL
        size = header_decode(cursor[0], available, &header)
        if size > 0:
            cursor[0] += size
    else:
        size = 0
    if size == 0:
        # First as far as the two bytes that tell the size, then to its end.
        while True:
            if reader.partial_size < 2:
                missing = 2 - reader.partial_size
            else:
                missing = header_size(reader.partial) - reader.partial_size
            available = end - cursor[0]
            if available < missing:
                if available:
                    memcpy(reader.partial + reader.partial_size, cursor[0], available)
                    reader.partial_size += <uint8_t>available
                    cursor[0] = end
                return 0
            memcpy(reader.partial + reader.partial_size, cursor[0], missing)
            reader.partial_size += <uint8_t>missing
            cursor[0] += missing
            if reader.partial_size == 2 and not is_acceptable(reader, reader.partial):
                return WS_ERROR_PROTOCOL
            size = header_decode(reader.partial, reader.partial_size, &header)
            if size != 0:
                break
        reader.partial_size = 0
    if size < 0:
        return size

    reader.frame_opcode = header.opcode
    reader.frame_remaining = header.length
    reader.frame_is_final = header.is_final
    reader.frame_is_masked = header.is_masked
    reader.phase = 0
    memcpy(reader.key, header.key, 4)
    if header.opcode & CONTROL_BIT:
        reader.control_size = 0
    else:
        if header.opcode != WS_CONTINUATION:
            reader.message_opcode = header.opcode
            reader.message_is_compressed = header.reserved != 0
            reader.message_size = 0
            reader.utf8_state = 0
        # Subtracted, not added: two huge lengths must not wrap to a small one.
        if (
            reader.message_size_max != 0
            and header.length > reader.message_size_max - reader.message_size
        ):
            return WS_ERROR_TOO_BIG
    reader.in_frame = True
    return 1


cdef int next_control(
    WsReader *reader, uint8_t **cursor, uint8_t *end, WsEvent *event
) noexcept nogil:
    cdef size_t size = min(<uint64_t>(end - cursor[0]), reader.frame_remaining)
    cdef uint32_t utf8_state = 0
    CHECK(reader.control_size + reader.frame_remaining <= WS_CONTROL_SIZE_MAX)
    if size:
        memcpy(reader.control + reader.control_size, cursor[0], size)
        cursor[0] += size
        reader.control_size += <uint8_t>size
        reader.frame_remaining -= size
    if reader.frame_remaining:
        return WS_EVENT_NEED_MORE
    reader.in_frame = False
    if reader.frame_is_masked:
        ws_mask(reader.control, reader.control_size, reader.key, 0)
    event.opcode = reader.frame_opcode
    event.is_message_end = True
    event.is_compressed = False
    event.close_code = 0
    event.data = reader.control
    event.size = reader.control_size
    if reader.frame_opcode == WS_PING:
        event.kind = WS_EVENT_PING
    elif reader.frame_opcode == WS_PONG:
        event.kind = WS_EVENT_PONG
    else:
        event.kind = WS_EVENT_CLOSE
        event.close_code = CLOSE_NO_STATUS
        if event.size == 1:
            return WS_ERROR_PROTOCOL
        if event.size:
            event.close_code = load_be16(event.data)
            event.data += 2
            event.size -= 2
            if not ws_close_code_is_valid(event.close_code):
                return WS_ERROR_PROTOCOL
            if not simd_utf8(&utf8_state, event.data, event.size) or utf8_state != 0:
                return WS_ERROR_UTF8
    return event.kind


cdef inline int next_data(
    WsReader *reader, uint8_t **cursor, uint8_t *end, WsEvent *event
) noexcept nogil:
    # The run of payload that is here; NEED_MORE when there is nothing to tell.
    cdef size_t size = min(<uint64_t>(end - cursor[0]), reader.frame_remaining)
    event.kind = WS_EVENT_DATA
    event.opcode = reader.message_opcode
    event.is_message_end = False
    event.is_compressed = reader.message_is_compressed
    event.close_code = 0
    event.data = cursor[0]
    event.size = size
    if size:
        if reader.frame_is_masked:
            reader.phase = <uint8_t>simd_mask(event.data, size, reader.key, reader.phase)
        if reader.message_opcode == WS_TEXT and not reader.message_is_compressed:
            if not simd_utf8(&reader.utf8_state, event.data, size):
                return WS_ERROR_UTF8
        cursor[0] += size
        reader.message_size += size
        reader.frame_remaining -= size
    if reader.frame_remaining == 0:
        reader.in_frame = False
        if reader.frame_is_final:
            if reader.utf8_state != 0:
                return WS_ERROR_UTF8
            reader.message_opcode = 0
            event.is_message_end = True
            return WS_EVENT_DATA
    return WS_EVENT_DATA if size else WS_EVENT_NEED_MORE


cdef int ws_reader_next(
    WsReader *reader, uint8_t **cursor, uint8_t *end, WsEvent *event
) noexcept nogil:
    cdef int kind
    CHECK(cursor[0] <= end)
    while True:
        if not reader.in_frame:
            kind = next_frame(reader, cursor, end)
            if kind <= 0:
                return kind
        if reader.frame_opcode & CONTROL_BIT:
            kind = next_control(reader, cursor, end, event)
        else:
            kind = next_data(reader, cursor, end, event)
        # Nothing to tell with input left: the frame was empty, so go on.
        if kind != WS_EVENT_NEED_MORE or cursor[0] == end:
            return kind
