# Strict HTTP/1.1 heads (RFC 9110, RFC 9112): one canonical parse that routing,
# authorisation, forwarding and the log all read. Pure; allocates nothing.
#
# A head is scanned for its end first (SIMD, resumable), then parsed once. All
# spans are offsets into the head's own bytes, which must stay put while in use.

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t


cdef enum:
    HEAD_SIZE_MAX = 32 * 1024         # bytes incl. the final CRLFCRLF; more is 431
    REQUEST_LINE_SIZE_MAX = 8 * 1024  # bytes; more is 414
    HEAD_FIELDS_MAX = 128           # more is 431

# Why a head or body was refused. Each has a status, a short reason for the log
# (docs/errors.md) and a sentence for people: see head_error_status and friends.
cdef enum HeadError:
    HEAD_ERROR_BAD_REQUEST_LINE = -1      # 400
    HEAD_ERROR_BAD_VERSION = -2           # 400 not HTTP/digit.digit, or HTTP/0.x
    HEAD_ERROR_VERSION_UNSUPPORTED = -3   # 505 HTTP/2.0 and up
    HEAD_ERROR_BAD_TARGET = -4            # 400
    HEAD_ERROR_BAD_FIELD = -5             # 400 name, colon, obs-fold, control characters
    HEAD_ERROR_BAD_LINE_END = -6          # 400 bare CR, bare LF, NUL
    HEAD_ERROR_BAD_HOST = -7              # 400 none, two, or malformed
    HEAD_ERROR_BAD_CONTENT_LENGTH = -8    # 400 several, signed, not digits
    HEAD_ERROR_CONTENT_LENGTH_TOO_BIG = -9  # 400 more than 2^63-1: no body is that long
    HEAD_ERROR_BAD_TRANSFER_ENCODING = -10  # 400 not exactly "chunked", or in HTTP/1.0
    HEAD_ERROR_AMBIGUOUS_LENGTH = -11     # 400 Content-Length with Transfer-Encoding
    HEAD_ERROR_BAD_CHUNK = -12            # 400
    HEAD_ERROR_BAD_TRAILER = -13          # 400
    HEAD_ERROR_LINE_TOO_LONG = -14        # 414
    HEAD_ERROR_TOO_LARGE = -15            # 431
    HEAD_ERROR_METHOD_NOT_ALLOWED = -16   # 405 CONNECT, TRACE, and unregistered methods
    HEAD_ERROR_BAD_STATUS_LINE = -17      # 502 (responses: every error is a 502)
    HEAD_ERROR_BAD_EXPECT = -18           # 417 anything but 100-continue
    HEAD_ERROR_BAD_UPGRADE = -19          # 400 malformed, several, or websocket without GET

cdef enum Method:
    METHOD_OTHER = 0                      # another registered method, passed through
    METHOD_GET
    METHOD_HEAD
    METHOD_POST
    METHOD_PUT
    METHOD_DELETE
    METHOD_OPTIONS
    METHOD_PATCH
    METHOD_TRACE
    METHOD_CONNECT

cdef enum FieldId:                        # fields the engine itself reads or writes
    FIELD_OTHER = 0
    FIELD_ACCEPT
    FIELD_AUTHORIZATION
    FIELD_CONNECTION
    FIELD_CONTENT_LENGTH
    FIELD_COOKIE
    FIELD_EXPECT
    FIELD_FORWARDED
    FIELD_HOST
    FIELD_HTTP2_SETTINGS
    FIELD_KEEP_ALIVE
    FIELD_PROXY
    FIELD_PROXY_AUTHENTICATE
    FIELD_PROXY_CONNECTION
    FIELD_TE
    FIELD_TRACEPARENT
    FIELD_TRACESTATE
    FIELD_TRAILER
    FIELD_TRANSFER_ENCODING
    FIELD_UPGRADE
    FIELD_VIA
    FIELD_X_FORWARDED_FOR
    FIELD_X_FORWARDED_HOST
    FIELD_X_FORWARDED_PROTO
    FIELD_X_PROXY_TUNNEL
    FIELD_X_REQUEST_ID
    FIELD_PROXY_ENGINE_DIRECT
    FIELD_PROXY_ENGINE_TICKET
    FIELD_PROXY_ENGINE_WINDOW
    FIELD_SEC_WEBSOCKET_PROTOCOL
    FIELD_X_REAL_IP
    FIELD_X_FORWARDED_OTHER               # any other X-Forwarded-*
    FIELD_ID_COUNT

