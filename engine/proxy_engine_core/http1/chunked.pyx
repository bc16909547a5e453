# The chunked coding as a state machine over bytes; data goes out as whole spans.
#
#   SIZE ─▶ SIZE_LF ─▶ DATA ─▶ DATA_CR ─▶ DATA_LF ─▶ SIZE ...
#     │        ▲  │ size 0
#     └▶ EXT_* ┘  └▶ TRAILER ─▶ NAME ─▶ VALUE ─▶ VALUE_LF ─▶ TRAILER ... ─▶ END_LF ─▶ DONE
#
# Everything recipients have ever disagreed about here is refused: bare LF, spaces
# around the size, signs, "0x", sizes that overflow, surplus bytes after the data, and
# in requests any extension. A response's extensions must follow the grammar of RFC 9112
# section 7.1.1, without the optional white space.
#
# Memory is the struct: names of trailers are folded to lower case into it, so that a
# name split over reads is still compared with the forbidden ones.

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memset

from proxy_engine_core.check cimport CHECK
from proxy_engine_core.http1.head cimport HEAD_ERROR_BAD_CHUNK, HEAD_ERROR_BAD_TRAILER
from proxy_engine_core.http1.scan cimport CHAR_TEXT, CHAR_TOKEN, char_classes, scan_text


cdef enum:
    HTAB = 9
    LF = 10
    CR = 13
    SP = 32
    QUOTE = 34
    COLON = 58
    SEMICOLON = 59
    EQUALS = 61
    BACKSLASH = 92
    SIZE_DIGITS_MAX = 13                  # 2^52 - 1: any sum of them fits 64 bits for years

cdef enum ChunkState:
    STATE_SIZE = 0
    STATE_EXT_NAME_START
    STATE_EXT_NAME
    STATE_EXT_VALUE_START
    STATE_EXT_VALUE
    STATE_EXT_QUOTED
    STATE_EXT_QUOTED_PAIR
    STATE_EXT_QUOTED_END
    STATE_SIZE_LF
    STATE_DATA
    STATE_DATA_CR
    STATE_DATA_LF
    STATE_TRAILER
    STATE_NAME
    STATE_VALUE
    STATE_VALUE_LF
    STATE_END_LF
    STATE_DONE
    STATE_BAD_CHUNK
    STATE_BAD_TRAILER

# Fields that frame, route, authenticate, ask for another treatment of the message or say
# how to read its body (RFC 9110 section 6.5.1): too late once the body is through. A
# space on both sides of each; none longer than CHUNK_NAME_SIZE_MAX.
cdef const char *FORBIDDEN_TRAILERS = (
    b" authorization cache-control connection content-encoding content-length content-range"
    b" content-type cookie expect forwarded host http2-settings keep-alive max-forwards"
    b" pragma proxy proxy-authenticate proxy-authorization proxy-connection range"
    b" set-cookie te trailer transfer-encoding upgrade www-authenticate x-forwarded-for"
    b" x-forwarded-host x-forwarded-proto x-proxy-tunnel x-real-ip x-request-id "
)
cdef size_t FORBIDDEN_TRAILERS_SIZE = len(FORBIDDEN_TRAILERS)


cdef extern from "<string.h>" nogil:
    void *memmem(const void *text, size_t size, const void *part, size_t part_size) noexcept


cdef void chunk_reader_init(ChunkReader *reader, bint allow_extensions) noexcept nogil:
    memset(reader, 0, sizeof(ChunkReader))
    reader.allow_extensions = allow_extensions


cdef inline int hex_value(uint8_t byte) noexcept nogil:
    if 48 <= byte <= 57:
        return byte - 48
    byte |= 0x20
    if 97 <= byte <= 102:
        return byte - 87
    return -1


cdef int bad_chunk(ChunkReader *reader) noexcept nogil:
    reader.state = STATE_BAD_CHUNK
    return HEAD_ERROR_BAD_CHUNK


cdef int bad_trailer(ChunkReader *reader) noexcept nogil:
    reader.state = STATE_BAD_TRAILER
    return HEAD_ERROR_BAD_TRAILER


