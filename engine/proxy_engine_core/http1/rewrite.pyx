# Heads as they leave us. The contract is in rewrite.pxd.
#
# A kept field goes out as the bytes it came in, and field lines lie side by side, so a
# run of kept fields is one memcpy. Runs end at fields that are dropped and at the two
# that frame the body, which are written anew from what we parsed: the next recipient
# then reads exactly the length that we read.

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from proxy_engine_core.http1.edit cimport RequestEdit, ResponseEdit
from proxy_engine_core.http1.head cimport (
    FIELD_CONTENT_LENGTH, FIELD_FORWARDED, FIELD_TRAILER, FIELD_TRANSFER_ENCODING,
    FIELD_X_FORWARDED_FOR, FIELD_X_FORWARDED_HOST, FIELD_X_FORWARDED_OTHER,
    FIELD_X_FORWARDED_PROTO, FIELD_X_REAL_IP, HEAD_TE_TRAILERS, HEAD_UPGRADE, Field, Head,
    Span, head_field,
)
from proxy_engine_core.http1.scan cimport equals_lower


cdef enum:
    # What is written beyond the bytes of the head itself: names, line ends, numbers.
    ADDED_SIZE_MAX = 320

cdef enum LineAction:
    LINE_KEEP = 0
    LINE_SKIP
    LINE_FRAMING                          # written anew


cdef inline uint8_t *put(uint8_t *target, const void *source, size_t size) noexcept nogil:
    memcpy(target, source, size)
    return target + size


cdef inline uint8_t *put_span(uint8_t *target, const Head *head, Span span) noexcept nogil:
    return put(target, head.bytes + span.start, span.size)


cdef uint8_t *put_number(uint8_t *target, uint64_t value) noexcept nogil:
    cdef uint8_t digits[20]
    cdef int at = 20
    while True:
        at -= 1
        digits[at] = <uint8_t>(48 + value % 10)
        value //= 10
        if value == 0:
            break
    return put(target, digits + at, 20 - at)


cdef uint8_t *put_framing(uint8_t *target, const Head *head, uint8_t id) noexcept nogil:
    if id == FIELD_TRANSFER_ENCODING:
        return put(target, b"Transfer-Encoding: chunked\r\n", 28)
    target = put(target, b"Content-Length: ", 16)
    target = put_number(target, <uint64_t>head.content_length)
    return put(target, b"\r\n", 2)


cdef uint8_t *put_request_id(
    uint8_t *target, const uint8_t *request_id, uint32_t size
) noexcept nogil:
    if size == 0:
        return target
    target = put(target, b"X-Request-Id: ", 14)
    target = put(target, request_id, size)
    return put(target, b"\r\n", 2)


cdef inline uint32_t line_end(const Head *head, uint32_t index) noexcept nogil:
    # Where field `index` ends with its CRLF: the next one begins, or the empty line does.
    if index + 1 < head.field_count:
        return head.fields[index + 1].name.start
    return head.size - 2


cdef inline int request_line_action(const Field *field, bint is_trusted) noexcept nogil:
    cdef int id = field.id
    if id == FIELD_CONTENT_LENGTH or id == FIELD_TRANSFER_ENCODING:
        return LINE_FRAMING
    if not field.is_dropped:
        return LINE_KEEP
    if is_trusted and (
        id == FIELD_FORWARDED or id == FIELD_X_REAL_IP or id == FIELD_X_FORWARDED_HOST
        or id == FIELD_X_FORWARDED_PROTO or id == FIELD_X_FORWARDED_OTHER
    ):
        return LINE_KEEP
    return LINE_SKIP


cdef inline int response_line_action(const Field *field, uint8_t reframe) noexcept nogil:
    cdef int id = field.id
    if field.is_dropped:
        return LINE_SKIP
    if id == FIELD_CONTENT_LENGTH:
        # Next to a coding of ours or theirs a length would contradict it.
        return LINE_FRAMING if reframe == REFRAME_NONE else LINE_SKIP
    if id == FIELD_TRANSFER_ENCODING:
        return LINE_FRAMING if reframe == REFRAME_NONE else LINE_SKIP
    if id == FIELD_TRAILER and reframe == REFRAME_CLOSE:
        return LINE_SKIP                  # its fields are lost with the chunks
    return LINE_KEEP


