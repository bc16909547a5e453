# Heads: finding their end, parsing them once, and what framing they mean. The
# contract is in head.pxd; the request line is read in request_line.pyx, field lines in
# field.pyx, and this file draws the conclusions.
#
#   bytes ── head_find_end ──▶ complete ── request_head_parse ──▶ Head ──▶ routing,
#              │ incomplete                 response_head_parse          forwarding, log
#              ▼
#        request_head_precheck            refuses junk before the head timeout would
#
# There is one rule behind all the others: whatever two recipients could read in two
# ways is refused (400 to a visitor, 502 for a target) instead of interpreted.

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memchr, memcmp

from proxy_engine_core.check cimport CHECK
from proxy_engine_core.http1.field cimport (
    CONNECTION_CLOSE, CONNECTION_KEEP_ALIVE, CONNECTION_NOMINATES, CONNECTION_UPGRADE,
    connection_options, content_length_parse, drop_nominated, field_section_parse,
    keep_alive_timeout, list_next,
)
from proxy_engine_core.http1.request_line cimport (
    authority_parse, request_line_parse, request_line_precheck, version_parse,
)
from proxy_engine_core.http1.scan cimport (
    CHAR_REQUEST_ID, CHAR_TOKEN, equals_lower, scan_class, scan_head_end, scan_text,
)


cdef extern from "http1/head_error.h" nogil:
    ctypedef struct HeadErrorRow "struct head_error":
        int status
        const char *reason
        const char *text
    enum:
        HEAD_ERROR_COUNT
    const HeadErrorRow head_errors[]


cdef enum:
    LF = 10
    CR = 13
    SP = 32
    REQUEST_ID_SIZE_MAX = 128
    PRECHECK_TAIL_SIZE = 2048             # bytes looked at again by every precheck


cdef uint32_t head_find_end(
    const uint8_t *bytes, uint32_t size, uint32_t *scanned
) noexcept nogil:
    cdef const uint8_t *end = bytes + size
    cdef const uint8_t *found = scan_head_end(bytes + scanned[0], end)
    if found != end:
        return <uint32_t>(found - bytes) + 4
    if size > scanned[0] + 3:
        scanned[0] = size - 3             # three bytes of a CRLFCRLF may be in already
    return 0


cdef int request_head_precheck(const uint8_t *bytes, uint32_t size) noexcept nogil:
    cdef const uint8_t *end = bytes + size
    cdef const uint8_t *cursor
    cdef uint32_t line_size
    cdef Head head
    cdef int code
    line_size = min(size, <uint32_t>(REQUEST_LINE_SIZE_MAX + 2))
    cursor = <const uint8_t *>memchr(bytes, LF, line_size)
    if cursor == NULL:
        code = request_line_precheck(bytes, line_size)
        if code < 0 or size <= line_size:
            return code
        return HEAD_ERROR_LINE_TOO_LONG
    code = request_line_parse(&head, bytes, <uint32_t>(cursor - bytes) + 1)
    if code < 0:
        return code
    if size >= HEAD_SIZE_MAX:
        return HEAD_ERROR_TOO_LARGE
    # Field lines: only their bytes, and only the last ones, to stay cheap.
    cursor = bytes + code
    if end - cursor > PRECHECK_TAIL_SIZE:
        cursor = end - PRECHECK_TAIL_SIZE
    while True:
        cursor = scan_text(cursor, end)
        if cursor == end:
            return 0
        if cursor[0] == CR:
            cursor += 1
            if cursor == end:
                return 0
            if cursor[0] != LF:
                return HEAD_ERROR_BAD_LINE_END
        elif cursor[0] != LF and cursor[0] != 0:
            return HEAD_ERROR_BAD_FIELD
        elif cursor[0] == 0 or (cursor - 1)[0] != CR:
            return HEAD_ERROR_BAD_LINE_END
        cursor += 1


