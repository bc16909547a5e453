# The request line, and authorities. See request_line.pxd.
#
#   method SP request-target SP HTTP-version CRLF
#
# One SP each, nothing before or after: recipients that disagree about white space
# here disagree about where the target ends. Targets come in three forms:
#
#   origin      /path?query            what is forwarded
#   absolute    http://host/path       its authority wins over Host; the rest is the path
#   asterisk    *                      OPTIONS only
#
# CONNECT's authority form is refused with the method. "#" never travels, and a "\" in
# the path is "/" to some targets and a letter to others, so both are refused; browsers
# send "\" in queries, where it stays.
#
# Methods outside the registry are refused like CONNECT and TRACE: a target that has
# never heard of one can not have agreed with us on what its body means.

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memchr, memcmp, memcpy

from proxy_engine_core.http1.head cimport (
    HEAD_ERROR_BAD_HOST, HEAD_ERROR_BAD_LINE_END, HEAD_ERROR_BAD_REQUEST_LINE,
    HEAD_ERROR_BAD_TARGET, HEAD_ERROR_BAD_VERSION, HEAD_ERROR_LINE_TOO_LONG,
    HEAD_ERROR_METHOD_NOT_ALLOWED, HEAD_ERROR_VERSION_UNSUPPORTED, METHOD_CONNECT,
    METHOD_DELETE, METHOD_GET, METHOD_HEAD, METHOD_OPTIONS, METHOD_OTHER, METHOD_PATCH,
    METHOD_POST, METHOD_PUT, METHOD_TRACE, REQUEST_LINE_SIZE_MAX, Head, Span,
)
from proxy_engine_core.http1.scan cimport (
    CHAR_ADDRESS, CHAR_HOST, CHAR_TOKEN, char_classes, equals_lower, scan_class, scan_target,
)


cdef extern from "<string.h>" nogil:
    void *memmem(const void *text, size_t size, const void *part, size_t part_size) noexcept


cdef enum:
    CR = 13
    LF = 10
    SP = 32
    VERSION_SIZE = 8

# The other names of the IANA HTTP Method Registry (PRI aside, which is no method), and
# what UPnP devices and caches have always used. A space on both sides of each.
cdef const char *OTHER_METHODS = (
    b" ACL BASELINE-CONTROL BIND CHECKIN CHECKOUT COPY LABEL LINK LOCK MERGE MKACTIVITY"
    b" MKCALENDAR MKCOL MKREDIRECTREF MKWORKSPACE MOVE ORDERPATCH PROPFIND PROPPATCH QUERY"
    b" REBIND REPORT SEARCH UNBIND UNCHECKOUT UNLINK UNLOCK UPDATE UPDATEREDIRECTREF"
    b" VERSION-CONTROL M-SEARCH NOTIFY PURGE SUBSCRIBE UNSUBSCRIBE "
)
cdef size_t OTHER_METHODS_SIZE = len(OTHER_METHODS)


cdef int method_other(const uint8_t *name, uint32_t size) noexcept nogil:
    cdef uint8_t wanted[METHOD_SIZE_MAX + 2]
    wanted[0] = SP
    memcpy(wanted + 1, name, size)
    wanted[size + 1] = SP
    if memmem(OTHER_METHODS, OTHER_METHODS_SIZE, wanted, size + 2) == NULL:
        return HEAD_ERROR_METHOD_NOT_ALLOWED
    return METHOD_OTHER


cdef int method_parse(const uint8_t *name, uint32_t size) noexcept nogil:
    # A Method we forward, or HEAD_ERROR_METHOD_NOT_ALLOWED.
    cdef int method = METHOD_OTHER
    if size == 3:
        if memcmp(name, b"GET", 3) == 0:
            method = METHOD_GET
        elif memcmp(name, b"PUT", 3) == 0:
            method = METHOD_PUT
    elif size == 4:
        if memcmp(name, b"POST", 4) == 0:
            method = METHOD_POST
        elif memcmp(name, b"HEAD", 4) == 0:
            method = METHOD_HEAD
    elif size == 5:
        if memcmp(name, b"PATCH", 5) == 0:
            method = METHOD_PATCH
        elif memcmp(name, b"TRACE", 5) == 0:
            method = METHOD_TRACE
    elif size == 6:
        if memcmp(name, b"DELETE", 6) == 0:
            method = METHOD_DELETE
    elif size == 7:
        if memcmp(name, b"OPTIONS", 7) == 0:
            method = METHOD_OPTIONS
        elif memcmp(name, b"CONNECT", 7) == 0:
            method = METHOD_CONNECT
    if method == METHOD_OTHER:
        return method_other(name, size)
    if method == METHOD_CONNECT or method == METHOD_TRACE:
        return HEAD_ERROR_METHOD_NOT_ALLOWED
    return method


