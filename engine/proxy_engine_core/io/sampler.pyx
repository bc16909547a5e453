# See sampler.pxd.

from libc.errno cimport ESRCH, ETIMEDOUT
from libc.stdint cimport uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport free

from proxy_engine_core.io.sys cimport clockid_t, timespec
from proxy_engine_core.io.worker cimport Crew, Worker

cdef extern from "io/sampler.h" nogil:
    enum:
        SAMPLER_PROFILE
        SAMPLER_LOOK
        SAMPLER_FRAMES_MAX
    struct sampler_slot:
        uint32_t worker
        uint32_t weight
        uint32_t depth
        void *frames[SAMPLER_FRAMES_MAX]
    struct sampler_place:
        uint64_t used
        uint64_t capacity
        sampler_slot slots[0]
    ctypedef void *c_timer_t "timer_t"
    int sampler_signal()
    int sampler_thread()
    int sampler_open(int which, uint64_t capacity)
    sampler_place *sampler_close(int which)
    bint sampler_is_filled(int which)
    int sampler_ask(int tid, uint32_t worker)
    int sampler_time(
        clockid_t clock, int tid, uint32_t worker, uint64_t period_us, c_timer_t *timer
    )
    int timer_delete(c_timer_t timer)

cdef extern from "<time.h>" nogil:
    int nanosleep(const timespec *time, timespec *left)


cdef int sampler_signal_number() noexcept nogil:
    return sampler_signal()


cdef int sampler_thread_id() noexcept nogil:
    return sampler_thread()


cdef int profile_begin(Profile *profile, Crew *crew, uint64_t period_us) noexcept nogil:
    cdef uint32_t index
    cdef Worker *worker
    cdef c_timer_t timer
    cdef int error = sampler_open(SAMPLER_PROFILE, SAMPLES_MAX)
    profile.timer_count = 0
    if error < 0:
        return error
    for index in range(crew.worker_count):
        worker = crew.workers[index]
        if not worker.has_cpu_clock or worker.thread_id == 0:
            continue
        error = sampler_time(
            worker.cpu_clock, <int>worker.thread_id, index, period_us, &timer
        )
        if error < 0:
            stop_timers(profile)
            free(sampler_close(SAMPLER_PROFILE))
            return error
        profile.timers[profile.timer_count] = <uintptr_t>timer
        profile.timer_count += 1
    return 0


cdef void stop_timers(Profile *profile) noexcept nogil:
    while profile.timer_count:
        profile.timer_count -= 1
        timer_delete(<c_timer_t><uintptr_t>profile.timers[profile.timer_count])


cdef tuple profile_end(Profile *profile):
    cdef sampler_place *place
    cdef sampler_slot *slot
    cdef uint64_t index, count
    cdef dict found = {}
    with nogil:
        stop_timers(profile)
        place = sampler_close(SAMPLER_PROFILE)
    if place == NULL:
        return found, 0
    try:
        count = min(place.used, place.capacity)
        for index in range(count):
            slot = &place.slots[index]
            key = (slot.worker, (<const char *>slot.frames)[:slot.depth * sizeof(void *)])
            found[key] = found.get(key, 0) + slot.weight
        return found, place.used - count
    finally:
        free(place)


cdef int stack_look(
    const Worker *worker, uint64_t *frames, uint32_t *depth, uint32_t patience_ms
) noexcept nogil:
    cdef timespec millisecond
    cdef sampler_place *place
    cdef uint32_t index, waited = 0
    cdef int error
    if worker.thread_id == 0:
        return -ESRCH
    error = sampler_open(SAMPLER_LOOK, 1)
    if error < 0:
        return error
    error = sampler_ask(<int>worker.thread_id, worker.index)
    millisecond.tv_sec = 0
    millisecond.tv_nsec = 1_000_000
    while error == 0 and not sampler_is_filled(SAMPLER_LOOK) and waited < patience_ms:
        nanosleep(&millisecond, NULL)
        waited += 1
    place = sampler_close(SAMPLER_LOOK)
    if error == 0 and place.slots[0].weight == 0:
        error = -ETIMEDOUT
    if error == 0:
        depth[0] = place.slots[0].depth
        for index in range(depth[0]):
            frames[index] = <uintptr_t>place.slots[0].frames[index]
    free(place)
    return error