cdef void head_init(Head *head, const uint8_t *bytes, uint32_t size) noexcept nogil:
    # All but the fields themselves, which field_count covers.
    head.bytes = bytes
    head.size = size
    head.flags = 0
    head.content_length = -1
    head.status = 0
    head.minor_version = 0
    head.method = METHOD_OTHER
    head.keep_alive_s = -1
    head.field_count = 0
    span_clear(&head.method_name)
    span_clear(&head.target)
    span_clear(&head.path)
    span_clear(&head.authority)
    span_clear(&head.host)
    span_clear(&head.reason)
    span_clear(&head.upgrade)
    span_clear(&head.tunnel)
    span_clear(&head.request_id)


cdef inline void span_clear(Span *span) noexcept nogil:
    span.start = 0
    span.size = 0


cdef inline bint is_terminated(const uint8_t *bytes, uint32_t size) noexcept nogil:
    return size >= 4 and memcmp(bytes + size - 4, b"\r\n\r\n", 4) == 0


# --- fields of both directions ---

cdef int framing_field_parse(Head *head, const Field *field, bint is_request) noexcept nogil:
    # Content-Length or Transfer-Encoding: at most one of either, and not both.
    cdef const uint8_t *value = head.bytes + field.value.start
    if field.id == FIELD_CONTENT_LENGTH:
        if head.content_length >= 0:
            return HEAD_ERROR_BAD_CONTENT_LENGTH
        # Targets that patch the length in afterwards pad it with zeros. From a visitor
        # they could be meant as octal, so there they are refused.
        head.content_length = content_length_parse(value, field.value.size, not is_request)
        if head.content_length < 0:
            return <int>head.content_length
    else:
        if head.flags & HEAD_CHUNKED or head.minor_version == 0:
            return HEAD_ERROR_BAD_TRANSFER_ENCODING
        if field.value.size != 7 or not equals_lower(value, b"chunked", 7):
            return HEAD_ERROR_BAD_TRANSFER_ENCODING
        head.flags |= HEAD_CHUNKED
    if head.content_length >= 0 and head.flags & HEAD_CHUNKED:
        return HEAD_ERROR_AMBIGUOUS_LENGTH
    return 0


cdef int connection_apply(Head *head) noexcept nogil:
    # HEAD_KEEP_ALIVE and nominated fields. ConnectionOption bits or a HeadError.
    cdef int options = connection_options(head)
    cdef int code
    if options < 0:
        return options
    if options & CONNECTION_NOMINATES:
        code = drop_nominated(head)
        if code < 0:
            return code
    if not options & CONNECTION_CLOSE:
        if head.minor_version == 1 or options & CONNECTION_KEEP_ALIVE:
            head.flags |= HEAD_KEEP_ALIVE
    return options


# --- requests ---

cdef bint accepts_html(const uint8_t *value, uint32_t size) noexcept nogil:
    cdef const uint8_t *end = value + size
    cdef const uint8_t *element
    cdef uint32_t element_size
    while list_next(&value, end, &element, &element_size):
        if element_size >= 9 and equals_lower(element, b"text/html", 9):
            if element_size == 9 or element[9] == 59 or element[9] == SP:
                return True
    return False


cdef bint accepts_trailers(const uint8_t *value, uint32_t size) noexcept nogil:
    cdef const uint8_t *end = value + size
    cdef const uint8_t *element
    cdef uint32_t element_size
    while list_next(&value, end, &element, &element_size):
        if element_size == 8 and equals_lower(element, b"trailers", 8):
            return True
    return False


