/* Byte classes and scans of HTTP/1.1 heads: the only part of the parser that wants
 * SIMD, and so the only part in C.
 *
 * Every scan returns the first byte in [from, end) that is NOT of its class, or end.
 * Sixteen bytes a step while sixteen are left, then byte by byte: nothing outside
 * [from, end) is ever read. SSE2 and NEON are part of their 64-bit baselines, so no
 * flags and no dispatch are needed; any other machine takes the portable loop, which
 * is also what the tests compare the SIMD one with. */
#ifndef PROXY_ENGINE_HTTP1_SCAN_H
#define PROXY_ENGINE_HTTP1_SCAN_H

#include <stdint.h>
#include <string.h>

#if defined(__SSE2__)
#include <emmintrin.h>
#elif defined(__ARM_NEON) && defined(__aarch64__)
#include <arm_neon.h>
#endif

enum {
    CHAR_TOKEN = 1,       /* tchar, RFC 9110 5.6.2 */
    CHAR_NAME = 2,        /* tchar without "_", which CGI-like targets read as "-" */
    CHAR_TEXT = 4,        /* field-vchar, obs-text, SP, HTAB: RFC 9110 5.5 */
    CHAR_TARGET = 8,      /* visible ASCII without "#" and "\": see request_line.pyx */
    CHAR_HOST = 16,       /* unreserved, RFC 3986 2.3: what DNS names are made of */
    CHAR_ADDRESS = 32,    /* inside the brackets of an IPv6 literal */
    CHAR_REQUEST_ID = 64  /* [A-Za-z0-9._:/+=@-] */
};

/* One row is sixteen bytes; tests/unit/http1/test_scan.py spells the classes out. */
static const uint8_t char_classes[256] = {
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x04, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x04, 0x0f, 0x0c, 0x07, 0x0f, 0x0f, 0x0f, 0x0f, 0x0c, 0x0c, 0x0f, 0x4f, 0x0c, 0x5f, 0x7f, 0x4c,
    0x7f, 0x7f, 0x7f, 0x7f, 0x7f, 0x7f, 0x7f, 0x7f, 0x7f, 0x7f, 0x6c, 0x0c, 0x0c, 0x4c, 0x0c, 0x0c,
    0x4c, 0x7f, 0x7f, 0x7f, 0x7f, 0x7f, 0x7f, 0x5f, 0x5f, 0x5f, 0x5f, 0x5f, 0x5f, 0x5f, 0x5f, 0x5f,
    0x5f, 0x5f, 0x5f, 0x5f, 0x5f, 0x5f, 0x5f, 0x5f, 0x5f, 0x5f, 0x5f, 0x0c, 0x04, 0x0c, 0x0f, 0x5d,
    0x0f, 0x7f, 0x7f, 0x7f, 0x7f, 0x7f, 0x7f, 0x5f, 0x5f, 0x5f, 0x5f, 0x5f, 0x5f, 0x5f, 0x5f, 0x5f,
    0x5f, 0x5f, 0x5f, 0x5f, 0x5f, 0x5f, 0x5f, 0x5f, 0x5f, 0x5f, 0x5f, 0x0c, 0x0f, 0x0c, 0x1f, 0x00,
    0x04, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04,
    0x04, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04,
    0x04, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04,
    0x04, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04,
    0x04, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04,
    0x04, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04,
    0x04, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04,
    0x04, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04,
};

#define SCAN_STEP 16

#if defined(__SSE2__)
/* One mask bit a byte. */
#define SCAN_SIMD 1
#define SCAN_MASK_SHIFT 0
#define SCAN_MASK_ALL 0xffffull
typedef __m128i scan_block;
static inline scan_block scan_load(const uint8_t *from) {
    return _mm_loadu_si128((const __m128i *)from);
}
static inline scan_block scan_equal(scan_block block, uint8_t byte) {
    return _mm_cmpeq_epi8(block, _mm_set1_epi8((char)byte));
}
static inline scan_block scan_less(scan_block block, uint8_t byte) {
    /* No unsigned compare in SSE2: block < byte exactly if min(block, byte - 1) == block. */
    return _mm_cmpeq_epi8(_mm_min_epu8(block, _mm_set1_epi8((char)(byte - 1))), block);
}
static inline scan_block scan_fold(scan_block block) {
    return _mm_or_si128(block, _mm_set1_epi8(0x20));
}
static inline scan_block scan_or(scan_block a, scan_block b) { return _mm_or_si128(a, b); }
static inline scan_block scan_and(scan_block a, scan_block b) { return _mm_and_si128(a, b); }
static inline scan_block scan_without(scan_block a, scan_block b) {
    return _mm_andnot_si128(b, a);
}
static inline uint64_t scan_mask(scan_block block) {
    return (uint64_t)(uint32_t)_mm_movemask_epi8(block);
}
#elif defined(__ARM_NEON) && defined(__aarch64__)
/* Four mask bits a byte: NEON has no movemask, narrowing by four is the short way. */
#define SCAN_SIMD 1
#define SCAN_MASK_SHIFT 2
#define SCAN_MASK_ALL 0xffffffffffffffffull
typedef uint8x16_t scan_block;
static inline scan_block scan_load(const uint8_t *from) { return vld1q_u8(from); }
static inline scan_block scan_equal(scan_block block, uint8_t byte) {
    return vceqq_u8(block, vdupq_n_u8(byte));
}
static inline scan_block scan_less(scan_block block, uint8_t byte) {
    return vcltq_u8(block, vdupq_n_u8(byte));
}
static inline scan_block scan_fold(scan_block block) { return vorrq_u8(block, vdupq_n_u8(0x20)); }
static inline scan_block scan_or(scan_block a, scan_block b) { return vorrq_u8(a, b); }
static inline scan_block scan_and(scan_block a, scan_block b) { return vandq_u8(a, b); }
static inline scan_block scan_without(scan_block a, scan_block b) { return vbicq_u8(a, b); }
static inline uint64_t scan_mask(scan_block block) {
    uint8x8_t narrow = vshrn_n_u16(vreinterpretq_u16_u8(block), 4);
    return vget_lane_u64(vreinterpret_u64_u8(narrow), 0);
}
#endif

