/* Where workers are: program counters of a thread, taken in a signal handler.
 *
 * A profile arms one timer a worker on the CPU time of its thread, which signals that very thread;
 * a look sends the same signal to one thread. The handler unwinds into a slot of a place that was
 * allocated before, and touches nothing else: no malloc, no lock, no Python.
 *
 *   place     allocated, published in `places`, filled by handlers, taken down again
 *   inside    handlers that may hold a place: taking one down waits for them
 *
 * The handler stays installed once it was: a signal that is late would end the process. The signal
 * is a real-time one, so that SIGPROF is left to other profilers of the process; if somebody has a
 * handler for it, there are no profiles.
 *
 * Unwinding is libgcc's, by the tables that exceptions use (.eh_frame): exact without frame pointers,
 * also in the middle of a prologue. It takes no lock where glibc is 2.35 or newer; before that it
 * takes the loader's, which is recursive, and which no worker holds while it waits for another
 * thread. It is called once before the first signal, so that it is bound and loaded. */
#ifndef PROXY_ENGINE_SAMPLER_H
#define PROXY_ENGINE_SAMPLER_H

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>
#include <unwind.h>

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

enum {
    SAMPLER_PROFILE = 0,
    SAMPLER_LOOK,
    SAMPLER_PLACES,
    SAMPLER_FRAMES_MAX = 64,
    SAMPLER_SIGNAL_OFFSET = 7,   /* from SIGRTMIN, which glibc moves past its own */
};

struct sampler_slot {
    uint32_t worker;
    uint32_t weight;             /* periods that went by; 0: not filled (yet) */
    uint32_t depth;
    void *frames[SAMPLER_FRAMES_MAX];   /* innermost first */
};

struct sampler_place {
    uint64_t used;               /* slots asked for, so it may be more than there are */
    uint64_t capacity;
    struct sampler_slot slots[];
};

static struct sampler_place *sampler_places[SAMPLER_PLACES];
static int sampler_inside;

static inline int sampler_signal(void)
{
    return SIGRTMIN + SAMPLER_SIGNAL_OFFSET;
}

static inline int sampler_thread(void)
{
    return (int)syscall(SYS_gettid);     /* gettid() is there since glibc 2.30 */
}

struct sampler_walk {
    struct sampler_slot *slot;
    uintptr_t interrupted;       /* the frames before this one are the handler's; 0: not known */
    int is_below;
};

static _Unwind_Reason_Code sampler_frame(struct _Unwind_Context *context, void *argument)
{
    struct sampler_walk *walk = argument;
    uintptr_t pc = _Unwind_GetIP(context);
    if (pc == walk->interrupted)
        walk->is_below = 1;
    if (!walk->is_below)
        return _URC_NO_REASON;
    if (pc == 0 || walk->slot->depth == SAMPLER_FRAMES_MAX)
        return _URC_END_OF_STACK;
    walk->slot->frames[walk->slot->depth++] = (void *)pc;
    return _URC_NO_REASON;
}

