# SHA-256 (FIPS 180-4), for the few bytes of a password: a build without OpenSSL has none. Pure.

from libc.stdint cimport uint8_t


cdef enum:
    SHA256_SIZE = 32

cdef void sha256(const uint8_t *bytes, size_t size, uint8_t *digest) noexcept nogil
