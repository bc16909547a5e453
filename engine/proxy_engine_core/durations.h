/* Buckets of durations: le 1, 2.5, 5, 10 ms ... 10 s, and the rest.
 *
 * Between two powers of two there is at most one bound, so the number of bits of a duration tells
 * the bucket but for one comparison, however long it was. */
#ifndef PROXY_ENGINE_DURATIONS_H
#define PROXY_ENGINE_DURATIONS_H

#include <stdint.h>

#define DURATION_BUCKETS 14

/* The largest duration in each, microseconds. */
static const uint64_t duration_bounds_us[DURATION_BUCKETS] = {
    1000, 2500, 5000, 10000, 25000, 50000, 100000, 250000, 500000, 1000000, 2500000, 5000000,
    10000000, UINT64_MAX,
};

/* By the highest bit set, the first bucket whose bound is no less than that bit alone. */
static const uint8_t duration_first[64] = {
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 10, 11, 12,
    13, 13, 13, 13, 13, 13, 13, 13, 13, 13, 13, 13, 13, 13, 13, 13, 13, 13, 13, 13,
    13, 13, 13, 13, 13, 13, 13, 13, 13, 13, 13, 13, 13, 13, 13, 13, 13, 13, 13, 13,
};

static inline uint32_t duration_bucket(uint64_t us)
{
    uint32_t bucket = duration_first[63 - __builtin_clzll(us | 1)];
    return bucket + (us > duration_bounds_us[bucket]);
}

#endif
