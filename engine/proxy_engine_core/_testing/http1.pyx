# http1/ for pytest: every input is copied to a block of exactly its size, so that
# AddressSanitizer sees a read of one byte too many.

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from proxy_engine_core.http1.chunked cimport (
    CHUNK_DATA, CHUNK_NEED_MORE, ChunkReader, ChunkSpan, chunk_reader_init, chunk_reader_next,
    chunk_size_line as c_chunk_size_line,
)
from proxy_engine_core.http1.field cimport field_name_id as c_field_name_id
from proxy_engine_core.http1.head cimport (
    HEAD_ACCEPTS_HTML, HEAD_CHUNKED, HEAD_EXPECT_CONTINUE, HEAD_KEEP_ALIVE,
    HEAD_TE_TRAILERS, HEAD_TRACEPARENT, HEAD_UPGRADE, Head, Span, head_error_reason,
    head_error_status, head_error_text, head_field,
    head_find_end, request_body_framing, request_head_parse,
    request_head_precheck, response_body_framing, response_head_parse,
)
from proxy_engine_core.http1.rewrite cimport (
    RequestRewrite, ResponseRewrite, request_head_bound, request_head_write,
    response_head_bound, response_head_write,
)
from proxy_engine_core.http1.scan cimport (
    CHAR_NAME, CHAR_TARGET, CHAR_TEXT, char_classes, equals_lower, scan_class, scan_head_end,
    scan_head_end_portable, scan_name, scan_target, scan_text,
)
from proxy_engine_core.http1.traceparent cimport (
    SPAN_ID_SIZE, TRACE_ID_SIZE, TRACEPARENT_SIZE, Trace, traceparent_read, traceparent_write,
)


FLAGS = {
    "chunked": HEAD_CHUNKED, "keep_alive": HEAD_KEEP_ALIVE, "upgrade": HEAD_UPGRADE,
    "expect_continue": HEAD_EXPECT_CONTINUE, "accepts_html": HEAD_ACCEPTS_HTML,
    "te_trailers": HEAD_TE_TRAILERS, "traceparent": HEAD_TRACEPARENT,
}


cdef class Block:
    """Bytes copied to a malloc block of exactly their size."""

    cdef uint8_t *bytes
    cdef uint32_t size

    def __cinit__(self, bytes source):
        self.size = <uint32_t>len(source)
        self.bytes = <uint8_t *>malloc(self.size)
        if self.bytes == NULL and self.size:
            raise MemoryError
        if self.size:
            memcpy(self.bytes, <const uint8_t *>source, self.size)

    def __dealloc__(self):
        free(self.bytes)


cdef bytes span_bytes(const Head *head, Span span):
    return (head.bytes + span.start)[:span.size]


cdef dict head_dict(const Head *head):
    return {
        "minor_version": head.minor_version,
        "status": head.status,
        "content_length": head.content_length,
        "keep_alive_s": head.keep_alive_s,
        "flags": {name for name, bit in FLAGS.items() if head.flags & bit},
        "method": head.method,
        "method_name": span_bytes(head, head.method_name),
        "target": span_bytes(head, head.target),
        "path": span_bytes(head, head.path),
        "authority": span_bytes(head, head.authority),
        "host": span_bytes(head, head.host),
        "reason": span_bytes(head, head.reason),
        "upgrade": span_bytes(head, head.upgrade),
        "tunnel": span_bytes(head, head.tunnel),
        "request_id": span_bytes(head, head.request_id),
        "fields": [
            (
                span_bytes(head, head.fields[index].name),
                span_bytes(head, head.fields[index].value),
                bool(head.fields[index].is_dropped),
            )
            for index in range(head.field_count)
        ],
    }


def parse_request(bytes source):
    """The head as a dict, or the HeadError as its reason."""
    cdef Block block = Block(source)
    cdef Head head
    cdef int code = request_head_parse(&head, block.bytes, block.size)
    if code < 0:
        return error_reason(code)
    result = head_dict(&head)
    result["framing"] = request_body_framing(&head)
    return result


def parse_response(bytes source, uint8_t request_method=1):
    cdef Block block = Block(source)
    cdef Head head
    cdef int code = response_head_parse(&head, block.bytes, block.size)
    if code < 0:
        return error_reason(code)
    result = head_dict(&head)
    result["framing"] = response_body_framing(&head, request_method)
    return result


def precheck(bytes source):
    """"" if fine so far, else the reason."""
    cdef Block block = Block(source)
    return error_reason(request_head_precheck(block.bytes, block.size))


def find_end(list pieces):
    """Feed pieces one after the other: (size of the head or 0, pieces used)."""
    cdef uint32_t scanned = 0
    cdef uint32_t found
    cdef Block block
    cdef bytes seen = b""
    for used, piece in enumerate(pieces, 1):
        seen += piece
        block = Block(seen)
        found = head_find_end(block.bytes, block.size, &scanned)
        if found:
            return found, used
    return 0, len(pieces)


