# Heads as a tunnel with options passes them on, for pytest.

from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from proxy_engine_core.forward.policy cimport *
from proxy_engine_core.http1.edit cimport *
from proxy_engine_core.http1.head cimport *
from proxy_engine_core.http1.rewrite cimport *
from proxy_engine_core.policy_pack cimport policy_pack


cdef class Block:
    """Bytes in a malloc block of exactly their size, so that ASan sees one byte beyond."""

    cdef uint8_t *bytes
    cdef uint32_t size

    def __cinit__(self, bytes content):
        self.size = <uint32_t>len(content)
        self.bytes = <uint8_t *>malloc(self.size)
        if self.bytes == NULL:
            raise MemoryError
        memcpy(self.bytes, <const char *>content, self.size)

    def __dealloc__(self):
        free(self.bytes)


cdef class Options:
    cdef Policy *policy

    def __cinit__(self, dict options):
        cdef bytes packed = policy_pack(options, False)
        self.policy = policy_new(packed, <uint32_t>len(packed))
        if self.policy == NULL:
            raise MemoryError

    def __dealloc__(self):
        policy_release(self.policy)


cdef bytes written(Block target, uint32_t size):
    if size > target.size:
        raise AssertionError("more written than the bound")
    return target.bytes[:size]


def edit_request(dict options, bytes source, *, bint is_trusted=False):
    """The head as forwarded; ValueError with the reason if it is refused."""
    cdef Options policy = Options(options)
    cdef Block block = Block(source)
    cdef Block target
    cdef Head head
    cdef RequestRewrite rewrite
    cdef RequestEdit edit
    cdef int code = request_head_parse(&head, block.bytes, block.size)
    if code < 0:
        raise ValueError((<bytes>head_error_reason(code)).decode())
    code = policy_edit_request(policy.policy, &head, &edit)
    if code < 0:
        raise ValueError("outside_prefix" if code == PATH_OUTSIDE else "ambiguous_path")
    rewrite.address = b"192.0.2.7"
    rewrite.address_size = 9
    rewrite.request_id = b"id-1"
    rewrite.request_id_size = 4
    rewrite.trace_size = 0
    rewrite.is_tls = False
    rewrite.is_trusted = is_trusted
    rewrite.edit = &edit
    target = Block(bytes(request_head_bound(&head, &rewrite)))
    return written(target, request_head_write(target.bytes, &head, &rewrite))


def edit_response(dict options, bytes source, *, bint is_https=False):
    """Likewise, towards a visitor of HTTP/1.1."""
    cdef Options policy = Options(options)
    cdef Block block = Block(source)
    cdef Block target
    cdef Head head
    cdef ResponseRewrite rewrite
    cdef ResponseEdit edit
    cdef int code = response_head_parse(&head, block.bytes, block.size)
    if code < 0:
        raise ValueError((<bytes>head_error_reason(code)).decode())
    policy_edit_response(policy.policy, &head, is_https, &edit)
    rewrite.request_id = b"id-1"
    rewrite.request_id_size = 4
    rewrite.reframe = REFRAME_NONE
    rewrite.keep_alive = True
    rewrite.visitor_minor_version = 1
    rewrite.edit = &edit
    target = Block(bytes(response_head_bound(&head, &rewrite)))
    return written(target, response_head_write(target.bytes, &head, &rewrite))
