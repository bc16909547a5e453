# Field sections. See field.pxd.
#
#   field-name ":" OWS field-value OWS CRLF
#
# One loop reads all lines: a name is scanned by a class table, a value sixteen bytes
# at a time up to the first control character, which must be its CR. No white space
# before the colon, no folded lines, no bare CR or LF.
#
# Names become ids by a switch on length and first letter and one comparison, so that
# everything behind this file compares small integers.
#
# CGI, WSGI and PHP targets turn "-" and "_" into the same letter: to them
# "Transfer_Encoding" is Transfer-Encoding. So a request name that turns into one of
# ours that way is refused if it frames or routes, and else dropped.

from libc.stdint cimport INT64_MAX, int32_t, int64_t, uint8_t, uint32_t

from proxy_engine_core.http1.head cimport (
    FIELD_ACCEPT, FIELD_AUTHORIZATION, FIELD_CONNECTION, FIELD_CONTENT_LENGTH, FIELD_COOKIE,
    FIELD_EXPECT, FIELD_FORWARDED, FIELD_HOST, FIELD_HTTP2_SETTINGS, FIELD_KEEP_ALIVE,
    FIELD_OTHER, FIELD_PROXY, FIELD_PROXY_AUTHENTICATE, FIELD_PROXY_CONNECTION,
    FIELD_PROXY_ENGINE_DIRECT, FIELD_PROXY_ENGINE_TICKET, FIELD_PROXY_ENGINE_WINDOW,
    FIELD_SEC_WEBSOCKET_PROTOCOL, FIELD_TE, FIELD_TRACEPARENT,
    FIELD_TRACESTATE, FIELD_TRAILER, FIELD_TRANSFER_ENCODING, FIELD_UPGRADE,
    FIELD_VIA, FIELD_X_FORWARDED_FOR,
    FIELD_X_FORWARDED_HOST, FIELD_X_FORWARDED_OTHER, FIELD_X_FORWARDED_PROTO,
    FIELD_X_PROXY_TUNNEL, FIELD_X_REAL_IP, FIELD_X_REQUEST_ID, HEAD_ERROR_BAD_CONTENT_LENGTH,
    HEAD_ERROR_BAD_FIELD, HEAD_ERROR_BAD_LINE_END, HEAD_ERROR_CONTENT_LENGTH_TOO_BIG,
    HEAD_ERROR_TOO_LARGE, HEAD_FIELDS_MAX, Field, Head,
)
from proxy_engine_core.http1.scan cimport (
    CHAR_TOKEN, equals_lower, scan_class, scan_name, scan_text,
)


cdef enum:
    HTAB = 9
    LF = 10
    CR = 13
    SP = 32
    COMMA = 44
    COLON = 58
    UNDERSCORE = 95
    KNOWN_NAME_SIZE_MAX = 22              # bytes; sec-websocket-protocol
    KEEP_ALIVE_TIMEOUT_MAX = 100_000_000  # seconds; further digits change nothing


cdef inline uint8_t name_match(
    const uint8_t *name, const char *lower, uint32_t size, uint8_t id
) noexcept nogil:
    return id if equals_lower(name, lower, size) else <uint8_t>FIELD_OTHER


cdef uint8_t x_forwarded_id(const uint8_t *name, uint32_t size) noexcept nogil:
    if size <= 12 or not equals_lower(name, b"x-forwarded-", 12):
        return FIELD_OTHER
    if size == 15 and equals_lower(name + 12, b"for", 3):
        return FIELD_X_FORWARDED_FOR
    if size == 16 and equals_lower(name + 12, b"host", 4):
        return FIELD_X_FORWARDED_HOST
    if size == 17 and equals_lower(name + 12, b"proto", 5):
        return FIELD_X_FORWARDED_PROTO
    return FIELD_X_FORWARDED_OTHER


