# What scan.h offers; see there.

from libc.stdint cimport uint8_t, uint32_t


cdef extern from "http1/scan.h" nogil:
    enum:
        CHAR_TOKEN
        CHAR_NAME
        CHAR_TEXT
        CHAR_TARGET
        CHAR_HOST
        CHAR_ADDRESS
        CHAR_REQUEST_ID
    const uint8_t char_classes[256]
    const uint8_t *scan_class(const uint8_t *start, const uint8_t *end, uint8_t kind) noexcept
    const uint8_t *scan_name(const uint8_t *start, const uint8_t *end) noexcept
    const uint8_t *scan_text(const uint8_t *start, const uint8_t *end) noexcept
    const uint8_t *scan_target(const uint8_t *start, const uint8_t *end) noexcept
    const uint8_t *scan_head_end(const uint8_t *start, const uint8_t *end) noexcept
    const uint8_t *scan_head_end_portable(const uint8_t *start, const uint8_t *end) noexcept
    bint equals_lower(const uint8_t *bytes, const char *lower, uint32_t size) noexcept
