# See link_gauges.pxd.

from libc.stdint cimport uint32_t, uint64_t

from proxy_engine_core.atomic cimport counter_add_release, gauge_set
from proxy_engine_core.forward.transaction cimport LinksSeen, server_of
from proxy_engine_core.io.worker cimport CONN_LINK, Worker
from proxy_engine_core.link.link cimport Link, link_host
from proxy_engine_core.link.output cimport link_waiting_size


cdef void look_at_links(Worker *worker) noexcept nogil:
    cdef LinksSeen *seen = &server_of(worker).links_seen
    cdef uint64_t streams = 0, waiting = 0, queued = 0, longest_us = 0
    cdef uint32_t slot
    cdef Link *link
    for slot in range(worker.slot_count):
        if worker.conns[slot] == NULL or worker.conns[slot].kind != CONN_LINK:
            continue
        link = <Link *>worker.conns[slot]
        streams += link.session.stream_count
        waiting += link.opening_count
        queued += link_waiting_size(link)
        longest_us = max(longest_us, link.round_trip.us)
    gauge_set(&seen.streams, streams)
    gauge_set(&seen.streams_waiting, waiting)
    gauge_set(&seen.queue_bytes, queued)
    gauge_set(&seen.round_trip_us_max, longest_us)
    gauge_set(&seen.window_extra_bytes, link_host(worker).windows.extra)
    gauge_set(&seen.windows_grown, link_host(worker).windows.grown)
    gauge_set(&seen.window_withheld_bytes, link_host(worker).windows.withheld)
    counter_add_release(&seen.looks, 1)
