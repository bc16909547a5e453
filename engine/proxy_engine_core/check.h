/* CHECK(condition): an invariant of ours. In a debug build a violation prints
 * file:line and aborts; in a release build it costs nothing.
 *
 * Neither alternative works here: a Python assert in a noexcept function returns
 * 0 (our success code), and C assert() vanishes under CPython's own -DNDEBUG. */
#ifndef PROXY_ENGINE_CHECK_H
#define PROXY_ENGINE_CHECK_H

#include <stdio.h>
#include <stdlib.h>

#if defined(PROXY_ENGINE_DEBUG) && PROXY_ENGINE_DEBUG
#define CHECK(condition)                                                       \
    do {                                                                       \
        if (!(condition)) {                                                    \
            fprintf(stderr, "CHECK failed: %s:%d: %s\n", __FILE__, __LINE__,   \
                    #condition);                                               \
            abort();                                                           \
        }                                                                      \
    } while (0)
#else
#define CHECK(condition) ((void)0)
#endif

#endif
