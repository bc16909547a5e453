# Answers in parts. A peer that writes a head and then a body, both small and without
# TCP_NODELAY, holds the body back until the head is acknowledged (Nagle), and our kernel, whose
# last act was to send a request, delays that for 40 ms in the hope of the next one. Nothing is
# done about it until a connection has stalled like that: then the first part of each answer is
# acknowledged at once, a system call each, for as long as answers come in parts. All others pay
# a look at the clock that is read anyway.

from libc.stdint cimport uint8_t, uint64_t

from proxy_engine_core.counters cimport COUNT_PROMPT_ACKS, count
from proxy_engine_core.io.socket cimport socket_acknowledge
from proxy_engine_core.io.worker cimport Conn


cdef enum:
    # Between two parts: the least delay of Linux, less what a turn may be late by; and the
    # most, 200 ms to a peer that is as far away, and the way.
    ACKS_STALL_MS_MIN = 30
    ACKS_STALL_MS_MAX = 250
    ACKS_TRUST = 16                       # answers in one part until a stall is forgotten

cdef struct Acks:                         # of a connection; zeroed: it has not stalled
    uint64_t read_ms                      # when something was read last
    bint is_asked                         # it was written to since
    uint8_t trust

cdef inline void acks_wrote(Acks *acks) noexcept nogil:
    acks.is_asked = True

cdef inline void acks_read(Acks *acks, Conn *conn) noexcept nogil:
    # After each read.
    cdef uint64_t now_ms = conn.worker.now_ms
    if acks.is_asked:
        acks.is_asked = False
        if acks.trust:
            acks.trust -= 1
            socket_acknowledge(conn.fd)
            count(conn.worker.counters, COUNT_PROMPT_ACKS, 1)
    elif acks.trust or ACKS_STALL_MS_MIN <= now_ms - acks.read_ms <= ACKS_STALL_MS_MAX:
        acks.trust = ACKS_TRUST
    acks.read_ms = now_ms
