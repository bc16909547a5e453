# See pressure.pxd.

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from proxy_engine_core.counters cimport (
    COUNT_FILES_SHORT, COUNT_MEMORY_SHORT, COUNT_MEMORY_STOPS_ACCEPT, COUNT_MEMORY_STOPS_WORK,
    count,
)
from proxy_engine_core.events cimport EVENT_PRESSURE
from proxy_engine_core.io.news cimport news_event
from proxy_engine_core.io.sys cimport (
    F_DUPFD_CLOEXEC, RLIMIT_NOFILE, close, fcntl, getrlimit, rlimit,
)
from proxy_engine_core.io.worker cimport Worker

cdef enum:
    FILES_NEAR = 64                       # numbers from the mark at which we begin to look
    FILES_UNLIMITED = 1 << 30

cdef uint64_t MEMORY_UNLIMITED = <uint64_t>1 << 62

cdef uint8_t[4] UP = [0, 50, 75, 90]      # percent of memory_max, by level
cdef uint8_t[4] DOWN = [0, 40, 65, 80]


cdef void pressure_init(Worker *worker) noexcept nogil:
    cdef rlimit limit
    cdef uint64_t most
    # Who made the options by hand may have left it out: then there is no limit.
    worker.memory_max = worker.options.memory_max if worker.options.memory_max else MEMORY_UNLIMITED
    worker.files_mark = FILES_UNLIMITED
    if getrlimit(RLIMIT_NOFILE, &limit) == 0 and limit.rlim_cur < FILES_UNLIMITED:
        most = limit.rlim_cur
        # Of a small limit no more than a quarter, or nothing would be left to serve with.
        worker.files_mark = <int>(most - min(worker.options.files_reserve, most // 4))


cdef void emit(
    Worker *worker, uint64_t kind, uint64_t level, uint64_t used, uint64_t most
) noexcept nogil:
    news_event(worker, EVENT_PRESSURE, kind, level, used, most, 0, NULL, 0, NULL, 0)


cdef void pressure_look(Worker *worker) noexcept nogil:
    cdef uint64_t used = worker.pool.bytes_lent
    cdef uint64_t percent = used * 100 // worker.memory_max
    cdef int level = worker.pressure
    while level < PRESSURE_ACCEPT and percent >= UP[level + 1]:
        level += 1
    while level > PRESSURE_NONE and percent < DOWN[level]:
        level -= 1
    if level == worker.pressure:
        return
    if level > worker.pressure:
        count(worker.counters, COUNT_MEMORY_SHORT, 1)
        if level >= PRESSURE_WORK and worker.pressure < PRESSURE_WORK:
            count(worker.counters, COUNT_MEMORY_STOPS_WORK, 1)
        if level >= PRESSURE_ACCEPT:
            count(worker.counters, COUNT_MEMORY_STOPS_ACCEPT, 1)
    worker.pressure = level
    if worker.on_pressure != NULL:
        worker.on_pressure(worker)
    emit(worker, PRESSURE_OF_MEMORY, level, used, worker.memory_max)


cdef bint pressure_stops_accept(Worker *worker, int fd) noexcept nogil:
    cdef int lowest
    if worker.pressure >= PRESSURE_ACCEPT:
        return True
    if not worker.files_near:
        return False
    # The number the next connection would get.
    lowest = fcntl(fd, F_DUPFD_CLOEXEC, 0)
    if lowest >= 0:
        close(lowest)
    if lowest < 0 or lowest >= worker.files_mark:
        if not worker.files_short:
            worker.files_short = True
            count(worker.counters, COUNT_FILES_SHORT, 1)
            emit(worker, PRESSURE_OF_FILES, PRESSURE_ACCEPT, worker.conn_count, worker.files_mark)
        return True
    if lowest < worker.files_mark - FILES_NEAR // 4:
        if worker.files_short:
            worker.files_short = False
            emit(worker, PRESSURE_OF_FILES, PRESSURE_NONE, worker.conn_count, worker.files_mark)
        worker.files_near = lowest >= worker.files_mark - FILES_NEAR
    return False


cdef void pressure_accepted(Worker *worker, int fd) noexcept nogil:
    if fd >= worker.files_mark - FILES_NEAR:
        worker.files_near = True


cdef bint pressure_may_keep(const Worker *worker, uint32_t size) noexcept nogil:
    return worker.pool.bytes_lent + size <= worker.memory_max