cdef int version_parse(const uint8_t *bytes) noexcept nogil:
    cdef uint8_t major = bytes[5] - 48
    cdef uint8_t minor = bytes[7] - 48
    if memcmp(bytes, b"HTTP/", 5) != 0 or major > 9 or bytes[6] != 46 or minor > 9:
        return HEAD_ERROR_BAD_VERSION
    if major == 0:
        return HEAD_ERROR_BAD_VERSION
    if major > 1:
        return HEAD_ERROR_VERSION_UNSUPPORTED
    return 1 if minor else 0


cdef int authority_parse(const uint8_t *bytes, Span authority, Span *host) noexcept nogil:
    cdef const uint8_t *start = bytes + authority.start
    cdef const uint8_t *end = start + authority.size
    cdef const uint8_t *cursor
    cdef uint32_t port = 0
    if authority.size == 0:
        return HEAD_ERROR_BAD_HOST
    if start[0] == 91:                    # "[": an IPv6 literal
        cursor = scan_class(start + 1, end, CHAR_ADDRESS)
        # "::" is the shortest; a literal without a colon is none.
        if cursor == end or cursor[0] != 93 or cursor - start < 3:
            return HEAD_ERROR_BAD_HOST
        if memchr(start, 58, cursor - start) == NULL:
            return HEAD_ERROR_BAD_HOST
        cursor += 1
    else:
        cursor = scan_class(start, end, CHAR_HOST)
        if cursor == start:
            return HEAD_ERROR_BAD_HOST
    host.start = authority.start
    host.size = <uint32_t>(cursor - start)
    if host.size > HOST_SIZE_MAX:
        return HEAD_ERROR_BAD_HOST
    if cursor == end:
        return 0
    if cursor[0] != 58 or end - cursor < 2 or end - cursor > 6:
        return HEAD_ERROR_BAD_HOST
    cursor += 1
    while cursor < end:
        if cursor[0] < 48 or cursor[0] > 57:
            return HEAD_ERROR_BAD_HOST
        port = port * 10 + cursor[0] - 48
        cursor += 1
    return 0 if port <= 65535 else HEAD_ERROR_BAD_HOST


cdef int absolute_form_parse(Head *head) noexcept nogil:
    # "http://authority/path"; target.size is not 0.
    cdef const uint8_t *start = head.bytes + head.target.start
    cdef const uint8_t *end = start + head.target.size
    cdef const uint8_t *cursor
    if head.target.size > 7 and equals_lower(start, b"http://", 7):
        cursor = start + 7
    elif head.target.size > 8 and equals_lower(start, b"https://", 8):
        cursor = start + 8
    else:
        return HEAD_ERROR_BAD_TARGET
    head.authority.start = <uint32_t>(cursor - head.bytes)
    while cursor < end and cursor[0] != 47 and cursor[0] != 63:
        cursor += 1
    head.authority.size = <uint32_t>(cursor - head.bytes) - head.authority.start
    if authority_parse(head.bytes, head.authority, &head.host) < 0:
        return HEAD_ERROR_BAD_HOST
    if cursor == end:
        # An empty path is "/" (RFC 9112 section 3.2.1): the second slash of "//".
        head.path.start = head.authority.start - 1
        head.path.size = 1
        return 0
    if cursor[0] == 63:
        # "http://host?query" would need a "/" that is nowhere in these bytes.
        return HEAD_ERROR_BAD_TARGET
    head.path.start = <uint32_t>(cursor - head.bytes)
    head.path.size = <uint32_t>(end - cursor)
    return 0


cdef int target_parse(Head *head) noexcept nogil:
    cdef const uint8_t *start = head.bytes + head.target.start
    if start[0] == 47:
        head.path = head.target
        return 0
    if start[0] == 42 and head.target.size == 1:
        if head.method != METHOD_OPTIONS:
            return HEAD_ERROR_BAD_TARGET
        head.path = head.target
        return 0
    return absolute_form_parse(head)


