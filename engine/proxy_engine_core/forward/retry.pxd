# Whether a request that got no answer goes out once more. The table, which is also in
# docs/architecture.md; each row has its test in tests/engine/test_retry.py:
#
#   failure before any response byte         | request          | once more?
#   its link goes while it waits for a stream | any              | it was never sent: goes on
#   link lost, nothing of the request sent   | any, kept        | yes, over another link
#   our agent's REFUSED on a fresh stream    | any, kept        | yes, another link first
#   FIN or RST on a reused stream            | idempotent, kept | yes, on a fresh stream
#   link lost under a reused stream          | idempotent, kept | yes, over another link
#   all else: fresh streams, time-outs, ...  | any              | no: 502, 504
#
# "Kept" means that the request so far, head and body as they came, is still in
# transaction.kept: at most KEPT_SIZE_MAX bytes. Never more than one retry a request.
#
# Only a lost link proves that unsent bytes stay unsent: on a live link what is queued for a
# finished stream still goes out, and a target that finished writing may still read.

from libc.stdint cimport uint8_t, uint32_t

from proxy_engine_core.forward.transaction cimport HttpStream, Transaction, Visitor
from proxy_engine_core.http1.head cimport (
    METHOD_DELETE, METHOD_GET, METHOD_HEAD, METHOD_OPTIONS, METHOD_PUT, Head,
)


cdef enum:
    KEPT_SIZE_MAX = 64 * 1024             # bytes of head and body

cdef enum RetryCause:
    RETRY_STREAM_FAILED = 0               # FIN or RST
    RETRY_LINK_LOST
    RETRY_REFUSED

# The request's head has been put on transaction.http: keep it, if it may be needed again.
cdef void retry_keep_head(Visitor *visitor, const Head *head) noexcept nogil
# A part of its body, likewise. Only while transaction.is_kept.
cdef void retry_keep_body(
    Visitor *visitor, const uint8_t *bytes, uint32_t size
) noexcept nogil
cdef void retry_forget(Transaction *transaction) noexcept nogil
# By the table: give the stream back and begin the request anew; False: it is to be failed.
cdef bint retry(Visitor *visitor, int cause) noexcept nogil

cdef inline bint is_idempotent(uint8_t method) noexcept nogil:
    # RFC 9110 section 9.2.2, of the methods we know.
    return method in (METHOD_GET, METHOD_HEAD, METHOD_OPTIONS, METHOD_PUT, METHOD_DELETE)