def error_reason(int code):
    return head_error_reason(code).decode() if code < 0 else ""


def error_status(int code):
    return head_error_status(code)


def error_text(int code):
    return head_error_text(code).decode()


def field_name_id(bytes name):
    cdef Block block = Block(name)
    return c_field_name_id(block.bytes, block.size)


def has_field(bytes source, uint8_t id) -> bool:
    cdef Block block = Block(source)
    cdef Head head
    if request_head_parse(&head, block.bytes, block.size) < 0:
        raise ValueError("not a request")
    return head_field(&head, id) != NULL


def read_chunks(list pieces, bint allow_extensions):
    """Feed pieces: (data, outcome, bytes used), outcome "more", "end" or the reason."""
    cdef ChunkReader reader
    cdef ChunkSpan span
    cdef Block block
    cdef const uint8_t *cursor
    cdef const uint8_t *end
    cdef int code = CHUNK_NEED_MORE
    cdef uint64_t used = 0
    data = bytearray()
    chunk_reader_init(&reader, allow_extensions)
    for piece in pieces:
        block = Block(piece)
        cursor = block.bytes
        end = cursor + block.size
        while True:
            code = chunk_reader_next(&reader, &cursor, end, &span)
            if code != CHUNK_DATA:
                break
            data += span.bytes[:span.size]
        used += cursor - block.bytes
        if code != CHUNK_NEED_MORE:
            # What is over stays over.
            if chunk_reader_next(&reader, &cursor, end, &span) != code:
                raise AssertionError("the outcome of a chunk reader changed")
            break
    if reader.data_total != <uint64_t>len(data):
        raise AssertionError("data_total is not the size of the data")
    outcome = "more" if code == CHUNK_NEED_MORE else "end" if code > 0 else error_reason(code)
    return bytes(data), outcome, used


def chunk_size_line(uint32_t size):
    cdef uint8_t line[10]
    cdef uint32_t written = c_chunk_size_line(line, size)
    return line[:written]


def rewrite_request(
    bytes source, *, bytes address=b"192.0.2.7", bytes request_id=b"id-1",
    bint is_tls=False, bint is_trusted=False,
):
    """The head as forwarded; ValueError if it is refused."""
    cdef Block block = Block(source)
    cdef Block target
    cdef Head head
    cdef RequestRewrite rewrite
    cdef uint32_t bound, written
    cdef int code = request_head_parse(&head, block.bytes, block.size)
    if code < 0:
        raise ValueError(error_reason(code))
    rewrite.address = address
    rewrite.address_size = <uint32_t>len(address)
    rewrite.request_id = request_id
    rewrite.request_id_size = <uint32_t>len(request_id)
    rewrite.trace_size = 0
    rewrite.is_tls = is_tls
    rewrite.is_trusted = is_trusted
    rewrite.edit = NULL
    bound = request_head_bound(&head, &rewrite)
    target = Block(bytes(bound))
    written = request_head_write(target.bytes, &head, &rewrite)
    if written > bound:
        raise AssertionError("more written than the bound")
    return target.bytes[:written]


def rewrite_response(
    bytes source, *, bytes request_id=b"id-1", uint8_t reframe=0, bint keep_alive=True,
    uint8_t visitor_minor_version=1,
):
    cdef Block block = Block(source)
    cdef Block target
    cdef Head head
    cdef ResponseRewrite rewrite
    cdef uint32_t bound, written
    cdef int code = response_head_parse(&head, block.bytes, block.size)
    if code < 0:
        raise ValueError(error_reason(code))
    rewrite.request_id = request_id
    rewrite.request_id_size = <uint32_t>len(request_id)
    rewrite.reframe = reframe
    rewrite.keep_alive = keep_alive
    rewrite.visitor_minor_version = visitor_minor_version
    rewrite.edit = NULL
    bound = response_head_bound(&head, &rewrite)
    target = Block(bytes(bound))
    written = response_head_write(target.bytes, &head, &rewrite)
    if written > bound:
        raise AssertionError("more written than the bound")
    return target.bytes[:written]


# --- scan.h: the SIMD scan and the portable one side by side, as offsets ---

def scan_name_both(bytes source):
    cdef Block block = Block(source)
    cdef const uint8_t *end = block.bytes + block.size
    return (
        scan_name(block.bytes, end) - block.bytes,
        scan_class(block.bytes, end, CHAR_NAME) - block.bytes,
    )


def scan_text_both(bytes source):
    cdef Block block = Block(source)
    cdef const uint8_t *end = block.bytes + block.size
    return (
        scan_text(block.bytes, end) - block.bytes,
        scan_class(block.bytes, end, CHAR_TEXT) - block.bytes,
    )