cdef uint8_t x_name_id(const uint8_t *name, uint32_t size) noexcept nogil:
    if size == 9:
        return name_match(name, b"x-real-ip", 9, FIELD_X_REAL_IP)
    if size == 12:
        return name_match(name, b"x-request-id", 12, FIELD_X_REQUEST_ID)
    if size == 14 and equals_lower(name, b"x-proxy-tunnel", 14):
        return FIELD_X_PROXY_TUNNEL
    return x_forwarded_id(name, size)


cdef uint8_t field_name_id(const uint8_t *name, uint32_t size) noexcept nogil:
    cdef uint8_t first = name[0] | 0x20
    if first == 120:                      # "x"
        return x_name_id(name, size)
    if size == 2:
        return name_match(name, b"te", 2, FIELD_TE)
    elif size == 3:
        return name_match(name, b"via", 3, FIELD_VIA)
    elif size == 4:
        return name_match(name, b"host", 4, FIELD_HOST)
    elif size == 5:
        return name_match(name, b"proxy", 5, FIELD_PROXY)
    elif size == 6:
        if first == 97:
            return name_match(name, b"accept", 6, FIELD_ACCEPT)
        if first == 99:
            return name_match(name, b"cookie", 6, FIELD_COOKIE)
        return name_match(name, b"expect", 6, FIELD_EXPECT)
    elif size == 7:
        if first == 116:
            return name_match(name, b"trailer", 7, FIELD_TRAILER)
        return name_match(name, b"upgrade", 7, FIELD_UPGRADE)
    elif size == 9:
        return name_match(name, b"forwarded", 9, FIELD_FORWARDED)
    elif size == 10:
        if first == 99:
            return name_match(name, b"connection", 10, FIELD_CONNECTION)
        if first == 116:
            return name_match(name, b"tracestate", 10, FIELD_TRACESTATE)
        return name_match(name, b"keep-alive", 10, FIELD_KEEP_ALIVE)
    elif size == 11:
        return name_match(name, b"traceparent", 11, FIELD_TRACEPARENT)
    elif size == 13:
        return name_match(name, b"authorization", 13, FIELD_AUTHORIZATION)
    elif size == 14:
        if first == 99:
            return name_match(name, b"content-length", 14, FIELD_CONTENT_LENGTH)
        return name_match(name, b"http2-settings", 14, FIELD_HTTP2_SETTINGS)
    elif size == 16:
        return name_match(name, b"proxy-connection", 16, FIELD_PROXY_CONNECTION)
    elif size == 17:
        return name_match(name, b"transfer-encoding", 17, FIELD_TRANSFER_ENCODING)
    elif size == 18:
        return name_match(name, b"proxy-authenticate", 18, FIELD_PROXY_AUTHENTICATE)
    elif size == 19:
        if name[13] | 0x20 == c'd':
            return name_match(name, b"proxy-engine-direct", 19, FIELD_PROXY_ENGINE_DIRECT)
        if name[13] | 0x20 == c't':
            return name_match(name, b"proxy-engine-ticket", 19, FIELD_PROXY_ENGINE_TICKET)
        return name_match(name, b"proxy-engine-window", 19, FIELD_PROXY_ENGINE_WINDOW)
    elif size == 22:
        return name_match(name, b"sec-websocket-protocol", 22, FIELD_SEC_WEBSOCKET_PROTOCOL)
    return FIELD_OTHER


cdef int underscore_check(Field *field, const uint8_t *name, bint is_request) noexcept nogil:
    # A name with "_": what would it be with "-"? Of longer names than we know only the
    # prefix "x-forwarded-" is compared.
    cdef uint8_t dashed[KNOWN_NAME_SIZE_MAX]
    cdef uint32_t index
    cdef uint8_t id
    if not is_request:
        return 0
    for index in range(min(field.name.size, <uint32_t>KNOWN_NAME_SIZE_MAX)):
        dashed[index] = 45 if name[index] == UNDERSCORE else name[index]
    id = field_name_id(dashed, field.name.size)
    if id == FIELD_CONTENT_LENGTH or id == FIELD_TRANSFER_ENCODING or id == FIELD_HOST:
        return HEAD_ERROR_BAD_FIELD
    field.is_dropped = id != FIELD_OTHER
    return 0