cdef inline uint8_t *put_run(
    uint8_t *target, const Head *head, uint32_t start, uint32_t end
) noexcept nogil:
    return put(target, head.bytes + start, end - start)


cdef uint8_t *put_fields(
    uint8_t *target, const Head *head, bint is_request, uint8_t option
) noexcept nogil:
    # `option`: is_trusted of a request, reframe of a response.
    cdef uint32_t index
    cdef uint32_t start = 0
    cdef uint32_t end = 0                 # of the run not yet copied
    cdef int action
    for index in range(head.field_count):
        if is_request:
            action = request_line_action(&head.fields[index], option)
        else:
            action = response_line_action(&head.fields[index], option)
        if action == LINE_KEEP:
            if start == end:
                start = head.fields[index].name.start
            end = line_end(head, index)
            continue
        target = put_run(target, head, start, end)
        start = end
        if action == LINE_FRAMING:
            target = put_framing(target, head, head.fields[index].id)
    return put_run(target, head, start, end)


cdef uint8_t *put_forwarded(
    uint8_t *target, const Head *head, const RequestRewrite *rewrite
) noexcept nogil:
    cdef uint32_t index
    target = put(target, b"X-Forwarded-For: ", 17)
    if rewrite.is_trusted:
        for index in range(head.field_count):
            if head.fields[index].id == FIELD_X_FORWARDED_FOR and head.fields[index].value.size:
                target = put_span(target, head, head.fields[index].value)
                target = put(target, b", ", 2)
    target = put(target, rewrite.address, rewrite.address_size)
    target = put(target, b"\r\n", 2)
    if not rewrite.is_trusted or head_field(head, FIELD_X_FORWARDED_PROTO) == NULL:
        if rewrite.is_tls:
            target = put(target, b"X-Forwarded-Proto: https\r\n", 26)
        else:
            target = put(target, b"X-Forwarded-Proto: http\r\n", 25)
    if head.authority.size == 0:
        return target
    if not rewrite.is_trusted or head_field(head, FIELD_X_FORWARDED_HOST) == NULL:
        target = put(target, b"X-Forwarded-Host: ", 18)
        target = put_span(target, head, head.authority)
        target = put(target, b"\r\n", 2)
    return target


cdef bint came_by_https(const Head *head, const RequestRewrite *rewrite) noexcept nogil:
    cdef const Field *told = head_field(head, FIELD_X_FORWARDED_PROTO)
    if not rewrite.is_trusted or told == NULL:
        return rewrite.is_tls
    return told.value.size == 5 and equals_lower(
        head.bytes + told.value.start, b"https", 5
    )


cdef uint32_t request_head_bound(
    const Head *head, const RequestRewrite *rewrite
) noexcept nogil:
    # The authority goes out twice more than it came in, the upgrade once.
    cdef uint32_t bound = (
        head.size + 2 * head.authority.size + head.upgrade.size + rewrite.address_size
        + rewrite.request_id_size + rewrite.trace_size + ADDED_SIZE_MAX
    )
    if rewrite.edit != NULL:
        bound += rewrite.edit.head.lines_size + rewrite.edit.host_size + rewrite.edit.prefix_size
    return bound


cdef uint32_t response_head_bound(
    const Head *head, const ResponseRewrite *rewrite
) noexcept nogil:
    cdef uint32_t bound = (
        head.size + head.upgrade.size + rewrite.request_id_size + ADDED_SIZE_MAX
    )
    if rewrite.edit != NULL:
        bound += (
            rewrite.edit.head.lines_size + rewrite.edit.location.size + rewrite.edit.prefix_size
            + rewrite.edit.timing_size
        )
    return bound


cdef uint8_t *put_request_edit(uint8_t *target, const RequestEdit *edit) noexcept nogil:
    if edit.prefix_size:
        target = put(target, b"X-Forwarded-Prefix: ", 20)
        target = put(target, edit.prefix, edit.prefix_size)
        target = put(target, b"\r\n", 2)
    return put(target, edit.head.lines, edit.head.lines_size)


