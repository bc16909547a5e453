# The request line: method, target and version (RFC 9112 section 3), and the
# authority inside a target or a Host field (RFC 3986 section 3.2).

from libc.stdint cimport uint8_t, uint32_t

from proxy_engine_core.http1.head cimport Head, Span


cdef enum:
    METHOD_SIZE_MAX = 32                  # bytes; the longest registered method has 17
    HOST_SIZE_MAX = 255                   # bytes; a DNS name has at most 253

# Parse the line at the start of `size` bytes, of which the CRLF must be a part, into
# method, method_name, target, path, authority and host (absolute form) and
# minor_version. The size of the line with its CRLF, or a HeadError.
cdef int request_line_parse(Head *head, const uint8_t *bytes, uint32_t size) noexcept nogil
# What the start of a request line that has no LF yet already is: 0 or a HeadError.
cdef int request_line_precheck(const uint8_t *bytes, uint32_t size) noexcept nogil
# "HTTP/d.d" at the start of exactly 8 bytes: 0 or 1, or a HeadError.
cdef int version_parse(const uint8_t *bytes) noexcept nogil
# host[:port] without userinfo; *host becomes the part before the port. 0 or BAD_HOST.
cdef int authority_parse(const uint8_t *bytes, Span authority, Span *host) noexcept nogil