cdef int field_section_parse(Head *head, uint32_t start, bint is_request) noexcept nogil:
    cdef const uint8_t *bytes = head.bytes
    cdef const uint8_t *end = bytes + head.size
    cdef const uint8_t *cursor = bytes + start
    cdef const uint8_t *colon
    cdef const uint8_t *stop
    cdef Field *field = head.fields
    cdef const Field *fields_end = head.fields + HEAD_FIELDS_MAX
    head.field_count = 0
    # The CRLFCRLF at the end stops every scan, so nothing here runs past it.
    while cursor[0] != CR:
        if field == fields_end:
            return HEAD_ERROR_TOO_LARGE
        colon = scan_name(cursor, end)
        field.is_dropped = False
        field.id = FIELD_OTHER
        field.name.start = <uint32_t>(cursor - bytes)
        if colon[0] == UNDERSCORE:
            colon = scan_class(colon, end, CHAR_TOKEN)
            field.name.size = <uint32_t>(colon - cursor)
            if underscore_check(field, cursor, is_request) < 0:
                return HEAD_ERROR_BAD_FIELD
        else:
            field.name.size = <uint32_t>(colon - cursor)
            if field.name.size != 0:
                field.id = field_name_id(cursor, field.name.size)
        if colon[0] != COLON or field.name.size == 0:
            return HEAD_ERROR_BAD_LINE_END if colon[0] == LF else HEAD_ERROR_BAD_FIELD
        cursor = colon + 1
        while cursor[0] == SP or cursor[0] == HTAB:
            cursor += 1
        stop = scan_text(cursor, end)
        if stop[0] != CR or stop[1] != LF:
            if stop[0] == CR or stop[0] == LF or stop[0] == 0:
                return HEAD_ERROR_BAD_LINE_END
            return HEAD_ERROR_BAD_FIELD
        field.value.start = <uint32_t>(cursor - bytes)
        colon = stop                      # from here: the end of the trimmed value
        while colon > cursor and ((colon - 1)[0] == SP or (colon - 1)[0] == HTAB):
            colon -= 1
        field.value.size = <uint32_t>(colon - cursor)
        cursor = stop + 2
        field += 1
        head.field_count += 1
    # A CR anywhere but in the final CRLF: an empty line inside, or a bare CR.
    return 0 if cursor + 2 == end else HEAD_ERROR_BAD_LINE_END


cdef bint list_next(
    const uint8_t **cursor, const uint8_t *end, const uint8_t **element, uint32_t *size
) noexcept nogil:
    cdef const uint8_t *at = cursor[0]
    cdef const uint8_t *stop
    while at < end and (at[0] == COMMA or at[0] == SP or at[0] == HTAB):
        at += 1
    if at == end:
        cursor[0] = at
        return False
    element[0] = at
    while at < end and at[0] != COMMA:
        at += 1
    cursor[0] = at
    stop = at
    while (stop - 1)[0] == SP or (stop - 1)[0] == HTAB:
        stop -= 1
    size[0] = <uint32_t>(stop - element[0])
    return True


cdef int32_t keep_alive_timeout(const uint8_t *value, uint32_t size) noexcept nogil:
    cdef const uint8_t *end = value + size
    cdef const uint8_t *element
    cdef uint32_t element_size, index
    cdef int32_t seconds = 0
    cdef uint8_t digit
    while list_next(&value, end, &element, &element_size):
        if element_size < 9 or not equals_lower(element, b"timeout=", 8):
            continue
        for index in range(8, element_size):
            digit = element[index] - 48
            if digit > 9:
                return -1
            if seconds < KEEP_ALIVE_TIMEOUT_MAX:
                seconds = seconds * 10 + digit
        return seconds
    return -1


