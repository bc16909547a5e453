# See flood.pxd.

from libc.stdint cimport uint64_t
from libc.string cimport memcpy

from proxy_engine_core.options cimport Options
from proxy_engine_core.yamux.session cimport YamuxSession


cdef int flood_look(
    Flood *flood, const YamuxSession *session, uint64_t pings, uint64_t records, uint64_t now_ms,
    const Options *options
) noexcept nogil:
    cdef uint64_t[FLOOD_KIND_COUNT] so_far
    cdef uint64_t[FLOOD_KIND_COUNT] most
    # A period ends with the first read after it, so it may be a long one.
    cdef uint64_t periods = 1 + (now_ms - flood.since_ms) // FLOOD_PERIOD_MS
    cdef int kind
    so_far[<int>FLOOD_PINGS] = pings
    so_far[<int>FLOOD_OPENS] = session.opens_received
    so_far[<int>FLOOD_RESETS] = session.resets_received
    so_far[<int>FLOOD_EMPTIES] = session.empty_frames
    so_far[<int>FLOOD_RECORDS] = records
    so_far[<int>FLOOD_SURPLUS] = session.surplus_bytes
    most[<int>FLOOD_PINGS] = options.link_pings_max
    most[<int>FLOOD_OPENS] = options.link_opens_max
    most[<int>FLOOD_RESETS] = options.link_resets_max
    most[<int>FLOOD_EMPTIES] = options.link_empty_frames_max
    most[<int>FLOOD_RECORDS] = options.link_records_max
    most[<int>FLOOD_SURPLUS] = options.link_surplus_max
    for kind in range(<int>FLOOD_KIND_COUNT):
        if so_far[kind] - flood.before[kind] > most[kind] * periods:
            return kind
    if periods > 1:
        flood.since_ms = now_ms
        memcpy(flood.before, so_far, sizeof(flood.before))
    return -1


cdef const char *flood_reason(int kind) noexcept nogil:
    if kind == FLOOD_PINGS:
        return b"ping_flood"
    if kind == FLOOD_OPENS:
        return b"open_flood"
    if kind == FLOOD_RESETS:
        return b"reset_flood"
    if kind == FLOOD_EMPTIES:
        return b"frame_flood"
    if kind == FLOOD_RECORDS:
        return b"control_flood"
    return b"data_flood"
