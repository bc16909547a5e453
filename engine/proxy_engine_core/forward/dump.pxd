# What a worker has, for people who want to know why it does what it does: totals, links, streams.
#
# Asked for by a message and told in pieces, a part each turn as in walk.pxd, so it is no picture
# of one moment. Links and streams beyond the limits are counted and not told.
#
# A piece is records, each a DumpKind and its struct: readers get their fields by name
# (inspector.pyx), so the names here are what people see.

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from proxy_engine_core.buffer cimport BUFFER_CLASS_COUNT
from proxy_engine_core.io.worker cimport CONN_KIND_COUNT, Worker
from proxy_engine_core.messages cimport DumpMessage


cdef enum DumpKind:
    DUMP_WORKER = 1                       # the last of each worker's
    DUMP_LINK
    DUMP_STREAM

cdef struct DumpWorker:
    uint64_t turns
    uint64_t routes_version
    uint64_t buffer_bytes                 # lent now
    uint64_t buffer_bytes_max             # ... at most so far
    uint64_t buffer_bytes_kept            # free, waiting for reuse
    uint64_t memory_max
    uint64_t window_extra                 # credit beyond the agreed windows
    uint64_t window_extra_max
    uint64_t log_ring_bytes               # not collected yet
    uint64_t control_ring_bytes
    uint32_t connections[CONN_KIND_COUNT]
    uint32_t blocks_lent[BUFFER_CLASS_COUNT + 1]
    uint32_t blocks_kept[BUFFER_CLASS_COUNT]
    uint32_t tls                          # connections that have it
    uint32_t handshakes
    uint32_t timers                       # armed
    uint32_t next_timer_ms
    uint32_t waiting_for_bandwidth
    uint32_t requests                     # visitors between head and last byte
    uint32_t links
    uint32_t links_told
    uint32_t streams
    uint32_t streams_told
    uint32_t pipes_kept
    uint32_t pressure                     # 0 to 3, as EVENT_PRESSURE
    bint is_draining

cdef struct DumpLink:
    uint64_t id
    uint64_t device
    uint64_t bytes_in
    uint64_t bytes_out
    uint64_t up_ms
    uint64_t silent_ms                    # since anything came in
    uint64_t stalled_ms                   # since its socket took anything, if anything waits
    uint64_t rtt_us                       # 0: not known yet
    uint64_t window_extra
    uint32_t window                       # agreed, of each stream
    uint32_t queued_bytes                 # what its socket did not take yet
    uint32_t urgent_bytes                 # frames that go before those
    uint32_t control_bytes                # records that wait for window
    uint32_t tls_bytes                    # ciphertext
    uint32_t streams
    uint32_t streams_unacked
    uint32_t requests
    uint32_t visitors_waiting             # for a stream
    uint32_t direct_idle
    uint32_t direct_busy
    uint32_t direct_wanted
    uint32_t direct_tickets
    uint32_t ping_misses
    bint is_websocket
    bint is_tls
    bint is_congested
    bint is_draining
    bint is_closing
    bint is_spent
    bint is_stock_peer                    # not our agent
    char peer[64]

cdef struct DumpStream:
    uint64_t link
    uint64_t idle_ms                      # in its pool; 0: in use
    uint32_t id
    uint32_t route                        # 0: none, or not known here
    uint32_t owner                        # OwnerKind
    uint32_t send_window                  # bytes we may still send
    uint32_t receive_window               # bytes the peer may still send
    uint32_t window
    uint32_t unconsumed                   # received, and not taken by the visitor yet
    uint32_t ungranted                    # taken, and not granted again yet
    uint32_t visitor_bytes                # what the visitor's socket did not take yet
    uint32_t flags                        # YamuxStreamFlag

# MESSAGE_DUMP: EVENT_DUMP, several, the last one marked. True: the message is kept.
cdef bint dump_walk(Worker *worker, DumpMessage *message) noexcept nogil