cdef int upgrade_check(Head *head, const Field *field) noexcept nogil:
    # 1 if this Upgrade can become a byte tunnel, 0 if it is to be ignored, or BAD_UPGRADE.
    cdef const uint8_t *value = head.bytes + field.value.start
    cdef const uint8_t *end = value + field.value.size
    cdef const uint8_t *element
    cdef const uint8_t *stop
    cdef const uint8_t *version
    cdef uint32_t size
    cdef int result = 0
    while list_next(&value, end, &element, &size):
        stop = scan_class(element, element + size, CHAR_TOKEN)
        if stop != element and stop != element + size and stop[0] == 47:
            version = stop + 1
            stop = scan_class(version, element + size, CHAR_TOKEN)
            if stop == version:
                return HEAD_ERROR_BAD_UPGRADE
        if stop != element + size:
            return HEAD_ERROR_BAD_UPGRADE
        if size == 9 and equals_lower(element, b"websocket", 9) and head.method != METHOD_GET:
            return HEAD_ERROR_BAD_UPGRADE
        # h2c would carry requests that nobody here reads.
        if size == 3 and equals_lower(element, b"h2c", 3):
            return 0
        result = 1
    return result if result else HEAD_ERROR_BAD_UPGRADE


cdef int request_upgrade_apply(Head *head) noexcept nogil:
    # The request has Connection: upgrade and is HTTP/1.1.
    cdef const Field *upgrade = NULL
    cdef uint32_t index
    cdef int code
    for index in range(head.field_count):
        if head.fields[index].id == FIELD_UPGRADE:
            if upgrade != NULL:
                return HEAD_ERROR_BAD_UPGRADE
            upgrade = &head.fields[index]
    if upgrade == NULL:
        return 0
    code = upgrade_check(head, upgrade)
    if code <= 0:
        return code
    # A body would have to be read to its end before the tunnel: not worth a state.
    # The request is still a good one, so it is forwarded as if nobody had asked.
    if head.flags & HEAD_CHUNKED or head.content_length > 0:
        return 0
    head.flags |= HEAD_UPGRADE
    head.upgrade = upgrade.value
    return 0


cdef int expect_parse(Head *head, Field *field) noexcept nogil:
    cdef const uint8_t *value = head.bytes + field.value.start
    if field.value.size != 12 or not equals_lower(value, b"100-continue", 12):
        return HEAD_ERROR_BAD_EXPECT
    if head.minor_version == 0:
        field.is_dropped = True           # must be ignored: RFC 9110 section 10.1.1
    else:
        head.flags |= HEAD_EXPECT_CONTINUE
    return 0


cdef int request_field_apply(Head *head, Field *field, Span *host) noexcept nogil:
    # What one field with an id says. 0 or a HeadError.
    cdef const uint8_t *value = head.bytes + field.value.start
    cdef uint32_t size = field.value.size
    cdef int id = field.id
    if id == FIELD_HOST:
        if host.start != 0:
            return HEAD_ERROR_BAD_HOST
        host[0] = field.value
        field.is_dropped = True           # the canonical authority is written instead
    elif id == FIELD_CONTENT_LENGTH or id == FIELD_TRANSFER_ENCODING:
        return framing_field_parse(head, field, True)
    elif id == FIELD_EXPECT:
        return expect_parse(head, field)
    elif id == FIELD_ACCEPT:
        if accepts_html(value, size):
            head.flags |= HEAD_ACCEPTS_HTML
    elif id == FIELD_TE:
        field.is_dropped = True
        if accepts_trailers(value, size):
            head.flags |= HEAD_TE_TRAILERS
    elif id == FIELD_TRACEPARENT:
        head.flags |= HEAD_TRACEPARENT
    elif id == FIELD_X_PROXY_TUNNEL:
        if head.tunnel.start != 0:
            return HEAD_ERROR_BAD_FIELD
        head.tunnel = field.value
        field.is_dropped = True
    elif id == FIELD_X_REQUEST_ID:
        field.is_dropped = True
        if size <= REQUEST_ID_SIZE_MAX:
            if scan_class(value, value + size, CHAR_REQUEST_ID) == value + size:
                head.request_id = field.value
    elif (
        id == FIELD_CONNECTION or id == FIELD_KEEP_ALIVE or id == FIELD_PROXY_CONNECTION
        or id == FIELD_PROXY or id == FIELD_UPGRADE or id == FIELD_HTTP2_SETTINGS
        or id == FIELD_FORWARDED or id == FIELD_X_REAL_IP or id == FIELD_X_FORWARDED_FOR
        or id == FIELD_X_FORWARDED_HOST or id == FIELD_X_FORWARDED_PROTO
        or id == FIELD_X_FORWARDED_OTHER
    ):
        field.is_dropped = True
    return 0


