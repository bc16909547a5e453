# See sha256.pxd. Words are named as in FIPS 180-4, section 6.2.

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from proxy_engine_core.wire cimport load_be32, store_be32, store_be64

cdef enum:
    BLOCK_SIZE = 64
    LENGTH_SIZE = 8                       # of the message, at the end of the last block

# The first 32 bits of the fractional parts of the cube roots of the first 64 primes.
cdef const uint32_t *K = [
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
]
# ... of the square roots of the first eight.
cdef const uint32_t *START = [
    0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
]


cdef inline uint32_t rotated(uint32_t word, int bits) noexcept nogil:
    return word >> bits | word << (32 - bits)


cdef void add_block(uint32_t *hash, const uint8_t *block) noexcept nogil:
    cdef uint32_t w[64]
    cdef uint32_t v[8]
    cdef uint32_t t1, t2
    cdef int t
    for t in range(16):
        w[t] = load_be32(block + 4 * t)
    for t in range(16, 64):
        w[t] = (
            (rotated(w[t - 2], 17) ^ rotated(w[t - 2], 19) ^ w[t - 2] >> 10) + w[t - 7]
            + (rotated(w[t - 15], 7) ^ rotated(w[t - 15], 18) ^ w[t - 15] >> 3) + w[t - 16]
        )
    memcpy(v, hash, sizeof(v))
    for t in range(64):
        t1 = (
            v[7] + (rotated(v[4], 6) ^ rotated(v[4], 11) ^ rotated(v[4], 25))
            + (v[4] & v[5] ^ ~v[4] & v[6]) + K[t] + w[t]
        )
        t2 = (rotated(v[0], 2) ^ rotated(v[0], 13) ^ rotated(v[0], 22)) + (
            v[0] & v[1] ^ v[0] & v[2] ^ v[1] & v[2]
        )
        v[7] = v[6]
        v[6] = v[5]
        v[5] = v[4]
        v[4] = v[3] + t1
        v[3] = v[2]
        v[2] = v[1]
        v[1] = v[0]
        v[0] = t1 + t2
    for t in range(8):
        hash[t] += v[t]


cdef void sha256(const uint8_t *bytes, size_t size, uint8_t *digest) noexcept nogil:
    cdef uint32_t hash[8]
    cdef uint8_t last[2 * BLOCK_SIZE]     # what is left of the message, and the padding
    cdef size_t left = size % BLOCK_SIZE
    cdef size_t last_size = BLOCK_SIZE if left + 1 + LENGTH_SIZE <= BLOCK_SIZE else 2 * BLOCK_SIZE
    cdef size_t at = 0
    cdef int index
    memcpy(hash, START, sizeof(hash))
    while at + BLOCK_SIZE <= size:
        add_block(hash, bytes + at)
        at += BLOCK_SIZE
    memset(last, 0, sizeof(last))
    memcpy(last, bytes + at, left)
    last[left] = 0x80
    store_be64(last + last_size - LENGTH_SIZE, <uint64_t>size * 8)
    at = 0
    while at < last_size:
        add_block(hash, last + at)
        at += BLOCK_SIZE
    for index in range(8):
        store_be32(digest + 4 * index, hash[index])
