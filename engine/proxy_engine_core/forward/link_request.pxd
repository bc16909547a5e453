# A device's request for a link, or a client's for a private TCP tunnel: handed to the control
# plane, and its answer carried out.

from libc.stdint cimport uint8_t, uint32_t

from proxy_engine_core.forward.transaction cimport Visitor
from proxy_engine_core.http1.head cimport Head
from proxy_engine_core.link.establish cimport LinkSetup
from proxy_engine_core.quota cimport Quota


cdef bint asks_for_link(const Head *head) noexcept nogil         # or a private tunnel, or it is a
# data connection. The head is the one parsed last: EVENT_AUTH with it, then VISITOR_AUTH;
# refused with 400 if it announces a body.
cdef void ask_control_plane(
    Visitor *visitor, const uint8_t *bytes, uint32_t head_size
) noexcept nogil
# The control plane's answer: a whole HTTP response. `worker`: where the link is to live;
# -1: where the fewest are.
cdef void visitor_auth_reply(
    Visitor *visitor, const uint8_t *response, uint32_t size, bint accept, const LinkSetup *setup,
    int worker
) noexcept nogil
# Its answer to a client: `response` is a 101, and what follows goes to the tunnel's target. It
# has to go when the quota `joined_by` ends (NULL: none).
cdef void visitor_join_tunnel(
    Visitor *visitor, const uint8_t *response, uint32_t size, const uint8_t *tunnel,
    uint32_t tunnel_size, Quota *joined_by
) noexcept nogil
# The device has its 101: from here on it is a link of this worker's, counted already.
cdef void visitor_establish(
    Visitor *visitor, const LinkSetup *setup, uint8_t *early, uint32_t early_size
) noexcept nogil
