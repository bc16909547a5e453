# Heads that a tunnel's options change, parsed again.
#
# Input: one byte of choices (bit 0: a response; bit 1: behind a trusted peer, or https; bit 2: with
# a prefix; bit 3: with another host; bit 4: with rules), then the head, which ends where the input
# does. Permitted: refused, or written within its bound and accepted again with the same method,
# framing and upgrade. The path is what it was without the prefix, and has no dot segments then; the
# host is the tunnel's; the fields that go are gone in any spelling, those that come are there; a
# Location that was changed begins with one slash.

from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memset

from input cimport REQUIRE, exact
from proxy_engine_core.http1.edit cimport (
    HeadEdit, RequestEdit, ResponseEdit, edit_fields, edit_location, edit_path,
)
from proxy_engine_core.http1.head cimport (
    HEAD_UPGRADE, Field, Head, request_body_framing, request_head_parse, response_body_framing,
    response_head_parse,
)
from proxy_engine_core.http1.rewrite cimport (
    REFRAME_NONE, RequestRewrite, ResponseRewrite, request_head_bound, request_head_write,
    response_head_bound, response_head_write,
)
from proxy_engine_core.http1.scan cimport equals_lower

cdef enum:
    GET = 1
    PREFIX_SIZE = 2
    HOST_SIZE = 3
    NAMES_SIZE = 6
    LINES_SIZE = 18

cdef const uint8_t *PREFIX = b"/a"
cdef const uint8_t *HOST = b"b:1"
cdef const uint8_t *NAMES = b"\x01x\x03x-y"
cdef const uint8_t *LINES = b"X: ours\r\nZ: more\r\n"
cdef const uint8_t *ADDRESS = b"2001:db8::1"
cdef Head first_head                      # large: not on the stack
cdef Head second_head


cdef void set_rules(HeadEdit *edit, uint8_t choice) noexcept nogil:
    edit.names = NAMES
    edit.names_size = NAMES_SIZE if choice & 16 else 0
    edit.lines = LINES
    edit.lines_size = LINES_SIZE if choice & 16 else 0


cdef void check_rules(const Head *again) noexcept nogil:
    cdef const Field *field
    cdef const uint8_t *name
    cdef uint32_t index
    cdef uint32_t ours = 0
    for index in range(again.field_count):
        field = &again.fields[index]
        name = again.bytes + field.name.start
        if field.name.size == 1 and name[0] | 32 == c'x':
            ours += 1
            REQUIRE(field.value.size == 4)
            REQUIRE(memcmp(again.bytes + field.value.start, b"ours", 4) == 0)
        REQUIRE(not (
            field.name.size == 3 and name[0] | 32 == c'x' and name[2] | 32 == c'y'
            and (name[1] == c'-' or name[1] == c'_')
        ))
    REQUIRE(ours == 1)


cdef bint has_plain_dot_segment(const uint8_t *path, uint32_t size) noexcept nogil:
    cdef uint32_t index = 0
    cdef uint32_t start = 0
    while index <= size:
        if index == size or path[index] == c'/' or path[index] == c'?':
            if 1 <= index - start <= 2 and path[start] == c'.' and path[index - 1] == c'.':
                return True
            if index < size and path[index] == c'?':
                return False
            start = index + 1
        index += 1
    return False


cdef void check_path(const Head *head, const Head *again, const RequestEdit *edit) noexcept nogil:
    cdef const uint8_t *path = again.bytes + again.path.start
    cdef uint32_t slash = 1 if edit.needs_slash else 0
    REQUIRE(again.path.size == head.path.size + slash)
    REQUIRE(memcmp(path + slash, head.bytes + head.path.start, head.path.size) == 0)
    if edit.prefix_size:
        REQUIRE(path[0] == c'/')
        REQUIRE(not has_plain_dot_segment(path, again.path.size))


