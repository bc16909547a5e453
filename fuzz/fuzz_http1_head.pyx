# Heads: found, parsed, rewritten, and parsed again.
#
# Input: one byte of choices (bit 0: a response; bit 1: behind a trusted peer; bits 2, 3: how the
# response's body is framed anew; bits 4-7 cut), then the head. Permitted: accepted, or refused
# with an error that has a status, a reason and a text. The end is found at the same place however
# the head came in, and the precheck never refuses the start of what is accepted. A rewritten head
# fits its bound and is accepted with the same method, path, framing and kept fields; rewriting it
# again changes nothing.

from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, strlen

from input cimport REQUIRE, Cuts, cuts_init, cuts_next, exact
from proxy_engine_core.http1.head cimport (
    FIELD_CONTENT_LENGTH, FIELD_TRANSFER_ENCODING, HEAD_KEEP_ALIVE, HEAD_UPGRADE, Field, Head,
    Span, head_error_reason, head_error_status, head_error_text, head_find_end,
    request_body_framing, request_head_parse, request_head_precheck, response_body_framing,
    response_head_parse,
)
from proxy_engine_core.http1.rewrite cimport (
    REFRAME_CHUNK, REFRAME_CLOSE, REFRAME_NONE, RequestRewrite, ResponseRewrite,
    request_head_bound, request_head_write, response_head_bound, response_head_write,
)

cdef enum:
    GET = 1

cdef const uint8_t *ADDRESS = b"2001:db8::1"
cdef const uint8_t *REQUEST_ID = b"0123456789abcdef"
cdef Head first_head                      # large: not on the stack
cdef Head second_head


cdef bint same(const Head *one, const Span *a, const Head *two, const Span *b) noexcept nogil:
    return a.size == b.size and memcmp(one.bytes + a.start, two.bytes + b.start, a.size) == 0


cdef const Field *next_kept(const Head *head, uint32_t *index) noexcept nogil:
    cdef const Field *field
    while index[0] < head.field_count:
        field = &head.fields[index[0]]
        index[0] += 1
        if not field.is_dropped and field.id not in (
            FIELD_CONTENT_LENGTH, FIELD_TRANSFER_ENCODING
        ):
            return field
    return NULL


cdef void check_kept(const Head *one, const Head *two) noexcept nogil:
    cdef uint32_t index_one = 0
    cdef uint32_t index_two = 0
    cdef const Field *a
    cdef const Field *b
    while True:
        a = next_kept(one, &index_one)
        b = next_kept(two, &index_two)
        REQUIRE((a == NULL) == (b == NULL))
        if a == NULL or b == NULL:
            return
        REQUIRE(same(one, &a.name, two, &b.name) and same(one, &a.value, two, &b.value))


cdef void check_error(int error) noexcept nogil:
    REQUIRE(400 <= head_error_status(error) <= 599)
    REQUIRE(strlen(head_error_reason(error)) > 0 and strlen(head_error_text(error)) > 0)


cdef uint32_t find_end(const uint8_t *bytes, uint32_t size, uint8_t choice) noexcept nogil:
    cdef Cuts cuts
    cdef uint32_t scanned = 0
    cdef uint32_t seen = 0
    cdef uint32_t found = 0
    cuts_init(&cuts, choice)
    while seen < size and found == 0:
        seen += <uint32_t>cuts_next(&cuts, size - seen)
        found = head_find_end(bytes, seen, &scanned)
    return found


cdef uint8_t *write_request(const Head *head, bint is_trusted, uint32_t *size) noexcept nogil:
    cdef RequestRewrite rewrite
    cdef uint32_t bound
    cdef uint8_t *place
    rewrite.address = ADDRESS
    rewrite.address_size = 11
    rewrite.request_id = REQUEST_ID
    rewrite.request_id_size = 16
    rewrite.trace_size = 0
    rewrite.is_tls = False
    rewrite.is_trusted = is_trusted
    rewrite.edit = NULL
    bound = request_head_bound(head, &rewrite)
    place = <uint8_t *>malloc(bound)
    REQUIRE(place != NULL)
    size[0] = request_head_write(place, head, &rewrite)
    REQUIRE(0 < size[0] <= bound)
    return place


