# See rings.pxd.

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy

from proxy_engine_core.forward.log cimport LOG_RECORD_SIZE_MAX
from proxy_engine_core.io.worker cimport Crew
from proxy_engine_core.records cimport event_tuple, log_record
from proxy_engine_core.spsc cimport SpscRing, spsc_peek, spsc_pop, spsc_used


cdef enum:
    RING_BATCH = 64                       # records of one worker before the next one's turn


cdef list rings_events(Crew *crew, uint32_t *next_ring, int limit):
    return records(crew, next_ring, limit, False)


cdef list rings_logs(Crew *crew, uint32_t *next_ring, int limit):
    return records(crew, next_ring, limit, True)


cdef list records(Crew *crew, uint32_t *next_ring, int limit, bint is_log):
    # A batch of each, and the next call goes on where this one ends.
    cdef SpscRing *ring
    cdef const uint8_t *place
    cdef uint32_t size, taken, empty = 0
    cdef list found = []
    while len(found) < limit and empty < crew.worker_count:
        if is_log:
            ring = &crew.workers[next_ring[0]].log_ring
        else:
            ring = &crew.workers[next_ring[0]].control_ring
        taken = 0
        while taken < RING_BATCH and len(found) < limit:
            place = spsc_peek(ring, &size)
            if place == NULL:
                break
            try:
                found.append(log_record(place) if is_log else event_tuple(place))
            finally:
                spsc_pop(ring, size)
            taken += 1
        empty = 0 if taken else empty + 1
        next_ring[0] = (next_ring[0] + 1) % crew.worker_count
    return found


cdef bytes rings_log_batch(Crew *crew, uint32_t *next_ring, Py_ssize_t limit):
    cdef uint32_t index
    cdef Py_ssize_t room = 0, used = 0
    cdef bytes batch
    for index in range(crew.worker_count):
        room += <Py_ssize_t>spsc_used(&crew.workers[index].log_ring)
    room = min(room, max(limit, LOG_RECORD_SIZE_MAX))
    batch = PyBytes_FromStringAndSize(NULL, room)
    for index in range(crew.worker_count):
        used += take_batch(
            &crew.workers[(next_ring[0] + index) % crew.worker_count].log_ring,
            <uint8_t *>PyBytes_AS_STRING(batch) + used, room - used,
        )
    # Another one is the first of the next call.
    next_ring[0] = (next_ring[0] + 1) % crew.worker_count
    return batch[:used]


cdef Py_ssize_t take_batch(SpscRing *ring, uint8_t *target, Py_ssize_t room) noexcept:
    # Move whole records of a log ring there; the bytes taken.
    cdef const uint8_t *place
    cdef uint32_t size
    cdef Py_ssize_t used = 0
    while True:
        place = spsc_peek(ring, &size)
        if place == NULL or used + <Py_ssize_t>size > room:
            return used
        memcpy(target + used, place, size)
        used += size
        spsc_pop(ring, size)


cdef bint rings_have_logs(Crew *crew) noexcept:
    cdef uint32_t index
    for index in range(crew.worker_count):
        if spsc_used(&crew.workers[index].log_ring):
            return True
    return False