cdef void check_request(uint8_t *bytes, uint32_t size, uint8_t choice) noexcept nogil:
    cdef Head *head = &first_head
    cdef Head *again = &second_head
    cdef RequestEdit edit
    cdef RequestRewrite rewrite
    cdef uint8_t *place
    cdef uint32_t bound, written, came
    if request_head_parse(head, bytes, size) < 0:
        return
    memset(&edit, 0, sizeof(RequestEdit))
    set_rules(&edit.head, choice)
    came = head.path.start
    if choice & 4:
        edit.prefix = PREFIX
        edit.prefix_size = PREFIX_SIZE
        if edit_path(head, &edit) < 0:
            REQUIRE(head.path.start == came)
            return
        REQUIRE(head.path.start == came + PREFIX_SIZE)
    if choice & 8:
        edit.host = HOST
        edit.host_size = HOST_SIZE
    edit_fields(head, &edit.head)
    rewrite.address = ADDRESS
    rewrite.address_size = 11
    rewrite.request_id = ADDRESS
    rewrite.request_id_size = 0
    rewrite.trace_size = 0
    rewrite.is_tls = False
    rewrite.is_trusted = (choice & 2) != 0
    rewrite.edit = &edit
    bound = request_head_bound(head, &rewrite)
    place = <uint8_t *>malloc(bound)
    REQUIRE(place != NULL)
    written = request_head_write(place, head, &rewrite)
    REQUIRE(0 < written <= bound)
    REQUIRE(request_head_parse(again, place, written) == 0)
    REQUIRE(again.method == head.method and again.content_length == head.content_length)
    REQUIRE(request_body_framing(again) == request_body_framing(head))
    REQUIRE((head.flags & HEAD_UPGRADE) == (again.flags & HEAD_UPGRADE))
    check_path(head, again, &edit)
    if choice & 8:
        REQUIRE(again.authority.size == HOST_SIZE)
        REQUIRE(memcmp(again.bytes + again.authority.start, HOST, HOST_SIZE) == 0)
    if choice & 16:
        check_rules(again)
    free(place)


cdef void check_location(const Head *again) noexcept nogil:
    cdef const Field *field
    cdef const uint8_t *value
    cdef uint32_t index
    for index in range(again.field_count):
        field = &again.fields[index]
        if field.name.size == 8 and equals_lower(
            again.bytes + field.name.start, b"location", 8
        ):
            value = again.bytes + field.value.start
            REQUIRE(field.value.size and value[0] == c'/')
            REQUIRE(field.value.size == 1 or value[1] != c'/' and value[1] != c'\\')


cdef void check_response(uint8_t *bytes, uint32_t size, uint8_t choice) noexcept nogil:
    cdef Head *head = &first_head
    cdef Head *again = &second_head
    cdef ResponseEdit edit
    cdef ResponseRewrite rewrite
    cdef uint8_t *place
    cdef uint32_t bound, written
    if response_head_parse(head, bytes, size) < 0 or head.status < 200:
        return
    memset(&edit, 0, sizeof(ResponseEdit))
    set_rules(&edit.head, choice)
    edit_fields(head, &edit.head)
    edit_location(
        head, &edit, HOST, HOST_SIZE if choice & 8 else 0, PREFIX, PREFIX_SIZE if choice & 4 else 0,
        (choice & 2) != 0,
    )
    rewrite.request_id = ADDRESS
    rewrite.request_id_size = 0
    rewrite.reframe = REFRAME_NONE
    rewrite.keep_alive = True
    rewrite.visitor_minor_version = 1
    rewrite.edit = &edit
    bound = response_head_bound(head, &rewrite)
    place = <uint8_t *>malloc(bound)
    REQUIRE(place != NULL)
    written = response_head_write(place, head, &rewrite)
    REQUIRE(0 < written <= bound)
    REQUIRE(response_head_parse(again, place, written) == 0)
    REQUIRE(again.status == head.status)
    REQUIRE(response_body_framing(again, GET) == response_body_framing(head, GET))
    if edit.moves_location:
        check_location(again)
    if choice & 16:
        check_rules(again)
    free(place)


cdef api int one_input(const uint8_t *data, size_t size) noexcept nogil:
    cdef uint8_t *head
    if size < 2 or size > 30_000:
        return 0
    head = exact(data + 1, size - 1)
    if data[0] & 1:
        check_response(head, <uint32_t>size - 1, data[0])
    else:
        check_request(head, <uint32_t>size - 1, data[0])
    free(head)
    return 0
