# Who may come, and how often: limits per visitor address and per device's link, of which each
# worker counts for itself, and those of the link's quota, which it shares (quota.pxd). Where no
# limit is set none of this costs more than a test.

from proxy_engine_core.forward.transaction cimport ServerRole, Visitor
from proxy_engine_core.io.socket cimport Address
from proxy_engine_core.io.worker cimport Worker
from proxy_engine_core.link.link cimport Link


cdef struct Refusal:
    int status                            # 429 or 503
    const char *reason                    # docs/errors.md
    const char *text

cdef int admission_init(ServerRole *role) noexcept nogil               # 0, -ENOMEM
cdef void admission_free(ServerRole *role) noexcept nogil
# A connection from `peer`: False: it is to be closed at once, counted already.
cdef bint admit_connection(Worker *worker, const Address *peer) noexcept nogil
# The visitor counts among its address's connections from now on, or no more.
cdef void admission_enter(Visitor *visitor) noexcept nogil
cdef void admission_leave(Visitor *visitor) noexcept nogil
# One request by its visitor's rate; once a request. False: 429 is due.
cdef bint admit_visitor(Visitor *visitor) noexcept nogil
# Likewise by the limits of the device's link and of its quota. False: this is due.
cdef bint admit_device(Visitor *visitor, Link *link, Refusal *refusal) noexcept nogil
