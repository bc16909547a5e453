# Names of the counters, as Engine.stats() shows them: in the order of counters.pxd.

cdef tuple NAMES = (
    "turns",
    "accepted",
    "accept_errors",
    "connections_closed",
    "requests",
    "responses",
    "responses_local",
    "requests_aborted",
    "requests_retried",
    "requests_queued",
    "bad_requests",
    "bad_responses",
    "timeouts",
    "tunnels",
    "streams_opened",
    "streams_reused",
    "streams_refused",
    "stream_surplus",
    "idle_streams_closed",
    "idle_streams_lost",
    "links_opened",
    "links_closed",
    "link_protocol_errors",
    "link_unknown_stream_frames",
    "link_bytes_in",
    "link_bytes_out",
    "link_flushes",
    "pings_sent",
    "auth_asked",
    "auth_refused",
    "control_records",
    "targets_connected",
    "targets_failed",
    "log_records",
    "log_dropped",
    "visitor_bytes_in",
    "visitor_bytes_out",
    "memory_errors",
    "visitors_moved_out",
    "visitors_moved_in",
    "visitor_moves_exhausted",
    "links_moved",
)
if len(NAMES) != COUNTER_COUNT:
    raise ImportError("counters.pyx and counters.pxd disagree")


cdef str counter_name(int which):
    return NAMES[which]
