/* Byte work that is worth vectors: XOR masking and UTF-8 checking.
 *
 * The vectors are the compiler's own (vector_size), not intrinsics: 16 bytes are
 * SSE2 on x86-64, NEON on aarch64 and plain words elsewhere, from one source
 * (tests/native/simd_vectors.c runs it on arm64). Only two kernels need asking, 32-byte
 * masking and UTF-8 that is not ASCII: they are compiled for AVX2 by a function
 * attribute and chosen at run time, so the wheel runs on every machine without -march.
 *
 * Nothing here reads or writes outside [bytes, bytes + size), whatever the
 * alignment: loads and stores are memcpy, and ends that do not fill a vector are
 * done with an overlapping one, never with a longer one. */
#ifndef PROXY_ENGINE_SIMD_H
#define PROXY_ENGINE_SIMD_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef uint32_t simd_v16 __attribute__((vector_size(16)));

#if defined(__x86_64__)
#define SIMD_HAS_AVX2_KERNEL 1
typedef uint32_t simd_v32 __attribute__((vector_size(32)));
#else
#define SIMD_HAS_AVX2_KERNEL 0
#endif

/* ---- Masking -------------------------------------------------------------
 *
 * A key travels as a word whose bytes in memory are the next four key bytes. */

static inline uint32_t simd_key_rotate(uint32_t word, size_t count)
{
    unsigned bits = 8 * (unsigned)(count & 3);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    return word << bits | word >> (-bits & 31);
#else
    return word >> bits | word << (-bits & 31);
#endif
}

/* Fewer than 16 bytes: two words that may overlap, both loaded before either is
 * stored, since masking a byte twice would undo it. */
static inline void simd_mask_short(uint8_t *bytes, size_t size, uint32_t word)
{
    if (size >= 8) {
        uint32_t last_word = simd_key_rotate(word, size);
        uint64_t first, last;
        memcpy(&first, bytes, 8);
        memcpy(&last, bytes + size - 8, 8);
        first ^= (uint64_t)word << 32 | word;
        last ^= (uint64_t)last_word << 32 | last_word;
        memcpy(bytes, &first, 8);
        memcpy(bytes + size - 8, &last, 8);
    } else if (size >= 4) {
        uint32_t first, last;
        memcpy(&first, bytes, 4);
        memcpy(&last, bytes + size - 4, 4);
        first ^= word;
        last ^= simd_key_rotate(word, size);
        memcpy(bytes, &first, 4);
        memcpy(bytes + size - 4, &last, 4);
    } else {
        uint8_t key[4];
        memcpy(key, &word, 4);
        for (size_t i = 0; i < size; i++)
            bytes[i] ^= key[i];
    }
}

/* A kernel for size >= sizeof(VECTOR). The last vector is loaded first and stored
 * last; where it overlaps the loop's last store it holds the same bytes. A macro,
 * because gcc splits wide vectors before it inlines: a shared inline function
 * would be compiled without AVX2. */
#define SIMD_DEFINE_MASK(NAME, VECTOR, ATTRIBUTE)                               \
    ATTRIBUTE static void NAME(uint8_t *bytes, size_t size, uint32_t word)      \
    {                                                                           \
        const size_t width = sizeof(VECTOR);                                    \
        uint8_t *last_bytes = bytes + size - width;                             \
        VECTOR key = (VECTOR){0} ^ word;                                        \
        VECTOR last, a, b, c, d;                                                \
        memcpy(&last, last_bytes, width);                                       \
        last ^= simd_key_rotate(word, size);                                    \
        while ((size_t)(last_bytes - bytes) >= 4 * width) {                     \
            memcpy(&a, bytes, width);                                           \
            memcpy(&b, bytes + width, width);                                   \
            memcpy(&c, bytes + 2 * width, width);                               \
            memcpy(&d, bytes + 3 * width, width);                               \
            a ^= key;                                                           \
            b ^= key;                                                           \
            c ^= key;                                                           \
            d ^= key;                                                           \
            memcpy(bytes, &a, width);                                           \
            memcpy(bytes + width, &b, width);                                   \
            memcpy(bytes + 2 * width, &c, width);                               \
            memcpy(bytes + 3 * width, &d, width);                               \
            bytes += 4 * width;                                                 \
        }                                                                       \
        while (bytes < last_bytes) {                                            \
            memcpy(&a, bytes, width);                                           \
            a ^= key;                                                           \
            memcpy(bytes, &a, width);                                           \
            bytes += width;                                                     \
        }                                                                       \
        memcpy(last_bytes, &last, width);                                       \
    }

