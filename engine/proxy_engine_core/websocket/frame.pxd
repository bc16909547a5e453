# RFC 6455 frames: header codec and a streaming reader. Pure: no fds, no clock,
# no allocation; bytes in, events out.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t


cdef enum WsOpcode:
    WS_CONTINUATION = 0x0
    WS_TEXT = 0x1
    WS_BINARY = 0x2
    WS_CLOSE = 0x8
    WS_PING = 0x9
    WS_PONG = 0xA

cdef enum:
    WS_COMPRESSED = 0x40          # RSV1, or-ed to an opcode for ws_header_encode(): RFC 7692
    WS_HEADER_SIZE_MAX = 14
    WS_CONTROL_SIZE_MAX = 125     # RFC 6455 section 5.5

cdef enum WsError:                # negative close codes, RFC 6455 section 7.4.1
    WS_ERROR_PROTOCOL = -1002
    WS_ERROR_UTF8 = -1007
    WS_ERROR_TOO_BIG = -1009
    WS_ERROR_INTERNAL = -1011     # no memory on our side; only of the layers above

cdef struct WsHeader:
    uint64_t length               # payload bytes
    uint8_t key[4]                # wire order; zero when not masked
    uint8_t opcode
    uint8_t reserved              # the RSV bits, 0..7
    bint is_final
    bint is_masked

# Bytes consumed (2..14); 0: more bytes needed; WS_ERROR_PROTOCOL: length not
# minimal or its top bit set. Opcode, RSV and masking rules are the reader's.
cdef int ws_header_decode(const uint8_t *source, size_t size, WsHeader *header) noexcept nogil
cdef int ws_header_size(uint64_t length, bint is_masked) noexcept nogil
# Writes ws_header_size() bytes and returns that; key == NULL: not masked. FIN set
# when is_final. The opcode may carry WS_COMPRESSED.
cdef int ws_header_encode(
    uint8_t *target, uint8_t opcode, bint is_final, uint64_t length, const uint8_t *key
) noexcept nogil
# Whether an endpoint may send this close code.
cdef bint ws_close_code_is_valid(uint16_t code) noexcept nogil
# XOR `size` bytes in place with the key, starting at key byte `phase` (0..3);
# returns the next phase. AVX2 or 16-byte vectors, chosen at run time.
cdef uint32_t ws_mask(
    uint8_t *bytes, size_t size, const uint8_t *key, uint32_t phase
) noexcept nogil


cdef enum WsEventKind:
    WS_EVENT_NEED_MORE = 0        # all input used
    WS_EVENT_DATA                 # a run of a data message's payload, unmasked in place
    WS_EVENT_PING                 # whole control frames; data points into the reader
    WS_EVENT_PONG
    WS_EVENT_CLOSE                # close_code is 1005 when it carries none; data is the reason

cdef struct WsEvent:
    uint8_t kind
    uint8_t opcode                # of the message: WS_TEXT or WS_BINARY
    bint is_message_end           # this run ends its message (size may be 0)
    bint is_compressed            # the message is; its text is then unchecked
    uint16_t close_code
    uint8_t *data
    size_t size

cdef struct WsReader:
    uint64_t frame_remaining      # payload bytes of the current frame still to come
    uint64_t message_size         # payload bytes of the current message so far
    uint64_t message_size_max     # 0: no limit
    uint8_t key[4]
    uint8_t phase
    uint8_t partial_size          # bytes in `partial`
    uint8_t control_size
    uint8_t message_opcode        # 0 between messages
    uint8_t frame_opcode
    bint is_server                # a server requires masked frames, a client forbids them
    bint text_allowed             # False on links: text is a protocol error
    bint deflate_allowed          # permessage-deflate was agreed on: RSV1 may open a message
    bint message_is_compressed
    bint frame_is_final
    bint frame_is_masked
    bint in_frame
    uint32_t utf8_state           # of simd_utf8(); 0 outside text messages
    uint8_t partial[WS_HEADER_SIZE_MAX]
    uint8_t control[WS_CONTROL_SIZE_MAX]

cdef void ws_reader_init(
    WsReader *reader, bint is_server, bint text_allowed, uint64_t message_size_max
) noexcept nogil
# The next event from [*cursor, end); advances *cursor. Returns the event kind
# (>= 0) or a WsError; after an error the reader must not be used again, and after
# WS_EVENT_CLOSE whatever follows means nothing. *event is set for kinds > 0 only.
# Text and close reasons are checked as UTF-8, failing at the first bad byte. Compressed
# messages come as they are on the wire; their size on the wire is held to the limit.
cdef int ws_reader_next(
    WsReader *reader, uint8_t **cursor, uint8_t *end, WsEvent *event
) noexcept nogil
