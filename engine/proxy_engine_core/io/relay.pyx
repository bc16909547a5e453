# See relay.pxd.

from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport int64_t, uint32_t, uint64_t

from proxy_engine_core.atomic cimport counter_add
from proxy_engine_core.counters cimport COUNT_PIPES_SHORT, COUNT_SPLICED_BYTES, count
from proxy_engine_core.io.conn cimport (
    conn_finish_writing, conn_flush_out, conn_owed, conn_recv, conn_requeue, conn_write,
    gather_flush,
)
from proxy_engine_core.io.pressure cimport PRESSURE_NONE
from proxy_engine_core.io.profile cimport Profile
from proxy_engine_core.io.socket cimport socket_set_unsent
from proxy_engine_core.io.sys cimport (
    F_SETPIPE_SZ, O_CLOEXEC, O_NONBLOCK, SPLICE_F_MOVE, SPLICE_F_NONBLOCK, close, fcntl, pipe2,
    splice,
)
from proxy_engine_core.io.worker cimport (
    CONN_BROKEN, CONN_HUP, CONN_READABLE, CONN_WRITABLE, PIPES_KEPT_MAX, Conn, Pipe, PipePool,
    Worker,
)

cdef enum:
    PIPE_RETRY_MS = 1000


# --- pipes ------------------------------------------------------------------------------

cdef bint pipe_open(Worker *worker, Pipe *pipe) noexcept nogil:
    # Beyond fs.pipe-user-pages-soft a pipe can not be made larger, and a new one has a page or
    # two: then copying is better.
    cdef int fds[2]
    cdef int size
    if pipe2(fds, O_NONBLOCK | O_CLOEXEC) < 0:
        return False
    size = fcntl(fds[1], F_SETPIPE_SZ, RELAY_PIPE_SIZE)
    if size < 0:
        size = fcntl(fds[1], F_SETPIPE_SZ, RELAY_PIPE_SIZE_MIN)
    if size < RELAY_PIPE_SIZE_MIN:
        close(fds[0])
        close(fds[1])
        return False
    pipe.source = fds[0]
    pipe.target = fds[1]
    pipe.size = <uint32_t>size
    return True


cdef void pipe_close(Pipe *pipe) noexcept nogil:
    close(pipe.source)
    close(pipe.target)


cdef bint pipe_take(Worker *worker, Pipe *pipe) noexcept nogil:
    cdef PipePool *pool = &worker.pipes
    if worker.pressure != PRESSURE_NONE or worker.now_ms < pool.retry_ms:
        return False
    if pool.count:
        pool.count -= 1
        pipe[0] = pool.kept[pool.count]
    elif not pipe_open(worker, pipe):
        count(worker.counters, COUNT_PIPES_SHORT, 1)
        pool.retry_ms = worker.now_ms + PIPE_RETRY_MS
        return False
    counter_add(&worker.pool.bytes_lent, pipe.size)
    return True


cdef void pipe_give(Worker *worker, Pipe *pipe, bint is_empty) noexcept nogil:
    cdef PipePool *pool = &worker.pipes
    counter_add(&worker.pool.bytes_lent, <uint64_t>0 - pipe.size)
    if is_empty and pool.count < PIPES_KEPT_MAX:
        pool.kept[pool.count] = pipe[0]
        pool.count += 1
    else:
        pipe_close(pipe)
    pipe.size = 0


cdef void deepen(RelayWay *way, Conn *target) noexcept nogil:
    cdef PipePool *pool = &target.worker.pipes
    if (<uint64_t>pool.deep + 1) * RELAY_DEEP_SIZE <= target.worker.memory_max // RELAY_DEEP_PART:
        pool.deep += 1
        way.is_deep = True
        socket_set_unsent(target.fd, 0)


cdef void relay_free(RelayWay *way, Worker *worker) noexcept nogil:
    if way.is_deep:
        way.is_deep = False
        worker.pipes.deep -= 1
    if way.pipe.size:
        pipe_give(worker, &way.pipe, way.piped == 0)
    way.piped = 0


cdef void relay_free_worker(Worker *worker) noexcept nogil:
    while worker.pipes.count:
        worker.pipes.count -= 1
        pipe_close(&worker.pipes.kept[worker.pipes.count])


# --- moving -----------------------------------------------------------------------------