cdef inline int known_option(const uint8_t *option, uint32_t size) noexcept nogil:
    # 0: another one.
    if size == 5 and equals_lower(option, b"close", 5):
        return CONNECTION_CLOSE
    if size == 10 and equals_lower(option, b"keep-alive", 10):
        return CONNECTION_KEEP_ALIVE
    if size == 7 and equals_lower(option, b"upgrade", 7):
        return CONNECTION_UPGRADE
    return 0


cdef int connection_option(const uint8_t *option, uint32_t size) noexcept nogil:
    cdef int known = known_option(option, size)
    if known:
        return known
    if scan_class(option, option + size, CHAR_TOKEN) != option + size:
        return HEAD_ERROR_BAD_FIELD
    return CONNECTION_NOMINATES


cdef int connection_options(const Head *head) noexcept nogil:
    cdef int options = 0
    cdef int option
    cdef uint32_t index, size
    cdef const Field *field
    cdef const uint8_t *cursor
    cdef const uint8_t *end
    cdef const uint8_t *element
    for index in range(head.field_count):
        field = &head.fields[index]
        if field.id != FIELD_CONNECTION:
            continue
        cursor = head.bytes + field.value.start
        end = cursor + field.value.size
        option = known_option(cursor, field.value.size)
        if option:                        # alone, as nearly always
            options |= option
            continue
        while list_next(&cursor, end, &element, &size):
            option = connection_option(element, size)
            if option < 0:
                return option
            options |= option
    return options


cdef bint is_exempt(uint8_t id) noexcept nogil:
    # Dropping these on a visitor's word would change framing, routing or who is asking.
    return (
        id == FIELD_HOST or id == FIELD_CONTENT_LENGTH or id == FIELD_TRANSFER_ENCODING
        or id == FIELD_AUTHORIZATION or id == FIELD_COOKIE or id == FIELD_EXPECT
        or id == FIELD_FORWARDED or id == FIELD_X_FORWARDED_FOR
        or id == FIELD_X_FORWARDED_HOST or id == FIELD_X_FORWARDED_PROTO
        or id == FIELD_X_FORWARDED_OTHER or id == FIELD_X_REAL_IP
    )


cdef void drop_named(Head *head, const uint8_t *name, uint32_t size) noexcept nogil:
    cdef Field *field
    cdef const uint8_t *other
    cdef uint32_t index, at
    for index in range(head.field_count):
        field = &head.fields[index]
        if field.name.size != size or is_exempt(field.id):
            continue
        other = head.bytes + field.name.start
        at = 0
        while at < size and (other[at] | 0x20) == (name[at] | 0x20):
            at += 1
        if at == size:
            field.is_dropped = True


cdef int drop_nominated(Head *head) noexcept nogil:
    cdef uint32_t index, size
    cdef uint32_t nominations = 0
    cdef const Field *field
    cdef const uint8_t *cursor
    cdef const uint8_t *end
    cdef const uint8_t *element
    for index in range(head.field_count):
        field = &head.fields[index]
        if field.id != FIELD_CONNECTION:
            continue
        cursor = head.bytes + field.value.start
        end = cursor + field.value.size
        while list_next(&cursor, end, &element, &size):
            if connection_option(element, size) != CONNECTION_NOMINATES:
                continue
            # Every nomination is a walk over all fields: an attacker's thousands are not.
            nominations += 1
            if nominations > NOMINATIONS_MAX:
                return HEAD_ERROR_BAD_FIELD
            drop_named(head, element, size)
    return 0


cdef int64_t content_length_parse(
    const uint8_t *digits, uint32_t size, bint allow_leading_zeros
) noexcept nogil:
    cdef int64_t value = 0
    cdef uint32_t index
    cdef uint8_t digit
    if size == 0 or (size > 1 and digits[0] == 48 and not allow_leading_zeros):
        return HEAD_ERROR_BAD_CONTENT_LENGTH
    for index in range(size):
        digit = digits[index] - 48
        if digit > 9:
            return HEAD_ERROR_BAD_CONTENT_LENGTH
        if value > (INT64_MAX - digit) // 10:
            return HEAD_ERROR_CONTENT_LENGTH_TOO_BIG
        value = value * 10 + digit
    return value