static inline uintptr_t sampler_interrupted(void *context)
{
#if defined(__x86_64__)
    return (uintptr_t)((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];
#elif defined(__aarch64__)
    return (uintptr_t)((ucontext_t *)context)->uc_mcontext.pc;
#else
    return 0;
#endif
}

static void sampler_handler(int number, siginfo_t *info, void *context)
{
    int kept = errno;
    int what = info->si_value.sival_int;
    struct sampler_place *place = NULL;
    __atomic_add_fetch(&sampler_inside, 1, __ATOMIC_SEQ_CST);
    if ((what & 0xFF) < SAMPLER_PLACES)
        place = __atomic_load_n(&sampler_places[what & 0xFF], __ATOMIC_SEQ_CST);
    if (place != NULL) {
        uint64_t index = __atomic_fetch_add(&place->used, 1, __ATOMIC_RELAXED);
        if (index < place->capacity) {
            struct sampler_slot *slot = &place->slots[index];
            struct sampler_walk walk = {slot, sampler_interrupted(context), 0};
            walk.is_below = walk.interrupted == 0;
            slot->worker = (uint32_t)what >> 8;
            _Unwind_Backtrace(sampler_frame, &walk);
            if (slot->depth == 0) {       /* it could not find its way past the signal */
                slot->frames[0] = (void *)walk.interrupted;
                slot->depth = 1;
            }
            __atomic_store_n(
                &slot->weight,
                1 + (info->si_code == SI_TIMER && info->si_overrun > 0 ? info->si_overrun : 0),
                __ATOMIC_RELEASE);
        }
    }
    __atomic_sub_fetch(&sampler_inside, 1, __ATOMIC_SEQ_CST);
    errno = kept;
    (void)number;
}

/* 0; -EBUSY: the signal is somebody else's; other -errno. */
static inline int sampler_install(void)
{
    struct sigaction there, ours;
    struct sampler_slot slot = {0};
    struct sampler_walk walk = {&slot, 0, 1};
    if (sigaction(sampler_signal(), NULL, &there) < 0)
        return -errno;
    if ((there.sa_flags & SA_SIGINFO) && there.sa_sigaction == sampler_handler)
        return 0;
    if ((there.sa_flags & SA_SIGINFO) || there.sa_handler != SIG_DFL)
        return -EBUSY;
    _Unwind_Backtrace(sampler_frame, &walk);
    memset(&ours, 0, sizeof ours);
    ours.sa_sigaction = sampler_handler;
    ours.sa_flags = SA_SIGINFO | SA_RESTART;
    sigfillset(&ours.sa_mask);
    return sigaction(sampler_signal(), &ours, NULL) < 0 ? -errno : 0;
}

/* Open a place for so many samples. 0; -EBUSY: it is in use; -ENOMEM; as sampler_install(). */
static inline int sampler_open(int which, uint64_t capacity)
{
    struct sampler_place *none = NULL;
    struct sampler_place *place;
    int error = sampler_install();
    if (error < 0)
        return error;
    place = calloc(1, sizeof *place + capacity * sizeof place->slots[0]);
    if (place == NULL)
        return -ENOMEM;
    place->capacity = capacity;
    if (!__atomic_compare_exchange_n(&sampler_places[which], &none, place, 0, __ATOMIC_SEQ_CST,
                                     __ATOMIC_SEQ_CST)) {
        free(place);
        return -EBUSY;
    }
    return 0;
}

/* No handler touches it any more; the caller frees it. */
static inline struct sampler_place *sampler_close(int which)
{
    struct sampler_place *place =
        __atomic_exchange_n(&sampler_places[which], NULL, __ATOMIC_SEQ_CST);
    while (__atomic_load_n(&sampler_inside, __ATOMIC_SEQ_CST) != 0)
        sched_yield();
    return place;
}

static inline int sampler_is_filled(int which)
{
    struct sampler_place *place = __atomic_load_n(&sampler_places[which], __ATOMIC_SEQ_CST);
    return place != NULL && __atomic_load_n(&place->slots[0].weight, __ATOMIC_ACQUIRE) != 0;
}

/* A sample of this thread into the place for looks. 0, -errno. */
static inline int sampler_ask(int tid, uint32_t worker)
{
    siginfo_t info;
    memset(&info, 0, sizeof info);
    info.si_code = SI_QUEUE;
    info.si_pid = getpid();
    info.si_uid = getuid();
    info.si_value.sival_int = (int)(worker << 8 | SAMPLER_LOOK);
    return syscall(SYS_rt_tgsigqueueinfo, getpid(), tid, sampler_signal(), &info) < 0 ? -errno : 0;
}

/* A sample of this thread each `period_us` of its CPU time. 0, -errno. */
static inline int sampler_time(
    clockid_t clock, int tid, uint32_t worker, uint64_t period_us, timer_t *timer)
{
    struct sigevent event;
    struct itimerspec period;
    memset(&event, 0, sizeof event);
    event.sigev_notify = SIGEV_THREAD_ID;
    event.sigev_signo = sampler_signal();
    event.sigev_value.sival_int = (int)(worker << 8 | SAMPLER_PROFILE);
    event.sigev_notify_thread_id = tid;
    if (timer_create(clock, &event, timer) < 0)
        return -errno;
    period.it_interval.tv_sec = (time_t)(period_us / 1000000);
    period.it_interval.tv_nsec = (long)(period_us % 1000000 * 1000);
    period.it_value = period.it_interval;
    if (timer_settime(*timer, 0, &period, NULL) < 0) {
        int error = errno;
        timer_delete(*timer);
        return -error;
    }
    return 0;
}

#endif