cdef bint is_forbidden(ChunkReader *reader) noexcept nogil:
    # reader.name is " name" with the name in lower case; too long ones are harmless.
    if reader.name_size > CHUNK_NAME_SIZE_MAX:
        return False
    reader.name[reader.name_size + 1] = SP
    return memmem(
        FORBIDDEN_TRAILERS, FORBIDDEN_TRAILERS_SIZE, reader.name, reader.name_size + 2
    ) != NULL


cdef inline uint8_t extension_end(uint8_t byte) noexcept nogil:
    # The state after a finished extension; STATE_BAD_CHUNK if `byte` can not follow it.
    if byte == SEMICOLON:
        return STATE_EXT_NAME_START
    return STATE_SIZE_LF if byte == CR else STATE_BAD_CHUNK


cdef uint8_t extension_step(uint8_t state, uint8_t byte) noexcept nogil:
    # ";" token [ "=" ( token / quoted-string ) ], any number of them.
    cdef bint is_token = char_classes[byte] & CHAR_TOKEN != 0
    if state == STATE_EXT_NAME_START:
        return STATE_EXT_NAME if is_token else STATE_BAD_CHUNK
    elif state == STATE_EXT_NAME:
        if is_token:
            return state
        return STATE_EXT_VALUE_START if byte == EQUALS else extension_end(byte)
    elif state == STATE_EXT_VALUE_START:
        if byte == QUOTE:
            return STATE_EXT_QUOTED
        return STATE_EXT_VALUE if is_token else STATE_BAD_CHUNK
    elif state == STATE_EXT_VALUE:
        return state if is_token else extension_end(byte)
    elif state == STATE_EXT_QUOTED_END:
        return extension_end(byte)
    # Inside quotes.
    if not char_classes[byte] & CHAR_TEXT:
        return STATE_BAD_CHUNK
    if state == STATE_EXT_QUOTED_PAIR:
        return STATE_EXT_QUOTED
    if byte == BACKSLASH:
        return STATE_EXT_QUOTED_PAIR
    return STATE_EXT_QUOTED_END if byte == QUOTE else state


cdef int size_step(ChunkReader *reader, uint8_t byte) noexcept nogil:
    # One byte of "digits [extensions] CR LF". 0 or BAD_CHUNK.
    cdef int value
    if reader.state == STATE_SIZE:
        value = hex_value(byte)
        if value >= 0:
            if reader.digits == SIZE_DIGITS_MAX:
                return bad_chunk(reader)
            reader.digits += 1
            reader.remaining = (reader.remaining << 4) | <uint64_t>value
            return 0
        if reader.digits == 0:
            return bad_chunk(reader)
        if byte == CR:
            reader.state = STATE_SIZE_LF
            return 0
        if byte != SEMICOLON or not reader.allow_extensions:
            return bad_chunk(reader)
        reader.state = STATE_EXT_NAME_START
    elif reader.state == STATE_SIZE_LF:
        if byte != LF:
            return bad_chunk(reader)
        reader.digits = 0
        reader.state = STATE_DATA if reader.remaining else STATE_TRAILER
        return 0
    else:
        reader.state = extension_step(reader.state, byte)
        if reader.state == STATE_BAD_CHUNK:
            return HEAD_ERROR_BAD_CHUNK
    reader.extension_size += 1
    if reader.extension_size > CHUNK_EXTENSION_SIZE_MAX:
        return bad_chunk(reader)
    return 0


cdef int name_step(ChunkReader *reader, uint8_t byte) noexcept nogil:
    # One byte of a trailer's name, or its colon. 0 or BAD_TRAILER.
    if char_classes[byte] & CHAR_TOKEN:
        if reader.name_size < CHUNK_NAME_SIZE_MAX:
            reader.name_size += 1
            # "_" counts as "-", which is what CGI-like targets make of it.
            reader.name[reader.name_size] = 45 if byte == 95 else (
                byte | 0x20 if 65 <= byte <= 90 else byte
            )
        else:
            reader.name_size = CHUNK_NAME_SIZE_MAX + 1
        return 0
    if byte != COLON or reader.name_size == 0 or is_forbidden(reader):
        return bad_trailer(reader)
    reader.state = STATE_VALUE
    return 0


