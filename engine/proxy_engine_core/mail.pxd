# What Python asks of workers, checked, put into messages (messages.pxd) and posted. All of it
# holds the GIL and raises ValueError for what no worker could use, MemoryError having posted
# nothing. The caller has checked that the workers are there.

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from proxy_engine_core.forward.route_stats cimport RouteStatsBlock
from proxy_engine_core.io.socket cimport Address
from proxy_engine_core.io.tls_openssl cimport TlsContext
from proxy_engine_core.io.worker cimport Crew
from proxy_engine_core.link.establish cimport LinkSetup
from proxy_engine_core.quota cimport Quota


cdef int check_worker(const Crew *crew, int64_t worker) except -1
cdef int address_read(Address *address, str host, int port, int port_min) except -1

# To every worker.
cdef int post_drain(Crew *crew, uint64_t grace_ms) except -1
cdef int post_plain(Crew *crew, uint32_t kind) except -1         # of a kind with nothing behind
cdef int post_requests_open(Crew *crew, uint64_t query, uint32_t limit) except -1
cdef int post_dump(
    Crew *crew, uint64_t query, uint64_t device, uint32_t links, uint32_t streams
) except -1
cdef int post_route(
    Crew *crew, uint64_t version, str key, uint32_t route_id, list links, str tunnel,
    dict options, RouteStatsBlock *counts
) except -1
cdef int post_route_delete(Crew *crew, uint64_t version, str key) except -1
# Takes `fds`, one for each worker, over; also when it fails.
cdef int post_tcp_listen(Crew *crew, uint16_t port, const int *fds) except -1
cdef int post_tcp_close(Crew *crew, uint16_t port) except -1
cdef int post_tls(Crew *crew, uint16_t port, TlsContext *tls) except -1
cdef int post_quota(Crew *crew, uint32_t kind, Quota *quota) except -1
cdef int post_targets(Crew *crew, list rows) except -1

# To one. The setup's quota gets a reference.
cdef int post_auth_reply(
    Crew *crew, uint64_t ticket, bytes response, bint accept, const LinkSetup *setup, int worker,
    str tunnel
) except -1
cdef int post_to_link(Crew *crew, uint32_t kind, uint64_t link, bytes content) except -1
# Takes `fd` over; also when it fails.
cdef int post_udp_listen(Crew *crew, uint32_t worker, uint16_t port, int fd) except -1
cdef int post_udp_close(Crew *crew, uint32_t worker, uint16_t port) except -1
cdef int post_dial(
    Crew *crew, uint32_t worker, uint64_t id, const Address *address, bytes request,
    uint8_t carrier, uint64_t timeout_ms, int fd, TlsContext *tls, bytes direct
) except -1
