# What a device may send of frames that cost us work and carry nothing: per link, in a
# second. Beyond it the link ends with GoAway(1); each kind has its counter.
#
#   pings      each costs a pong
#   opens      SYN frames; a device has nothing to open but its control stream
#   resets     RST frames: streams opened again and again for a target that resets them
#   empties    frames without payload: window updates of a byte, FIN, ACK, ...
#   records    on the control stream: each is an event for the control plane
#   surplus    payload for streams that are not there. Of a stream we reset, the peer may
#              still send what its window allows; the session keeps that account, and only
#              what nobody was granted counts here
#
# Counted by the session and the link as they read, looked at once per read. Pure.

from libc.stdint cimport uint64_t

from proxy_engine_core.options cimport Options
from proxy_engine_core.yamux.session cimport YamuxSession


cdef enum:
    FLOOD_PERIOD_MS = 1000

cdef enum FloodKind:
    FLOOD_PINGS = 0
    FLOOD_OPENS
    FLOOD_RESETS
    FLOOD_EMPTIES
    FLOOD_RECORDS
    FLOOD_SURPLUS
    FLOOD_KIND_COUNT

cdef struct Flood:
    uint64_t since_ms                     # begin of this period
    uint64_t before[FLOOD_KIND_COUNT]     # what had been counted by then

# The kind that is over its limit, or -1. `pings` and `records` are totals of the link.
cdef int flood_look(
    Flood *flood, const YamuxSession *session, uint64_t pings, uint64_t records, uint64_t now_ms,
    const Options *options
) noexcept nogil
cdef const char *flood_reason(int kind) noexcept nogil                 # docs/errors.md