SIMD_DEFINE_MASK(simd_mask_v16, simd_v16, )
#if SIMD_HAS_AVX2_KERNEL
SIMD_DEFINE_MASK(simd_mask_v32, simd_v32, __attribute__((target("avx2"))))
#endif

static inline int simd_has_avx2(void)
{
#if SIMD_HAS_AVX2_KERNEL
    return __builtin_cpu_supports("avx2") != 0; /* one load: libgcc asks cpuid at start */
#else
    return 0;
#endif
}

/* XOR in place with key[phase], key[phase + 1], ...; returns the next phase.
 * `wide` is simd_has_avx2(), or 0 to measure and test the 16-byte kernel. */
static inline uint32_t simd_mask_with(
    int wide, uint8_t *bytes, size_t size, const uint8_t *key, uint32_t phase)
{
    uint32_t word;
    memcpy(&word, key, 4);
    word = simd_key_rotate(word, phase);
#if SIMD_HAS_AVX2_KERNEL
    if (wide && size >= sizeof(simd_v32))
        simd_mask_v32(bytes, size, word);
    else
#else
    (void)wide;
#endif
    if (size >= sizeof(simd_v16))
        simd_mask_v16(bytes, size, word);
    else
        simd_mask_short(bytes, size, word);
    return (phase + (uint32_t)size) & 3;
}

static inline uint32_t simd_mask(
    uint8_t *bytes, size_t size, const uint8_t *key, uint32_t phase)
{
    return simd_mask_with(simd_has_avx2(), bytes, size, key, phase);
}

/* ---- UTF-8 ---------------------------------------------------------------
 *
 * RFC 3629, as a state carried across fragments: 0 between characters, else the
 * continuation bytes still to come and the range the next one must be in. The
 * range is what refuses overlong forms (E0, F0), surrogates (ED) and code points
 * above U+10FFFF (F4) at their second byte, so a bad text fails at the first byte
 * that no text could go on with. */

#define SIMD_UTF8_EXPECT(count, low, high)                                      \
    ((uint32_t)(count) | (uint32_t)(low) << 8 | (uint32_t)(high) << 16)

/* The state after a first byte >= 0x80; 0 if no character starts with it. */
static inline uint32_t simd_utf8_start(uint8_t byte)
{
    if (byte < 0xC2)
        return 0; /* a stray continuation, or overlong */
    if (byte < 0xE0)
        return SIMD_UTF8_EXPECT(1, 0x80, 0xBF);
    if (byte < 0xF0)
        return SIMD_UTF8_EXPECT(2, byte == 0xE0 ? 0xA0 : 0x80, byte == 0xED ? 0x9F : 0xBF);
    if (byte < 0xF5)
        return SIMD_UTF8_EXPECT(3, byte == 0xF0 ? 0x90 : 0x80, byte == 0xF4 ? 0x8F : 0xBF);
    return 0;
}

/* Bytes of pure ASCII at the front, in whole blocks of 32. */
static inline size_t simd_ascii_blocks(const uint8_t *bytes, size_t size)
{
    size_t done = 0;
    while (size - done >= 32) {
        simd_v16 a, b;
        uint64_t halves[2];
        memcpy(&a, bytes + done, 16);
        memcpy(&b, bytes + done + 16, 16);
        a |= b;
        memcpy(halves, &a, 16);
        if ((halves[0] | halves[1]) & 0x8080808080808080u)
            break;
        done += 32;
    }
    return done;
}