cdef int request_host_apply(Head *head, Span field) noexcept nogil:
    # The authority of an absolute-form target wins, but Host must be right anyway.
    cdef Span host
    if field.start == 0:
        return HEAD_ERROR_BAD_HOST if head.minor_version == 1 else 0
    if authority_parse(head.bytes, field, &host) < 0:
        return HEAD_ERROR_BAD_HOST
    if head.authority.size == 0:
        head.authority = field
        head.host = host
    return 0


cdef int request_head_parse(Head *head, const uint8_t *bytes, uint32_t size) noexcept nogil:
    cdef int code
    cdef uint32_t index
    cdef bint has_connection = False
    cdef Span host
    head_init(head, bytes, size)
    span_clear(&host)
    code = request_line_parse(head, bytes, size)
    if code < 0:
        return code
    if size > HEAD_SIZE_MAX:
        return HEAD_ERROR_TOO_LARGE
    if not is_terminated(bytes, size):
        return HEAD_ERROR_BAD_LINE_END
    code = field_section_parse(head, <uint32_t>code, True)
    if code < 0:
        return code
    for index in range(head.field_count):
        if head.fields[index].id != FIELD_OTHER:
            has_connection |= head.fields[index].id == FIELD_CONNECTION
            code = request_field_apply(head, &head.fields[index], &host)
            if code < 0:
                return code
    code = request_host_apply(head, host)
    if code < 0:
        return code
    if not has_connection:
        if head.minor_version == 1:
            head.flags |= HEAD_KEEP_ALIVE
        return 0
    code = connection_apply(head)
    if code < 0:
        return code
    if code & CONNECTION_UPGRADE and head.minor_version == 1:
        return request_upgrade_apply(head)
    return 0


# --- responses ---

cdef int status_line_parse(Head *head) noexcept nogil:
    # HTTP-version SP 3DIGIT [SP reason] CRLF; the size of the line or a HeadError.
    cdef const uint8_t *cursor = head.bytes
    cdef const uint8_t *end = head.bytes + head.size
    cdef int version
    cdef uint32_t index
    cdef uint8_t digit
    if head.size < 16:                    # "HTTP/1.1 200" and CRLFCRLF
        return HEAD_ERROR_BAD_STATUS_LINE
    version = version_parse(cursor)
    if version < 0:
        return version
    head.minor_version = <uint8_t>version
    if cursor[8] != SP:
        return HEAD_ERROR_BAD_STATUS_LINE
    for index in range(9, 12):
        digit = cursor[index] - 48
        if digit > 9:
            return HEAD_ERROR_BAD_STATUS_LINE
        head.status = <uint16_t>(head.status * 10 + digit)
    if head.status < 100:
        return HEAD_ERROR_BAD_STATUS_LINE
    cursor += 12
    if cursor[0] == SP:                   # without a reason many leave it out
        cursor += 1
        head.reason.start = <uint32_t>(cursor - head.bytes)
        cursor = scan_text(cursor, end)
        head.reason.size = <uint32_t>(cursor - head.bytes) - head.reason.start
    if cursor[0] != CR or cursor[1] != LF:
        if cursor[0] == CR or cursor[0] == LF or cursor[0] == 0:
            return HEAD_ERROR_BAD_LINE_END
        return HEAD_ERROR_BAD_STATUS_LINE
    return <int>(cursor + 2 - head.bytes)


