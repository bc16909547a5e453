# See policy.pxd.

from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memset

from proxy_engine_core.check cimport CHECK
from proxy_engine_core.http1.edit cimport (
    PATH_FITS, HeadEdit, RequestEdit, ResponseEdit, edit_fields, edit_location, edit_path,
)
from proxy_engine_core.http1.head cimport Head


cdef Policy *policy_new(const uint8_t *packed, uint32_t size) noexcept nogil:
    cdef Policy *policy = <Policy *>malloc(size)
    if policy == NULL:
        return NULL
    memcpy(policy, packed, size)
    CHECK(policy.size == size)
    policy.references = 1
    return policy


cdef void policy_hold(Policy *policy) noexcept nogil:
    policy.references += 1


cdef void policy_release(Policy *policy) noexcept nogil:
    if policy == NULL:
        return
    CHECK(policy.references > 0)
    policy.references -= 1
    if policy.references == 0:
        free(policy)


cdef bint policy_equal(const Policy *one, const Policy *other) noexcept nogil:
    if one == NULL or other == NULL:
        return one == other
    # All but the counts of who holds them.
    return one.size == other.size and memcmp(
        &one.size, &other.size, one.size - sizeof(one.references)
    ) == 0


cdef void edit_head(
    const Policy *policy, const PolicyEdit *rules, Head *head, HeadEdit *edit
) noexcept nogil:
    edit.names = policy_bytes(policy, rules.names)
    edit.names_size = rules.names.size
    edit.lines = policy_bytes(policy, rules.lines)
    edit.lines_size = rules.lines.size
    edit_fields(head, edit)


cdef int policy_edit_request(const Policy *policy, Head *head, RequestEdit *edit) noexcept nogil:
    memset(edit, 0, sizeof(RequestEdit))
    edit_head(policy, &policy.request, head, &edit.head)
    edit.host = policy_bytes(policy, policy.host)
    edit.host_size = policy.host.size
    edit.prefix = policy_bytes(policy, policy.prefix)
    edit.prefix_size = policy.prefix.size
    return edit_path(head, edit) if edit.prefix_size else <int>PATH_FITS


cdef void policy_edit_response(
    const Policy *policy, Head *head, bint is_https, ResponseEdit *edit
) noexcept nogil:
    memset(edit, 0, sizeof(ResponseEdit))
    edit_head(policy, &policy.response, head, &edit.head)
    if policy.host.size or policy.prefix.size:
        edit_location(
            head, edit, policy_bytes(policy, policy.host), policy.host.size,
            policy_bytes(policy, policy.prefix), policy.prefix.size, is_https,
        )
