# A tunnel's options, as the control plane set them: who may come, what is changed on the way,
# what is answered instead. One immutable block with everything in it, made by policy_pack.pyx
# and copied for each route of each worker. Pure.
#
# The route owns it. A transaction whose response is to be changed holds it too: the route may
# be replaced while the target thinks. Both are of one worker, so the count is a plain number.

from libc.stdint cimport uint8_t, uint32_t

from proxy_engine_core.http1.edit cimport RequestEdit, ResponseEdit
from proxy_engine_core.http1.head cimport Head, Span


cdef enum:
    POLICY_NETWORKS_MAX = 1024            # allowed and denied ones together
    POLICY_DIGESTS_MAX = 64
    POLICY_SALT_SIZE_MAX = 64
    POLICY_DIGEST_SIZE = 32
    POLICY_REALM_SIZE_MAX = 128
    POLICY_RULES_MAX = 64                 # of one direction
    POLICY_LINES_SIZE_MAX = 8 * 1024      # bytes that they add to a head
    POLICY_PREFIX_SIZE_MAX = 1024
    POLICY_PAGE_SIZE_MAX = 32 * 1024
    POLICY_RETRY_AFTER_MAX = 7 * 86_400   # seconds

cdef enum PolicyFlag:
    POLICY_DISABLED = 1
    POLICY_MAINTENANCE = 2
    POLICY_AUTH = 4
    POLICY_EDITS_REQUEST = 8
    POLICY_EDITS_RESPONSE = 16
    POLICY_SERVER_TIMING = 32             # with POLICY_EDITS_RESPONSE

cdef struct PolicyEdit:                   # HeadEdit, before the block has its place
    Span names
    Span lines

cdef struct Policy:                       # the spans are offsets into the block
    uint32_t references
    uint32_t size                         # of the block
    uint32_t flags
    uint32_t allow_count                  # 0: all that are not denied
    uint32_t deny_count
    uint32_t digest_count
    Span networks                         # the allowed, then the denied
    Span salt
    Span digests
    Span challenge                        # a field line with its NUL
    Span page                             # size 0: an answer of ours
    Span page_type                        # with its NUL
    Span retry_after                      # a field line with its NUL
    Span prefix
    Span host
    uint32_t profile                      # io/profile.pxd
    PolicyEdit request
    PolicyEdit response

cdef inline const uint8_t *policy_bytes(const Policy *policy, Span span) noexcept nogil:
    return <const uint8_t *>policy + span.start

# A copy of a packed block, held once. NULL: no memory.
cdef Policy *policy_new(const uint8_t *packed, uint32_t size) noexcept nogil
cdef void policy_hold(Policy *policy) noexcept nogil
cdef void policy_release(Policy *policy) noexcept nogil            # NULL is none
# Mark in `head` what changes, the rest into `edit`, which points into the policy. A PathFit, which
# is PATH_FITS where no prefix is taken off.
cdef int policy_edit_request(const Policy *policy, Head *head, RequestEdit *edit) noexcept nogil
# `is_https`: so the visitor came.
cdef void policy_edit_response(
    const Policy *policy, Head *head, bint is_https, ResponseEdit *edit
) noexcept nogil
cdef bint policy_equal(const Policy *one, const Policy *other) noexcept nogil     # or both NULL