cdef int response_field_apply(Head *head, Field *field) noexcept nogil:
    cdef int id = field.id
    if id == FIELD_KEEP_ALIVE:
        head.keep_alive_s = keep_alive_timeout(
            head.bytes + field.value.start, field.value.size
        )
    if id == FIELD_CONTENT_LENGTH or id == FIELD_TRANSFER_ENCODING:
        # They may not be there (RFC 9110 section 8.6, RFC 9112 section 6.1) and mean nothing.
        if head.status < 200 or head.status == 204:
            field.is_dropped = True
        return framing_field_parse(head, field, False)
    if (
        id == FIELD_CONNECTION or id == FIELD_KEEP_ALIVE or id == FIELD_PROXY_CONNECTION
        or id == FIELD_PROXY or id == FIELD_TE or id == FIELD_UPGRADE
        or id == FIELD_HTTP2_SETTINGS or id == FIELD_X_REQUEST_ID
    ):
        field.is_dropped = True
    return 0


cdef int response_upgrade_apply(Head *head) noexcept nogil:
    # A 101 says what it switches to, once; everything else offers, which is dropped.
    cdef uint32_t index
    for index in range(head.field_count):
        if head.fields[index].id == FIELD_UPGRADE:
            if head.flags & HEAD_UPGRADE or head.fields[index].value.size == 0:
                return HEAD_ERROR_BAD_UPGRADE
            head.flags |= HEAD_UPGRADE
            head.upgrade = head.fields[index].value
    return 0


cdef int response_head_parse(Head *head, const uint8_t *bytes, uint32_t size) noexcept nogil:
    cdef int code
    cdef uint32_t index
    head_init(head, bytes, size)
    if size > HEAD_SIZE_MAX:
        return HEAD_ERROR_TOO_LARGE
    if not is_terminated(bytes, size):
        return HEAD_ERROR_BAD_LINE_END
    code = status_line_parse(head)
    if code < 0:
        return code
    code = field_section_parse(head, <uint32_t>code, False)
    if code < 0:
        return code
    for index in range(head.field_count):
        if head.fields[index].id != FIELD_OTHER:
            code = response_field_apply(head, &head.fields[index])
            if code < 0:
                return code
    code = connection_apply(head)
    if code < 0:
        return code
    if head.status == 101 and head.minor_version == 1 and code & CONNECTION_UPGRADE:
        return response_upgrade_apply(head)
    return 0


# --- what it means ---

cdef int request_body_framing(const Head *head) noexcept nogil:
    if head.flags & HEAD_CHUNKED:
        return BODY_CHUNKED
    return BODY_LENGTH if head.content_length > 0 else BODY_NONE


cdef int response_body_framing(const Head *head, uint8_t request_method) noexcept nogil:
    if request_method == METHOD_HEAD or head.status < 200:
        return BODY_NONE
    if head.status == 204 or head.status == 304:
        return BODY_NONE
    if head.flags & HEAD_CHUNKED:
        return BODY_CHUNKED
    if head.content_length < 0:
        return BODY_CLOSE
    return BODY_LENGTH if head.content_length > 0 else BODY_NONE


cdef const Field *head_field(const Head *head, uint8_t id) noexcept nogil:
    cdef uint32_t index
    for index in range(head.field_count):
        if head.fields[index].id == id:
            return &head.fields[index]
    return NULL


# --- errors ---

cdef inline const HeadErrorRow *error_row(int error) noexcept nogil:
    CHECK(error < 0)
    CHECK(error >= -HEAD_ERROR_COUNT)
    return &head_errors[-error - 1]


cdef int head_error_status(int error) noexcept nogil:
    return error_row(error).status


cdef const char *head_error_reason(int error) noexcept nogil:
    return error_row(error).reason


cdef const char *head_error_text(int error) noexcept nogil:
    return error_row(error).text
