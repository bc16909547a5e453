# Connections that end by a reset, but not before what was said on them has arrived.
#
# close() with SO_LINGER of 0 drops what the kernel has not sent yet. That is right for who is to be
# cut off. But where a relay passes on that its other side broke, everything that came before has
# been said, and a peer that reads slowly must get it, as it would from a relay that only ends.
# So the connection stays as one of the kind CONN_PARTING, owned by nobody above, until its peer has
# acknowledged all, or has taken nothing for reader_timeout_ms. What the peer says is not read.

from proxy_engine_core.io.worker cimport Conn, Worker


cdef void parting_init_worker(Worker *worker) noexcept nogil
# In place of conn_abort() and conn_close(). Idempotent.
cdef void conn_part(Conn *conn) noexcept nogil