cdef void check_request(const uint8_t *bytes, uint32_t size, uint8_t choice) noexcept nogil:
    cdef Head *head = &first_head
    cdef Head *again = &second_head
    cdef uint8_t *written
    cdef uint8_t *twice
    cdef uint32_t written_size, twice_size
    cdef bint is_trusted = choice & 2
    cdef int error = request_head_parse(head, bytes, size)
    if error < 0:
        check_error(error)
        return
    REQUIRE(head.size == size)
    REQUIRE(request_head_precheck(bytes, choice * 37 % size) == 0)
    written = write_request(head, is_trusted, &written_size)
    REQUIRE(request_head_parse(again, written, written_size) == 0)
    REQUIRE(again.method == head.method and again.content_length == head.content_length)
    REQUIRE(request_body_framing(again) == request_body_framing(head))
    REQUIRE(same(head, &head.method_name, again, &again.method_name))
    REQUIRE(same(head, &head.path, again, &again.path))
    REQUIRE((head.flags & HEAD_UPGRADE) == (again.flags & HEAD_UPGRADE))
    REQUIRE(same(head, &head.upgrade, again, &again.upgrade))
    if not is_trusted:
        check_kept(head, again)
    if head.authority.size:
        REQUIRE(same(head, &head.authority, again, &again.authority))
        if not is_trusted:
            twice = write_request(again, False, &twice_size)
            REQUIRE(twice_size == written_size and memcmp(twice, written, twice_size) == 0)
            free(twice)
    free(written)


cdef uint8_t *write_response(const Head *head, uint8_t reframe, uint32_t *size) noexcept nogil:
    cdef ResponseRewrite rewrite
    cdef uint32_t bound
    cdef uint8_t *place
    rewrite.request_id = REQUEST_ID
    rewrite.request_id_size = 16
    rewrite.reframe = reframe
    rewrite.keep_alive = reframe != REFRAME_CLOSE
    rewrite.visitor_minor_version = 0 if reframe == REFRAME_CLOSE else 1
    rewrite.edit = NULL
    bound = response_head_bound(head, &rewrite)
    place = <uint8_t *>malloc(bound)
    REQUIRE(place != NULL)
    size[0] = response_head_write(place, head, &rewrite)
    REQUIRE(0 < size[0] <= bound)
    return place


cdef void check_response(const uint8_t *bytes, uint32_t size, uint8_t choice) noexcept nogil:
    cdef Head *head = &first_head
    cdef Head *again = &second_head
    cdef uint8_t *written
    cdef uint32_t written_size
    cdef uint8_t[4] reframes = [REFRAME_NONE, REFRAME_NONE, REFRAME_CHUNK, REFRAME_CLOSE]
    cdef uint8_t reframe = reframes[(choice >> 2) & 3]
    cdef int error = response_head_parse(head, bytes, size)
    if error < 0:
        check_error(error)
        return
    REQUIRE(head.size == size)
    if head.status == 101 and not head.flags & HEAD_UPGRADE:
        return                            # not forwarded: nobody switched
    if head.status < 200:
        reframe = REFRAME_NONE
    written = write_response(head, reframe, &written_size)
    REQUIRE(response_head_parse(again, written, written_size) == 0)
    REQUIRE(again.status == head.status)
    REQUIRE(same(head, &head.reason, again, &again.reason))
    REQUIRE((head.flags & HEAD_UPGRADE) == (again.flags & HEAD_UPGRADE))
    if reframe == REFRAME_NONE:           # else a Trailer may have lost its chunks
        check_kept(head, again)
        REQUIRE(response_body_framing(again, GET) == response_body_framing(head, GET))
        REQUIRE(head.status < 200 or again.flags & HEAD_KEEP_ALIVE)
    free(written)


cdef api int one_input(const uint8_t *data, size_t size) noexcept nogil:
    cdef uint8_t *head
    cdef uint32_t head_size
    if size < 2 or size > 70_000:
        return 0
    head_size = find_end(data + 1, <uint32_t>size - 1, 0)
    REQUIRE(find_end(data + 1, <uint32_t>size - 1, data[0] >> 4) == head_size)
    if head_size == 0:
        # Not complete, so never parsed: but parsing it must do no harm either.
        head_size = <uint32_t>size - 1
    head = exact(data + 1, head_size)
    if data[0] & 1:
        check_response(head, head_size, data[0])
    else:
        check_request(head, head_size, data[0])
    free(head)
    return 0