cdef struct Span:
    uint32_t start
    uint32_t size

cdef struct Field:
    Span name
    Span value                            # without surrounding white space
    uint8_t id                            # FieldId
    bint is_dropped                       # hop-by-hop, nominated by Connection, or replaced by us

# HEAD_UPGRADE: HTTP/1.1, Connection: upgrade, an Upgrade field without h2c, no body; of
# responses only a 101 has it.
cdef enum HeadFlag:
    HEAD_CHUNKED = 1                      # Transfer-Encoding: chunked
    HEAD_KEEP_ALIVE = 2                   # the sender keeps the connection (version, Connection)
    HEAD_UPGRADE = 4                      # a byte tunnel is asked for, or begins: see below
    HEAD_EXPECT_CONTINUE = 8
    HEAD_ACCEPTS_HTML = 16                # Accept names text/html
    HEAD_TE_TRAILERS = 32
    HEAD_TRACEPARENT = 64                 # requests: at least one

cdef struct Head:
    const uint8_t *bytes
    uint32_t size                         # bytes incl. the final CRLFCRLF
    uint32_t flags
    int64_t content_length                # -1: none
    uint16_t status                       # responses
    uint8_t minor_version                 # 0 or 1; 1 for HTTP/1.2 and up (RFC 9110 section 2.5)
    uint8_t method                        # Method; requests
    int32_t keep_alive_s                  # responses: N of Keep-Alive: timeout=N; -1: not said
    Span method_name
    Span target                           # as sent
    Span path                             # origin form: path and query; "*" for OPTIONS *
    Span authority                        # host[:port] as sent; size 0 in HTTP/1.0 without Host
    Span host                             # without port, brackets kept for IPv6
    Span reason                           # responses
    Span upgrade                          # value of Upgrade if HEAD_UPGRADE, else empty
    Span tunnel                           # value of X-Proxy-Tunnel
    Span request_id                       # X-Request-Id if 1..128 of [A-Za-z0-9._:/+=@-]
    uint32_t field_count
    Field fields[HEAD_FIELDS_MAX]

# The size of the head incl. CRLFCRLF, or 0 if it is not complete in `size` bytes.
# *scanned is where to resume (start with 0), so byte-by-byte input stays O(n).
cdef uint32_t head_find_end(const uint8_t *bytes, uint32_t size, uint32_t *scanned) noexcept nogil
# What an incomplete head of `size` bytes already is: 0 fine so far, or a HeadError
# (line too long, head too large, bytes that can never become a request), so that
# junk is refused at once instead of after the head timeout. Cheap, callable per read.
cdef int request_head_precheck(const uint8_t *bytes, uint32_t size) noexcept nogil
# Parse a complete head of exactly `size` bytes. 0 or a HeadError.
cdef int request_head_parse(Head *head, const uint8_t *bytes, uint32_t size) noexcept nogil
cdef int response_head_parse(Head *head, const uint8_t *bytes, uint32_t size) noexcept nogil

cdef enum BodyFraming:
    BODY_NONE = 0
    BODY_LENGTH                           # head.content_length bytes, > 0
    BODY_CHUNKED
    BODY_CLOSE                            # until the sender closes; responses only

# RFC 9112 section 6.3. For responses: 1xx, 204, 304 and answers to HEAD have none.
cdef int request_body_framing(const Head *head) noexcept nogil
cdef int response_body_framing(const Head *head, uint8_t request_method) noexcept nogil

cdef int head_error_status(int error) noexcept nogil               # as a request error
cdef const char *head_error_reason(int error) noexcept nogil       # "bad_host": log, docs/errors.md
cdef const char *head_error_text(int error) noexcept nogil         # one sentence

# The first field with this id; NULL if absent.
cdef const Field *head_field(const Head *head, uint8_t id) noexcept nogil