cdef inline const uint8_t *target_end(
    const uint8_t *start, const uint8_t *end
) noexcept nogil:
    # The first byte that no target has; a "\" only counts before the query.
    cdef const uint8_t *cursor = scan_target(start, end)
    if cursor < end and cursor[0] == 92 and memchr(start, 63, cursor - start) != NULL:
        while cursor < end and cursor[0] == 92:
            cursor = scan_target(cursor + 1, end)
    return cursor


cdef int request_line_parse(Head *head, const uint8_t *bytes, uint32_t size) noexcept nogil:
    cdef bint is_cut = size > REQUEST_LINE_SIZE_MAX + 2
    cdef const uint8_t *end = bytes + (REQUEST_LINE_SIZE_MAX + 2 if is_cut else size)
    cdef const uint8_t *cursor = bytes
    cdef const uint8_t *method_end = end if end - bytes <= METHOD_SIZE_MAX else (
        bytes + METHOD_SIZE_MAX + 1
    )
    cdef int code
    cursor = scan_class(bytes, method_end, CHAR_TOKEN)
    if cursor == method_end or cursor == bytes or cursor[0] != SP:
        return HEAD_ERROR_BAD_REQUEST_LINE
    head.bytes = bytes
    head.method_name.start = 0
    head.method_name.size = <uint32_t>(cursor - bytes)
    cursor += 1
    head.target.start = <uint32_t>(cursor - bytes)
    cursor = target_end(cursor, end)
    head.target.size = <uint32_t>(cursor - bytes) - head.target.start
    if cursor == end:
        return HEAD_ERROR_LINE_TOO_LONG if is_cut else HEAD_ERROR_BAD_REQUEST_LINE
    if head.target.size == 0 or cursor[0] == CR or cursor[0] == LF:
        return HEAD_ERROR_BAD_REQUEST_LINE
    if cursor[0] != SP:
        return HEAD_ERROR_BAD_TARGET
    cursor += 1
    if end - cursor < VERSION_SIZE + 1:
        return HEAD_ERROR_LINE_TOO_LONG if is_cut else HEAD_ERROR_BAD_REQUEST_LINE
    code = version_parse(cursor)
    if code < 0:
        return code
    head.minor_version = <uint8_t>code
    cursor += VERSION_SIZE
    if cursor[0] != CR:
        return HEAD_ERROR_BAD_LINE_END if cursor[0] == LF else HEAD_ERROR_BAD_VERSION
    if end - cursor < 2:
        return HEAD_ERROR_LINE_TOO_LONG if is_cut else HEAD_ERROR_BAD_LINE_END
    if cursor[1] != LF:
        return HEAD_ERROR_BAD_LINE_END
    code = method_parse(bytes, head.method_name.size)
    if code < 0:
        return code
    head.method = <uint8_t>code
    code = target_parse(head)
    if code < 0:
        return code
    return <int>(cursor + 2 - bytes)


cdef int request_line_precheck(const uint8_t *bytes, uint32_t size) noexcept nogil:
    cdef const uint8_t *end = bytes + size
    cdef const uint8_t *cursor = bytes
    while cursor < end and char_classes[cursor[0]] & CHAR_TOKEN:
        cursor += 1
        if cursor - bytes > METHOD_SIZE_MAX:
            return HEAD_ERROR_BAD_REQUEST_LINE
    if cursor == end:
        return 0
    if cursor == bytes or cursor[0] != SP:
        return HEAD_ERROR_BAD_REQUEST_LINE
    cursor = target_end(cursor + 1, end)
    if cursor == end:
        return HEAD_ERROR_LINE_TOO_LONG if size > REQUEST_LINE_SIZE_MAX else 0
    if cursor[0] != SP:
        return HEAD_ERROR_BAD_TARGET
    # "HTTP/d.d" and a CR are all that may follow.
    if end - cursor - 1 > VERSION_SIZE + 1:
        return HEAD_ERROR_BAD_REQUEST_LINE
    if memcmp(cursor + 1, b"HTTP/", min(<size_t>(end - cursor - 1), <size_t>5)) != 0:
        return HEAD_ERROR_BAD_VERSION
    return 0