def scan_target_both(bytes source):
    cdef Block block = Block(source)
    cdef const uint8_t *end = block.bytes + block.size
    return (
        scan_target(block.bytes, end) - block.bytes,
        scan_class(block.bytes, end, CHAR_TARGET) - block.bytes,
    )


def scan_head_end_both(bytes source):
    cdef Block block = Block(source)
    cdef const uint8_t *end = block.bytes + block.size
    return (
        scan_head_end(block.bytes, end) - block.bytes,
        scan_head_end_portable(block.bytes, end) - block.bytes,
    )


def char_class(uint8_t byte):
    return char_classes[byte]


def is_equal_lower(bytes source, bytes lower):
    cdef Block block = Block(source)
    return block.size == <uint32_t>len(lower) and equals_lower(block.bytes, lower, block.size)


# --- loops for the micro benchmarks: `rounds` times without the GIL ---

def bench_parse_request(bytes source, int rounds):
    cdef const uint8_t *bytes_ = source
    cdef uint32_t size = <uint32_t>len(source)
    cdef uint32_t scanned
    cdef int failed = 0
    cdef Head head
    with nogil:
        for _ in range(rounds):
            scanned = 0
            failed |= head_find_end(bytes_, size, &scanned) != size
            failed |= request_head_parse(&head, bytes_, size)
    if failed:
        raise ValueError("not a request")


def bench_precheck(bytes source, int rounds):
    cdef const uint8_t *bytes_ = source
    cdef uint32_t size = <uint32_t>len(source)
    cdef int failed = 0
    with nogil:
        for _ in range(rounds):
            failed |= request_head_precheck(bytes_, size)
    if failed:
        raise ValueError("not the start of a request")


def bench_rewrite_request(bytes source, int rounds):
    cdef const uint8_t *bytes_ = source
    cdef uint32_t size = <uint32_t>len(source)
    cdef const uint8_t *address = b"192.0.2.7"
    cdef const uint8_t *request_id = b"0123456789abcdef0123456789abcdef"
    cdef uint8_t target[40960]
    cdef Head head
    cdef RequestRewrite rewrite
    cdef uint64_t written = 0
    rewrite.address = address
    rewrite.address_size = 9
    rewrite.request_id = request_id
    rewrite.request_id_size = 32
    rewrite.trace_size = 0
    rewrite.is_tls = True
    rewrite.is_trusted = False
    rewrite.edit = NULL
    if request_head_parse(&head, bytes_, size) < 0:
        raise ValueError("not a request")
    with nogil:
        for _ in range(rounds):
            written += request_head_write(target, &head, &rewrite)
    return written // rounds


def bench_parse_response(bytes source, int rounds):
    cdef const uint8_t *bytes_ = source
    cdef uint32_t size = <uint32_t>len(source)
    cdef uint32_t scanned
    cdef int failed = 0
    cdef Head head
    with nogil:
        for _ in range(rounds):
            scanned = 0
            failed |= head_find_end(bytes_, size, &scanned) != size
            failed |= response_head_parse(&head, bytes_, size)
    if failed:
        raise ValueError("not a response")


def bench_chunks(bytes source, int rounds):
    """Validate a whole chunked body; returns its data bytes."""
    cdef const uint8_t *bytes_ = source
    cdef const uint8_t *end = bytes_ + len(source)
    cdef const uint8_t *cursor
    cdef ChunkReader reader
    cdef ChunkSpan span
    cdef int code = 0
    with nogil:
        for _ in range(rounds):
            chunk_reader_init(&reader, False)
            cursor = bytes_
            code = CHUNK_DATA
            while code == CHUNK_DATA:
                code = chunk_reader_next(&reader, &cursor, end, &span)
    if code < 0 or cursor != end:
        raise ValueError("not a chunked body")
    return reader.data_total


def read_traceparent(bytes value):
    """Trace id, parent id and flags; None: it is not valid."""
    cdef Block block = Block(value)
    cdef Trace trace
    cdef uint8_t flags
    if not traceparent_read(block.bytes, block.size, &trace, &flags):
        return None
    return trace.id[:TRACE_ID_SIZE], trace.parent[:SPAN_ID_SIZE], flags


def write_traceparent(bytes trace_id, bytes span_id, uint8_t flags):
    cdef uint8_t target[TRACEPARENT_SIZE]
    cdef Trace trace
    memcpy(trace.id, <const char *>trace_id, TRACE_ID_SIZE)
    memcpy(trace.span, <const char *>span_id, SPAN_ID_SIZE)
    traceparent_write(target, &trace, flags)
    return target[:TRACEPARENT_SIZE]
