# Heads as we forward them: serialised from parsed fields, never copied whole.
# Kept fields go out in the order and spelling they came in; hop-by-hop fields are
# dropped, ours are added at the end.

from libc.stdint cimport uint8_t, uint32_t

from proxy_engine_core.http1.edit cimport RequestEdit, ResponseEdit
from proxy_engine_core.http1.head cimport Head


cdef enum:
    FORWARD_ADDRESS_SIZE_MAX = 48         # an IPv6 address as text
    REQUEST_ID_SIZE_MAX = 128
    TRACE_LINE_SIZE = 70                  # "traceparent: ", the value, CRLF

cdef struct RequestRewrite:
    const uint8_t *address                # visitor's address as text
    uint32_t address_size
    const uint8_t *request_id
    uint32_t request_id_size
    uint32_t trace_size                   # 0: no traceparent of ours
    uint8_t trace[TRACE_LINE_SIZE]
    bint is_tls                           # X-Forwarded-Proto: https
    bint is_trusted                       # append to X-Forwarded-* instead of replacing them
    const RequestEdit *edit               # what the tunnel's options change; NULL: nothing

cdef enum Reframe:                        # of a response body towards the visitor
    REFRAME_NONE = 0                      # as the target framed it
    REFRAME_CHUNK                         # close-delimited -> chunked, for HTTP/1.1 visitors
    REFRAME_CLOSE                         # chunked -> close-delimited, for HTTP/1.0 visitors

cdef struct ResponseRewrite:
    const uint8_t *request_id
    uint32_t request_id_size
    uint8_t reframe
    bint keep_alive                       # what we tell the visitor
    uint8_t visitor_minor_version
    const ResponseEdit *edit              # NULL: none

# An upper bound of what request_head_write / response_head_write will write.
cdef uint32_t request_head_bound(const Head *head, const RequestRewrite *rewrite) noexcept nogil
cdef uint32_t response_head_bound(const Head *head, const ResponseRewrite *rewrite) noexcept nogil
# Whether the target is told that the visitor came by https.
cdef bint came_by_https(const Head *head, const RequestRewrite *rewrite) noexcept nogil
# "METHOD path HTTP/1.1", Host (the canonical authority), kept fields, then
# X-Forwarded-For/-Proto/-Host, X-Request-Id and, for HEAD_UPGRADE, Connection: Upgrade
# with Upgrade. Returns the bytes written.
cdef uint32_t request_head_write(
    uint8_t *target, const Head *head, const RequestRewrite *rewrite
) noexcept nogil
# "HTTP/1.1 status reason", kept fields, X-Request-Id, then Connection as needed. An
# interim (1xx) head is passed with its own fields only; 101 keeps Connection: Upgrade.
cdef uint32_t response_head_write(
    uint8_t *target, const Head *head, const ResponseRewrite *rewrite
) noexcept nogil