cdef int64_t splice_in(RelayWay *way, Conn *source) noexcept nogil:
    # As conn_recv(). The pipe is empty, so EAGAIN speaks of the socket; but a short splice
    # may have run out of the pipe's slots.
    cdef ssize_t moved
    while True:
        moved = splice(
            source.fd, NULL, way.pipe.target, NULL, way.pipe.size,
            SPLICE_F_MOVE | SPLICE_F_NONBLOCK,
        )
        if moved > 0:
            way.piped = <uint32_t>moved
            count(source.worker.counters, COUNT_SPLICED_BYTES, <uint64_t>moved)
            return moved
        if moved == 0:
            source.flags &= ~CONN_READABLE
            source.flags |= CONN_HUP
            return 0
        if errno == EINTR:
            continue
        source.flags &= ~CONN_READABLE
        if errno != EAGAIN:
            source.flags |= CONN_BROKEN
        return -errno


cdef int splice_out(RelayWay *way, Conn *target) noexcept nogil:
    # 0: all there was, or what the socket takes now (CONN_WRITABLE is clear then); -errno. The
    # signal of a broken pipe is blocked in workers.
    cdef ssize_t moved
    cdef int error
    while way.piped:
        moved = splice(
            way.pipe.source, NULL, target.fd, NULL, way.piped, SPLICE_F_MOVE | SPLICE_F_NONBLOCK
        )
        if moved > 0:
            way.piped -= <uint32_t>moved
        elif moved < 0 and errno == EINTR:
            continue
        elif moved < 0 and errno == EAGAIN:
            target.flags &= ~CONN_WRITABLE
            return 0
        else:
            error = -errno if moved < 0 else -EAGAIN
            target.flags &= ~CONN_WRITABLE
            target.flags |= CONN_BROKEN | CONN_READABLE
            conn_requeue(target)          # what it said last is still to be read
            return error
    return 0


cdef inline bint is_bulk(const RelayWay *way) noexcept nogil:
    return way.profile.bulk_size and way.bulk >= way.profile.bulk_size


cdef int64_t pass_some(RelayWay *way, Conn *source, Conn *target) noexcept nogil:
    """Read once and write on; as conn_recv()."""
    cdef Worker *worker = source.worker
    cdef const Profile *profile = way.profile
    cdef int64_t received
    if is_bulk(way) and source.tls == NULL and target.tls == NULL and (
        way.pipe.size or pipe_take(worker, &way.pipe)
    ):
        if not way.is_deep:
            deepen(way, target)
        received = splice_in(way, source)
        if received > 0 and splice_out(way, target) < 0:
            return received               # the target's flags tell
    else:
        received = conn_recv(
            source, worker.link_scratch,
            profile.read_size if way.bulk < 2 * profile.read_size else profile.read_size_max,
        )
        if received > 0:
            conn_write(target, worker.link_scratch, <size_t>received)
    if received > 0:
        way.bytes += <uint64_t>received
        if received < RELAY_PAUSE_SIZE:
            way.bulk //= 2
            if way.is_deep and not is_bulk(way):
                way.is_deep = False
                worker.pipes.deep -= 1
                socket_set_unsent(target.fd, profile.unsent)
        elif way.bulk < RELAY_BULK_MAX:
            way.bulk += <uint32_t>received
    return received


cdef int relay_move(RelayWay *way, Conn *source, Conn *target) noexcept nogil:
    cdef Worker *worker = source.worker
    cdef uint64_t limit = way.bytes + RELAY_BUDGET
    cdef int64_t received
    cdef int result = RELAY_WAITS
    gather_flush(worker)                  # it may stand in the scratch
    if conn_owed(target):
        conn_flush_out(target)
    if way.piped and target.flags & CONN_WRITABLE:
        splice_out(way, target)
    while (
        target.flags & CONN_WRITABLE and not target.flags & CONN_BROKEN and not way.is_ended
        and source.flags & CONN_READABLE
    ):
        if way.bytes >= limit:
            result = RELAY_GOES_ON
            break
        received = pass_some(way, source, target)
        if received == 0:
            way.is_ended = True
    if way.pipe.size and way.piped == 0:
        pipe_give(worker, &way.pipe, True)
    if target.flags & CONN_BROKEN:
        return RELAY_BROKEN
    if way.piped == 0 and conn_owed(target) == 0:
        # What a source said before it broke off is still passed on.
        if source.flags & CONN_BROKEN and not source.flags & CONN_READABLE:
            return RELAY_BROKEN
        if not way.is_ended or way.awaits_word:
            return result
        if not way.is_told:
            way.is_told = True
            conn_finish_writing(target)
        return RELAY_DONE
    return result
