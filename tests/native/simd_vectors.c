/* The byte work of simd.h and http1/scan.h against the plain way of doing it, for a machine
 * that Python is not built for: tests/unit/test_arm64.py cross-compiles it and runs it under
 * an emulator. Every size and alignment around the vector widths; blocks end where their
 * bytes end, so that a sanitizer or valgrind sees one byte too many.
 */
#include <stdio.h>
#include <stdlib.h>

#include "http1/scan.h"
#include "simd.h"

enum { SIZE_MAX_TRIED = 300, ALIGNMENTS = 17 };

#define REQUIRE(condition)                                                       \
    do {                                                                         \
        if (!(condition)) {                                                      \
            fprintf(stderr, "%s:%d: %s (size %zu, at %zu)\n", __FILE__, __LINE__, \
                    #condition, size, at);                                       \
            exit(1);                                                             \
        }                                                                        \
    } while (0)

static uint32_t random_state = 6455;

static uint8_t random_byte(void) {
    random_state = random_state * 1664525 + 1013904223;
    return (uint8_t)(random_state >> 24);
}

/* A block of its own for each size: `at` bytes, then `size` bytes, then nothing. */
static uint8_t *block_of(size_t at, size_t size) {
    uint8_t *block = malloc(at + size + (at + size == 0));
    if (block == NULL) exit(2);
    for (size_t index = 0; index < at + size; index++) block[index] = random_byte();
    return block;
}

static void check_masking(size_t at, size_t size) {
    uint8_t key[4] = {0x37, 0xfa, 0x21, 0x3d};
    for (uint32_t phase = 0; phase < 4; phase++) {
        for (int wide = 0; wide <= simd_has_avx2(); wide++) {
            uint8_t *block = block_of(at, size), *expected = malloc(at + size + 1);
            for (size_t index = 0; index < at + size; index++)
                expected[index] =
                    index < at ? block[index] : block[index] ^ key[(phase + index - at) & 3];
            uint32_t next = simd_mask_with(wide, block + at, size, key, phase);
            REQUIRE(next == ((phase + size) & 3));
            REQUIRE(memcmp(block, expected, at + size) == 0);
            free(block);
            free(expected);
        }
    }
}

/* RFC 3629 as its table says it: the length of the character at the front, 0: none. */
static size_t character(const uint8_t *bytes, size_t size) {
    static const struct { uint8_t first, last, low, high, size; } rows[] = {
        {0x00, 0x7f, 0, 0, 1},       {0xc2, 0xdf, 0x80, 0xbf, 2}, {0xe0, 0xe0, 0xa0, 0xbf, 3},
        {0xe1, 0xec, 0x80, 0xbf, 3}, {0xed, 0xed, 0x80, 0x9f, 3}, {0xee, 0xef, 0x80, 0xbf, 3},
        {0xf0, 0xf0, 0x90, 0xbf, 4}, {0xf1, 0xf3, 0x80, 0xbf, 4}, {0xf4, 0xf4, 0x80, 0x8f, 4},
    };
    for (size_t row = 0; row < sizeof rows / sizeof *rows; row++) {
        if (bytes[0] < rows[row].first || bytes[0] > rows[row].last) continue;
        if (rows[row].size > size) return 0;
        if (rows[row].size > 1 && (bytes[1] < rows[row].low || bytes[1] > rows[row].high)) return 0;
        for (size_t index = 2; index < rows[row].size; index++)
            if ((bytes[index] & 0xc0) != 0x80) return 0;
        return rows[row].size;
    }
    return 0;
}

static int is_utf8(const uint8_t *bytes, size_t size) {
    while (size > 0) {
        size_t length = character(bytes, size);
        if (length == 0) return 0;
        bytes += length;
        size -= length;
    }
    return 1;
}

static void check_utf8_of(const uint8_t *bytes, size_t at, size_t size) {
    int expected = is_utf8(bytes, size);
    for (size_t split = 0; split <= size; split += 1 + size / 7) {
        uint32_t state = 0;
        int valid = simd_utf8(&state, bytes, split)
            && simd_utf8(&state, bytes + split, size - split) && state == 0;
        REQUIRE(valid == expected);
    }
}

static void check_utf8(size_t at, size_t size) {
    static const char *const characters[] = {"a", "z", "\xc3\xbc", "\xe6\x9d\xb1",
                                             "\xf0\x9f\x98\x80", "~"};
    static const char *const wrong[] = {"\x80", "\xc0\x80", "\xe0\x9f\xbf", "\xed\xa0\x80",
                                        "\xf4\x90\x80\x80", "\xff", "\xf0\x8f\xbf\xbf", "\xe2\x82"};
    uint8_t *block = block_of(at, size);
    /* Valid text, by turns all ASCII and mixed, cut where the block ends. */
    for (int round = 0; round < 4; round++) {
        size_t end = at;
        while (end < at + size) {
            const char *text = characters[round == 0 ? 0 : random_byte() % 6];
            size_t length = strlen(text);
            if (length > at + size - end) length = at + size - end;
            memcpy(block + end, text, length);
            end += length;
        }
        check_utf8_of(block + at, at, size);
        for (size_t row = 0; row < sizeof wrong / sizeof *wrong; row++) {
            size_t length = strlen(wrong[row]);
            uint8_t kept[8];
            if (length > size) continue;
            uint8_t *place = block + at + random_byte() % (size - length + 1);
            memcpy(kept, place, length);
            memcpy(place, wrong[row], length);
            check_utf8_of(block + at, at, size);
            memcpy(place, kept, length);
        }
    }
    free(block);
}

static void check_scans(size_t at, size_t size) {
    uint8_t *block = block_of(at, size), *from = block + at, *end = from + size;
    for (int round = 0; round < 8; round++) {
        /* Text of the class, with a foreign byte now and then. */
        for (uint8_t *byte = from; byte < end; byte++) *byte = 'a' + random_byte() % 26;
        for (int foreign = 0; size != 0 && foreign < round % 4; foreign++)
            from[random_byte() % size] = random_byte();
        REQUIRE(scan_text(from, end) == scan_class(from, end, CHAR_TEXT));
        REQUIRE(scan_target(from, end) == scan_class(from, end, CHAR_TARGET));
        for (int line = 0; size >= 4 && line < round; line++) {
            static const char *const ends[] = {"\r\n\r\n", "\n\n\n\n", "\r\n\rx", "x\n\r\n"};
            memcpy(from + random_byte() % (size - 3), ends[random_byte() % 4], 4);
        }
        REQUIRE(scan_head_end(from, end) == scan_head_end_portable(from, end));
    }
    free(block);
}

int main(void) {
    for (size_t size = 0; size <= SIZE_MAX_TRIED; size++) {
        for (size_t at = 0; at < ALIGNMENTS; at += 1 + size / 64) {
            check_masking(at, size);
            check_utf8(at, size);
            check_scans(at, size);
        }
    }
#if defined(__aarch64__)
    puts("aarch64: masking, UTF-8 and scans agree with the plain way");
#else
    puts("this machine: masking, UTF-8 and scans agree with the plain way");
#endif
    return 0;
}