/* Text that is not ASCII, by vectors of 16: every pair of neighbours is classified by three
 * table lookups of four bits each (the first byte's halves, the second's upper half), whose
 * AND says what is wrong with the pair; that a byte is a second continuation is no fault
 * exactly where the byte two before starts three bytes or the one three before four (Keiser
 * and Lemire, "Validating UTF-8 in less than one instruction per byte"). Looking up needs
 * a byte shuffle: part of NEON, on x86-64 it comes with the AVX2 that we ask for anyway. */
#if SIMD_HAS_AVX2_KERNEL || defined(__aarch64__)
#define SIMD_HAS_UTF8_KERNEL 1

typedef uint8_t simd_b16 __attribute__((vector_size(16)));

enum {
    UTF8_SHORT = 1,        /* a continuation is missing */
    UTF8_LONG = 2,         /* one too many */
    UTF8_OVERLONG_3 = 4,   /* E0 80..9F */
    UTF8_LARGE = 8,        /* F4 90..BF, F5.. */
    UTF8_SURROGATE = 16,   /* ED A0..BF */
    UTF8_OVERLONG_2 = 32,  /* C0, C1 */
    UTF8_OVERLONG_4 = 64,  /* F0 80..8F, and F5.. 80..8F */
    UTF8_SECOND = 128,     /* a continuation behind a continuation */
    UTF8_ANY = UTF8_SHORT | UTF8_LONG | UTF8_SECOND,
    UTF8_F5 = UTF8_ANY | UTF8_LARGE | UTF8_OVERLONG_4
};

/* Bytes of a vector, or of two, by index. clang, which builds us for libFuzzer, has gcc's
 * builtin for constant indices only. */
#if defined(__clang__)
static inline simd_b16 simd_shuffle2(simd_b16 first, simd_b16 second, simd_b16 indices)
{
    simd_b16 found;
    for (int at = 0; at < 16; at++)
        found[at] = indices[at] & 16 ? second[indices[at] & 15] : first[indices[at] & 15];
    return found;
}
#define simd_shuffle(table, indices) simd_shuffle2(table, table, (indices) & 15)
#else
#define simd_shuffle __builtin_shuffle
#define simd_shuffle2 __builtin_shuffle
#endif

/* Bytes used, a whole number of characters, while there are 32 more and not all ASCII; ends
 * at the first vector with a fault: *is_valid = 0. The text begins with a character. */
