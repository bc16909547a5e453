/* Byte work that is worth vectors: XOR masking and UTF-8 checking.
 *
 * The vectors are the compiler's own (vector_size), not intrinsics: 16 bytes are
 * SSE2 on x86-64, NEON on aarch64 and plain words elsewhere, from one source. Only
 * the 32-byte kernel needs asking: it is compiled for AVX2 by a function attribute
 * and chosen at run time, so the wheel runs on every machine and needs no -march.
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

/* 1: valid so far, *state updated (0 when the text may end here); 0: invalid. */
static inline int simd_utf8(uint32_t *state, const uint8_t *bytes, size_t size)
{
    const uint8_t *end = bytes + size;
    uint32_t expect = *state;
    while (bytes < end) {
        if (expect == 0) {
            bytes += simd_ascii_blocks(bytes, (size_t)(end - bytes));
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