static inline const uint8_t *scan_class(const uint8_t *from, const uint8_t *end, uint8_t class) {
    while (from < end && (char_classes[*from] & class))
        from++;
    return from;
}

/* Field names: CHAR_NAME. Letters, digits and "-" at once, whatever else may be in one singly. */
static inline const uint8_t *scan_name(const uint8_t *from, const uint8_t *end) {
#ifdef SCAN_SIMD
    if (end - from >= SCAN_STEP) {
        scan_block block = scan_load(from);
        scan_block lower = scan_fold(block);
        scan_block letter = scan_without(scan_less(lower, 'z' + 1), scan_less(lower, 'a'));
        scan_block digit = scan_without(scan_less(block, '9' + 1), scan_less(block, '0'));
        scan_block usual = scan_or(scan_or(letter, digit), scan_equal(block, '-'));
        uint64_t mask = scan_mask(usual) ^ SCAN_MASK_ALL;
        from += mask ? __builtin_ctzll(mask) >> SCAN_MASK_SHIFT : SCAN_STEP;
    }
#endif
    return scan_class(from, end, CHAR_NAME);
}

/* Field values and reason phrases: CHAR_TEXT. */
static inline const uint8_t *scan_text(const uint8_t *from, const uint8_t *end) {
#ifdef SCAN_SIMD
    for (; end - from >= SCAN_STEP; from += SCAN_STEP) {
        scan_block block = scan_load(from);
        scan_block control = scan_without(scan_less(block, 0x20), scan_equal(block, '\t'));
        uint64_t mask = scan_mask(scan_or(control, scan_equal(block, 0x7f)));
        if (mask)
            return from + (__builtin_ctzll(mask) >> SCAN_MASK_SHIFT);
    }
#endif
    return scan_class(from, end, CHAR_TEXT);
}

/* Request targets: CHAR_TARGET. */
static inline const uint8_t *scan_target(const uint8_t *from, const uint8_t *end) {
#ifdef SCAN_SIMD
    for (; end - from >= SCAN_STEP; from += SCAN_STEP) {
        scan_block block = scan_load(from);
        scan_block refused = scan_or(scan_equal(block, '#'), scan_equal(block, '\\'));
        scan_block visible = scan_without(scan_less(block, 0x7f), scan_less(block, 0x21));
        uint64_t mask = scan_mask(scan_without(visible, refused)) ^ SCAN_MASK_ALL;
        if (mask)
            return from + (__builtin_ctzll(mask) >> SCAN_MASK_SHIFT);
    }
#endif
    return scan_class(from, end, CHAR_TARGET);
}

/* The first byte of CRLFCRLF, or end. */
static inline const uint8_t *scan_head_end_portable(const uint8_t *from, const uint8_t *end) {
    for (; end - from >= 4; from++)
        if (from[3] == '\n' && memcmp(from, "\r\n\r\n", 4) == 0)
            return from;
    return end;
}

static inline const uint8_t *scan_head_end(const uint8_t *from, const uint8_t *end) {
#ifdef SCAN_SIMD
    /* Two LF at a distance of two are rare enough to be verified one by one. The last step
     * looks at some bytes again rather than at the rest one by one. */
    const uint8_t *start = from;
    for (; end - start >= SCAN_STEP + 3 && end - from >= 4; from += SCAN_STEP) {
        if (end - from < SCAN_STEP + 3)
            from = end - (SCAN_STEP + 3);
        uint64_t mask = scan_mask(scan_and(scan_equal(scan_load(from + 1), '\n'),
                                           scan_equal(scan_load(from + 3), '\n')));
        while (mask) {
            unsigned bit = (unsigned)__builtin_ctzll(mask);
            const uint8_t *found = from + (bit >> SCAN_MASK_SHIFT);
            if (memcmp(found, "\r\n\r\n", 4) == 0)
                return found;
            mask &= ~(((1ull << (1 << SCAN_MASK_SHIFT)) - 1) << bit);
        }
    }
#endif
    return scan_head_end_portable(from, end);
}

/* Whether `size` bytes, letters folded to lower case, are `lower`. Folding is "| 0x20",
 * which is exact for token and text bytes: of those only letters land on letters, and
 * only "-" and digits on themselves. With a literal size this becomes a few words. */
static inline int equals_lower(const uint8_t *bytes, const char *lower, uint32_t size) {
    uint32_t at = 0;
    uint64_t word, wanted;
    for (; at + 8 <= size; at += 8) {
        memcpy(&word, bytes + at, 8);
        memcpy(&wanted, lower + at, 8);
        if ((word | 0x2020202020202020ull) != wanted)
            return 0;
    }
    for (; at < size; at++)
        if ((bytes[at] | 0x20) != (uint8_t)lower[at])
            return 0;
    return 1;
}

#endif