cdef uint8_t *put_response_edit(
    uint8_t *target, const Head *head, const ResponseEdit *edit
) noexcept nogil:
    if edit.moves_location:
        target = put(target, b"Location: ", 10)
        if edit.prefix_size:
            target = put(target, edit.prefix, edit.prefix_size)
        if edit.needs_slash:
            target = put(target, b"/", 1)
        target = put_span(target, head, edit.location)
        target = put(target, b"\r\n", 2)
    if edit.timing_size:
        target = put(target, edit.timing, edit.timing_size)
    return put(target, edit.head.lines, edit.head.lines_size)


cdef uint32_t request_head_write(
    uint8_t *target, const Head *head, const RequestRewrite *rewrite
) noexcept nogil:
    cdef uint8_t *start = target
    target = put_span(target, head, head.method_name)
    target = put(target, b" ", 1)
    if rewrite.edit != NULL and rewrite.edit.needs_slash:
        target = put(target, b"/", 1)
    target = put_span(target, head, head.path)
    target = put(target, b" HTTP/1.1\r\nHost: ", 17)
    if rewrite.edit != NULL and rewrite.edit.host_size:
        target = put(target, rewrite.edit.host, rewrite.edit.host_size)
    elif head.authority.size:
        target = put_span(target, head, head.authority)
    else:
        # An HTTP/1.0 visitor without Host. HTTP/1.1 allows an empty one here, but few
        # servers do; to a target the host that is always true is the one it runs on.
        target = put(target, b"localhost", 9)
    target = put(target, b"\r\n", 2)
    target = put_fields(target, head, True, rewrite.is_trusted)
    target = put_forwarded(target, head, rewrite)
    if rewrite.edit != NULL:
        target = put_request_edit(target, rewrite.edit)
    if rewrite.trace_size:
        target = put(target, rewrite.trace, rewrite.trace_size)
    target = put_request_id(target, rewrite.request_id, rewrite.request_id_size)
    if head.flags & HEAD_TE_TRAILERS:
        if head.flags & HEAD_UPGRADE:
            target = put(target, b"TE: trailers\r\nConnection: TE, Upgrade\r\n", 39)
        else:
            target = put(target, b"TE: trailers\r\nConnection: TE\r\n", 30)
    elif head.flags & HEAD_UPGRADE:
        target = put(target, b"Connection: Upgrade\r\n", 21)
    if head.flags & HEAD_UPGRADE:
        target = put(target, b"Upgrade: ", 9)
        target = put_span(target, head, head.upgrade)
        target = put(target, b"\r\n", 2)
    target = put(target, b"\r\n", 2)
    return <uint32_t>(target - start)


cdef uint8_t *put_response_end(
    uint8_t *target, const Head *head, const ResponseRewrite *rewrite
) noexcept nogil:
    # Our own fields of a final response or a 101.
    target = put_request_id(target, rewrite.request_id, rewrite.request_id_size)
    if head.status == 101:
        target = put(target, b"Connection: Upgrade\r\nUpgrade: ", 30)
        target = put_span(target, head, head.upgrade)
        return put(target, b"\r\n", 2)
    if rewrite.reframe == REFRAME_CHUNK:
        target = put_framing(target, head, FIELD_TRANSFER_ENCODING)
    if not rewrite.keep_alive:
        return put(target, b"Connection: close\r\n", 19)
    if rewrite.visitor_minor_version == 0:
        return put(target, b"Connection: keep-alive\r\n", 24)
    return target


cdef uint32_t response_head_write(
    uint8_t *target, const Head *head, const ResponseRewrite *rewrite
) noexcept nogil:
    cdef uint8_t *start = target
    target = put(target, b"HTTP/1.1 ", 9)
    target = put_number(target, head.status)
    target = put(target, b" ", 1)
    target = put_span(target, head, head.reason)
    target = put(target, b"\r\n", 2)
    target = put_fields(target, head, False, rewrite.reframe)
    if rewrite.edit != NULL:
        target = put_response_edit(target, head, rewrite.edit)
    if head.status >= 200 or head.status == 101:
        target = put_response_end(target, head, rewrite)
    target = put(target, b"\r\n", 2)
    return <uint32_t>(target - start)
