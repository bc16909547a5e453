# Every limit and timeout of the engine, set once before start: what it means is said here,
# its default and range in the table of options.pyx.

from libc.stdint cimport uint64_t


cdef struct Options:
    uint64_t head_timeout_ms          # first byte of a request to the end of its head
    uint64_t keepalive_timeout_ms     # idle visitor connection between requests
    uint64_t open_timeout_ms          # waiting for a stream, or for the device's ACK -> 504
    uint64_t open_queue_max           # visitors waiting for a stream of one link; more -> 503
    uint64_t response_timeout_ms      # request sent to response head -> 504
    uint64_t body_timeout_ms          # no byte of a body either way
    uint64_t tunnel_timeout_ms        # no byte either way after 101
    uint64_t linger_timeout_ms        # reading off what a refused visitor still sends
    uint64_t auth_timeout_ms          # for the control plane to answer EVENT_AUTH
    uint64_t target_timeout_ms        # agent: connect to a target
    uint64_t pool_idle_ms             # an idle HTTP stream is reused this long, to begin with
    uint64_t pool_idle_max_ms         # ... and at most, where the target keeps it longer
    uint64_t pool_streams_max         # idle HTTP streams a tunnel of a link
    uint64_t ping_interval_ms         # ping a link after this much silence
    uint64_t link_stall_ms            # a link whose writes make no progress is dropped
    # What visitors may take their time for, and how much they may ask for: forward/.
    uint64_t reader_timeout_ms        # output waits and the visitor takes no byte of it
    uint64_t upload_rate_min          # bytes/s of a request body before its response; 0: any -> 408
    uint64_t download_rate_min        # bytes/s a visitor takes while output waits; 0: any
    uint64_t rate_grace_ms            # before either rate counts
    uint64_t head_size_max            # bytes of a request head -> 431
    uint64_t head_fields_max          # fields of a request head -> 431
    uint64_t request_line_size_max    # bytes of a request line -> 414
    uint64_t connection_requests_max  # requests on one connection; 0: no limit
    uint64_t abort_on_half_close      # a visitor that finished writing wants no answer
    uint64_t address_connections_max  # open at once per visitor address; 0: no limit
    uint64_t address_connection_rate  # new ones per second and address; 0: no limit
    uint64_t address_request_rate     # requests per second and address; 0 -> 429
    uint64_t device_request_rate      # requests per second and link; 0 -> 429
    uint64_t device_requests_max      # requests at once per link; 0: no limit -> 503
    uint64_t rate_burst_ms            # worth of tokens a rate limit saves up
    uint64_t bandwidth_burst_ms       # ... and a limit of bandwidth
    uint64_t address_table_size       # addresses a worker remembers
    uint64_t direct_ticket_ms         # a device's time to make a direct connection it was asked for
    uint64_t direct_shrink_ms         # idle direct connections that none needed: a quarter go
    uint64_t udp_timeout_ms           # a UDP visitor that has sent several datagrams is silent
    uint64_t udp_brief_timeout_ms     # ... one that has sent a single one
    uint64_t udp_tunnel_visitors_max  # addresses at once, of one UDP tunnel
    uint64_t udp_visitors_max         # ... of all, in all workers
    uint64_t tcp_keepalive_ms         # silent visitors and targets are asked if they are there
    uint64_t tcp_proxy_protocol       # trusted proxies begin TCP connections with its header
    uint64_t link_pings_max           # of a device's link in a second: pings
    uint64_t link_opens_max           # ... streams it tries to open
    uint64_t link_resets_max          # ... streams it resets
    uint64_t link_empty_frames_max    # ... frames without payload
    uint64_t link_records_max         # ... control records
    uint64_t link_surplus_max         # ... bytes for streams that are not there
    uint64_t trace_mode               # forward/trace.pxd, TraceMode
    uint64_t trace_sampled            # of 1000 traces that begin here, those with the sampled flag
    uint64_t body_size_max            # bytes of a request body; 0: no limit -> 413
    uint64_t log_ring_size            # bytes of a worker's log ring; a power of two
    uint64_t slow_turn_ms             # a worker's turn that is told of; 0: none
    uint64_t backlog                  # listen(2)
    uint64_t window_start             # credit a new stream to a peer of ours starts with
    uint64_t window_stream_max        # largest window of one stream
    uint64_t window_link_max          # credit beyond 256 KiB a stream, of one link
    uint64_t window_worker_max        # ... of all links of a worker
    uint64_t memory_max               # bytes of a worker's buffers; 0: by the machine's memory
    uint64_t files_reserve            # file descriptors that connections leave to others
    uint64_t link_streams_max         # streams opened on a link before it is replaced
    uint64_t tls_handshake_timeout_ms  # from the connection to the end of its TLS handshake
    uint64_t tls_handshakes_max       # handshakes of accepted connections under way at a time

# What was given, by name, and the defaults. Raises TypeError for an unknown name or a
# non-integer, ValueError out of range.
cdef int options_read(Options *options, dict given) except -1
cdef int options_fit_memory(Options *options, int workers) except -1     # memory_max, if it is 0
