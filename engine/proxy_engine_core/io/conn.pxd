# One TCP connection of a worker: reading, gathered writing, closing. The only way the
# layers above move bytes.
#
# Gathered writing: spans handed to conn_gather() point into the worker's receive
# scratch or arena and leave together in one sendmsg when the connection changes, the
# table is full or the reader is done with the scratch. Only what the socket refuses is
# copied, into conn.out.

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from proxy_engine_core.buffer cimport buffer_size
from proxy_engine_core.io.worker cimport Conn, WaitList, Worker


# Register a new connection (memory of the caller's kind, Conn first). 0 or -errno; on
# failure the fd is closed and the memory is still the caller's.
cdef int conn_attach(Worker *worker, Conn *conn, int fd, uint8_t kind) noexcept nogil
# The same, but on failure the fd is still the caller's, too.
cdef int conn_try_attach(Worker *worker, Conn *conn, int fd, uint8_t kind) noexcept nogil
# `successor` takes over fd, slot and generation; `conn` is released at the end of the turn.
cdef void conn_replace(Conn *conn, Conn *successor, uint8_t kind) noexcept nogil
cdef void conn_close(Conn *conn) noexcept nogil                  # idempotent
# Take the open fd out of this worker, for another to attach; `conn` is released at the end
# of the turn. Nothing may be owed (conn_owed()) or in the gather.
# Its TLS goes with the fd: tls_take() first.
cdef int conn_detach(Conn *conn) noexcept nogil
# What it said is not complete, nor shall it look so when it is closed.
cdef void conn_abort(Conn *conn) noexcept nogil
cdef void conn_requeue(Conn *conn) noexcept nogil                # ready() again this or next turn
cdef void conn_mark_dirty(Conn *conn) noexcept nogil             # flush() at the end of the turn

# Bytes read (> 0); 0: the peer finished; -EAGAIN; other -errno (CONN_BROKEN is set).
cdef int64_t conn_recv(Conn *conn, uint8_t *target, size_t size) noexcept nogil
# Bytes taken (>= 0; 0 with CONN_WRITABLE clear: full); -errno (CONN_BROKEN is set).
cdef int64_t conn_send(Conn *conn, const uint8_t *source, size_t size) noexcept nogil

cdef void conn_gather(Conn *conn, const uint8_t *source, size_t size) noexcept nogil
# Memory for a head that will be gathered; valid until the gather is flushed. NULL only if
# size > WORKER_ARENA_SIZE.
cdef uint8_t *conn_arena(Worker *worker, uint32_t size) noexcept nogil
# Give back what the last conn_arena() took behind `end`.
cdef void conn_arena_trim(Worker *worker, const uint8_t *end) noexcept nogil
cdef void gather_flush(Worker *worker) noexcept nogil
# Gather and flush.
cdef void conn_write(Conn *conn, const uint8_t *source, size_t size) noexcept nogil
cdef void conn_finish_writing(Conn *conn) noexcept nogil         # FIN; once nothing is owed
cdef void conn_flush_out(Conn *conn) noexcept nogil              # push conn.out; calls sent()
cdef void conn_push(Conn *conn) noexcept nogil                   # TLS: push ciphertext; sent()

cdef inline uint32_t conn_owed(const Conn *conn) noexcept nogil:
    # Bytes of output that the socket did not take yet: encrypted ones count as they are.
    if conn.tls == NULL:
        return buffer_size(&conn.out)
    return buffer_size(&conn.out) + buffer_size(&conn.tls.out)

cdef void conn_deadline(Conn *conn, uint64_t after_ms) noexcept nogil  # 0: none

# Wait lists: a connection waits for room in another; at most one list at a time.
cdef void conn_wait(Conn *conn, WaitList *waiting) noexcept nogil
cdef void conn_stop_waiting(Conn *conn) noexcept nogil
cdef void conn_wake_first(WaitList *waiting) noexcept nogil      # the list is not empty
cdef void conn_wake_all(WaitList *waiting) noexcept nogil