#if SIMD_HAS_AVX2_KERNEL
__attribute__((target("avx2")))
#endif
static size_t simd_utf8_blocks(const uint8_t *bytes, size_t size, int *is_valid)
{
    static const simd_b16 first_high = {
        UTF8_LONG, UTF8_LONG, UTF8_LONG, UTF8_LONG, UTF8_LONG, UTF8_LONG, UTF8_LONG, UTF8_LONG,
        UTF8_SECOND, UTF8_SECOND, UTF8_SECOND, UTF8_SECOND, UTF8_SHORT | UTF8_OVERLONG_2,
        UTF8_SHORT, UTF8_SHORT | UTF8_OVERLONG_3 | UTF8_SURROGATE,
        UTF8_SHORT | UTF8_LARGE | UTF8_OVERLONG_4,
    };
    static const simd_b16 first_low = {
        UTF8_ANY | UTF8_OVERLONG_2 | UTF8_OVERLONG_3 | UTF8_OVERLONG_4,
        UTF8_ANY | UTF8_OVERLONG_2, UTF8_ANY, UTF8_ANY, UTF8_ANY | UTF8_LARGE, UTF8_F5, UTF8_F5,
        UTF8_F5, UTF8_F5, UTF8_F5, UTF8_F5, UTF8_F5, UTF8_F5, UTF8_F5 | UTF8_SURROGATE, UTF8_F5,
        UTF8_F5,
    };
    enum { CONTINUATION = UTF8_LONG | UTF8_OVERLONG_2 | UTF8_SECOND };
    static const simd_b16 second_high = {
        UTF8_SHORT, UTF8_SHORT, UTF8_SHORT, UTF8_SHORT, UTF8_SHORT, UTF8_SHORT, UTF8_SHORT,
        UTF8_SHORT, CONTINUATION | UTF8_OVERLONG_3 | UTF8_OVERLONG_4,
        CONTINUATION | UTF8_OVERLONG_3 | UTF8_LARGE, CONTINUATION | UTF8_SURROGATE | UTF8_LARGE,
        CONTINUATION | UTF8_SURROGATE | UTF8_LARGE, UTF8_SHORT, UTF8_SHORT, UTF8_SHORT,
        UTF8_SHORT,
    };
    static const simd_b16 back_1 = {15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30};
    static const simd_b16 back_2 = {14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29};
    static const simd_b16 back_3 = {13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28};
    simd_b16 before = {0};
    size_t done = 0, rest = 1;
    while (size - done >= 32 && simd_ascii_blocks(bytes + done, 32) == 0) {
        for (int half = 0; half < 2; half++) {
            simd_b16 now, one, two, three, found, second, fault;
            uint64_t words[2];
            memcpy(&now, bytes + done, 16);
            one = simd_shuffle2(before, now, back_1);
            two = simd_shuffle2(before, now, back_2);
            three = simd_shuffle2(before, now, back_3);
            found = simd_shuffle(first_high, one >> 4)
                & simd_shuffle(first_low, one & 15)
                & simd_shuffle(second_high, now >> 4);
            second = ((simd_b16)(two >= 0xE0) | (simd_b16)(three >= 0xF0)) & UTF8_SECOND;
            fault = found ^ second;
            memcpy(words, &fault, 16);
            if (words[0] | words[1]) {
                *is_valid = 0;
                return done;
            }
            before = now;
            done += 16;
        }
    }
    /* A character that goes on behind the last vector is left to whoever comes next. */
    for (; done != 0 && rest <= 3; rest++) {
        uint8_t byte = bytes[done - rest];
        if (byte >= 0xC0)
            return byte >= (rest == 1 ? 0xC0 : rest == 2 ? 0xE0 : 0xF0) ? done - rest : done;
        if (byte < 0x80)
            break;
    }
    return done;
}
#else
#define SIMD_HAS_UTF8_KERNEL 0
#endif

/* 1: valid so far, *state updated (0 when the text may end here); 0: invalid. */
static inline int simd_utf8(uint32_t *state, const uint8_t *bytes, size_t size)
{
    const uint8_t *end = bytes + size;
    uint32_t expect = *state;
#if SIMD_HAS_UTF8_KERNEL
    const int has_kernel = simd_has_avx2() || !SIMD_HAS_AVX2_KERNEL;
#endif
    while (bytes < end) {
        if (expect == 0) {
            bytes += simd_ascii_blocks(bytes, (size_t)(end - bytes));
#if SIMD_HAS_UTF8_KERNEL
            if (has_kernel && end - bytes >= 32) {
                int is_valid = 1;
                bytes += simd_utf8_blocks(bytes, (size_t)(end - bytes), &is_valid);
                if (!is_valid)
                    return 0;
            }
#endif
            while (bytes < end && *bytes < 0x80)
                bytes++;
            if (bytes == end)
                break;
            expect = simd_utf8_start(*bytes++);
            if (expect == 0)
                return 0;
        } else {
            uint32_t byte = *bytes++;
            if (byte < (expect >> 8 & 0xFF) || byte > expect >> 16)
                return 0;
            expect = (expect & 0xFF) == 1
                ? 0
                : SIMD_UTF8_EXPECT((expect & 0xFF) - 1, 0x80, 0xBF);
        }
    }
    *state = expect;
    return 1;
}

#endif