cdef int trailer_step(ChunkReader *reader, uint8_t byte) noexcept nogil:
    # One byte of the trailer section outside values. 0, CHUNK_END or BAD_TRAILER.
    if reader.state == STATE_TRAILER:
        if byte == CR:
            reader.state = STATE_END_LF
            return 0
        reader.name[0] = SP
        reader.name_size = 0
        reader.state = STATE_NAME
        return name_step(reader, byte)
    elif reader.state == STATE_NAME:
        return name_step(reader, byte)
    elif reader.state == STATE_VALUE:
        if byte != CR:
            return bad_trailer(reader)
        reader.state = STATE_VALUE_LF
        return 0
    if byte != LF:
        return bad_trailer(reader)
    if reader.state == STATE_END_LF:
        reader.state = STATE_DONE
        return CHUNK_END
    reader.state = STATE_TRAILER
    return 0


cdef int trailer_next(
    ChunkReader *reader, const uint8_t **cursor, const uint8_t *end
) noexcept nogil:
    # CHUNK_NEED_MORE, CHUNK_END or BAD_TRAILER.
    cdef const uint8_t *at = cursor[0]
    cdef const uint8_t *stop
    cdef uint64_t total
    cdef int code = 0
    while at < end and code == 0:
        if reader.state == STATE_VALUE:
            stop = scan_text(at, end)
        else:
            stop = at
        if stop == at:
            code = trailer_step(reader, at[0])
            stop = at + 1
        total = reader.trailer_size + <uint64_t>(stop - at)
        if total > CHUNK_TRAILER_SIZE_MAX:
            return bad_trailer(reader)
        reader.trailer_size = <uint32_t>total
        at = stop
    cursor[0] = at
    return code


cdef int chunk_reader_next(
    ChunkReader *reader, const uint8_t **cursor, const uint8_t *end, ChunkSpan *span
) noexcept nogil:
    cdef const uint8_t *at = cursor[0]
    cdef uint64_t size
    cdef uint8_t state
    CHECK(at <= end)
    while at < end:
        state = reader.state
        if state == STATE_DATA:
            size = min(reader.remaining, <uint64_t>(end - at), <uint64_t>0xffffffff)
            reader.remaining -= size
            reader.data_total += size
            if reader.remaining == 0:
                reader.state = STATE_DATA_CR
            span.bytes = at
            span.size = <uint32_t>size
            cursor[0] = at + size
            return CHUNK_DATA
        elif state == STATE_DATA_CR:
            if at[0] != CR:
                return bad_chunk(reader)
            reader.state = STATE_DATA_LF
        elif state == STATE_DATA_LF:
            if at[0] != LF:
                return bad_chunk(reader)
            reader.state = STATE_SIZE
        elif state <= STATE_SIZE_LF:
            if size_step(reader, at[0]) < 0:
                return HEAD_ERROR_BAD_CHUNK
        elif state <= STATE_END_LF:
            cursor[0] = at
            return trailer_next(reader, cursor, end)
        else:
            break
        at += 1
    cursor[0] = at
    if reader.state < STATE_DONE:
        return CHUNK_NEED_MORE
    if reader.state == STATE_DONE:
        return CHUNK_END
    return HEAD_ERROR_BAD_CHUNK if reader.state == STATE_BAD_CHUNK else HEAD_ERROR_BAD_TRAILER


cdef uint32_t chunk_size_line(uint8_t *target, uint32_t size) noexcept nogil:
    cdef const char *digits = b"0123456789abcdef"
    cdef int shift = 28
    cdef uint32_t written = 0
    CHECK(size > 0)
    while size >> shift == 0:
        shift -= 4
    while shift >= 0:
        target[written] = <uint8_t>digits[(size >> shift) & 15]
        written += 1
        shift -= 4
    target[written] = CR
    target[written + 1] = LF
    return written + 2
