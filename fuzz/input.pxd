# What the targets share: how an input is cut into pieces, and copies of exact size and fences
# behind a piece, so that AddressSanitizer sees a read or a write one byte beyond.

from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy


cdef extern from *:
    """
    /* CHECK() of check.h, whatever the build: an oracle is never compiled out. */
    #define REQUIRE(condition)                                                     \
        do {                                                                       \
            if (!(condition)) {                                                    \
                fprintf(stderr, "REQUIRE failed: %s:%d: %s\\n", __FILE__, __LINE__, \
                        #condition);                                               \
                abort();                                                           \
            }                                                                      \
        } while (0)
    #include <sanitizer/asan_interface.h>
    """
    void ASAN_POISON_MEMORY_REGION(const void *place, size_t size) noexcept nogil
    void ASAN_UNPOISON_MEMORY_REGION(const void *place, size_t size) noexcept nogil
    void REQUIRE(bint condition) noexcept nogil


cdef struct Cuts:
    uint32_t state
    uint32_t size_max             # 0: everything at once

cdef inline void cuts_init(Cuts *cuts, uint8_t choice) noexcept nogil:
    cdef uint32_t[8] sizes = [0, 1, 2, 3, 7, 16, 64, 1000]
    cuts.size_max = sizes[choice & 7]
    cuts.state = 2654435761u * (choice + 1)

cdef inline size_t cuts_next(Cuts *cuts, size_t left) noexcept nogil:
    # Bytes of the next piece, at least 1.
    cdef size_t size
    if cuts.size_max == 0:
        return left
    cuts.state = cuts.state * 1664525 + 1013904223
    size = 1 + (cuts.state >> 16) % cuts.size_max
    return size if size < left else left

cdef inline uint8_t *exact(const uint8_t *source, size_t size) noexcept nogil:
    # A copy to be freed; of no bytes, too.
    cdef uint8_t *copy = <uint8_t *>malloc(size if size else 1)
    REQUIRE(copy != NULL)
    if size:
        memcpy(copy, source, size)
    return copy

cdef inline void fence(const uint8_t *bytes, size_t end, size_t size) noexcept nogil:
    # Of a copy of `size` bytes the first `end` may be used. Lift it (end == size) before free().
    ASAN_UNPOISON_MEMORY_REGION(bytes, end)
    ASAN_POISON_MEMORY_REGION(bytes + end, size - end)

# A stream that comes piece by piece, each with a fence behind it.
cdef struct Pieces:
    Cuts cuts
    uint8_t *copy
    size_t size
    size_t used

cdef inline void pieces_init(
    Pieces *pieces, const uint8_t *data, size_t size, uint8_t choice
) noexcept nogil:
    cuts_init(&pieces.cuts, choice)
    pieces.copy = exact(data, size)
    pieces.size = size
    pieces.used = 0

cdef inline uint8_t *pieces_next(Pieces *pieces, uint8_t **end) noexcept nogil:
    # Where the next one begins and ends; NULL: that was all.
    cdef uint8_t *piece = pieces.copy + pieces.used
    if pieces.used == pieces.size:
        return NULL
    pieces.used += cuts_next(&pieces.cuts, pieces.size - pieces.used)
    fence(pieces.copy, pieces.used, pieces.size)
    end[0] = pieces.copy + pieces.used
    return piece

cdef inline void pieces_free(Pieces *pieces) noexcept nogil:
    fence(pieces.copy, pieces.size, pieces.size)
    free(pieces.copy)
