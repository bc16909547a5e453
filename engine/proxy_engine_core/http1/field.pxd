# Field lines of heads, the ids of their names, and lists inside their values
# (RFC 9110 section 5, RFC 9112 section 5).

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t

from proxy_engine_core.http1.head cimport Head


cdef enum:
    NOMINATIONS_MAX = 32                  # connection options of a head that name fields

cdef enum ConnectionOption:
    CONNECTION_CLOSE = 1
    CONNECTION_KEEP_ALIVE = 2
    CONNECTION_UPGRADE = 4
    CONNECTION_NOMINATES = 8              # any other option: the name of a field

# The field section from offset `start` to the CRLFCRLF that must end head.bytes, into
# head.fields. 0 or a HeadError.
cdef int field_section_parse(Head *head, uint32_t start, bint is_request) noexcept nogil
# The FieldId of a name (a token).
cdef uint8_t field_name_id(const uint8_t *name, uint32_t size) noexcept nogil
# All Connection fields together: ConnectionOption bits, or a HeadError.
cdef int connection_options(const Head *head) noexcept nogil
# Mark the fields that Connection nominates as dropped. 0 or a HeadError.
cdef int drop_nominated(Head *head) noexcept nogil
# N of a response's `Keep-Alive: timeout=N` (RFC 2068 section 19.7.1): seconds its sender keeps
# an idle connection; -1: not said, or not digits.
cdef int32_t keep_alive_timeout(const uint8_t *value, uint32_t size) noexcept nogil
# The next element of a comma-separated list between *cursor and end: False at its end.
cdef bint list_next(
    const uint8_t **cursor, const uint8_t *end, const uint8_t **element, uint32_t *size
) noexcept nogil
# Exactly one non-negative decimal number: its value or a HeadError.
cdef int64_t content_length_parse(
    const uint8_t *digits, uint32_t size, bint allow_leading_zeros
) noexcept nogil
