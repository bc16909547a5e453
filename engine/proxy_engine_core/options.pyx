# The option table: name, default, smallest, largest. See options.pxd for meanings.

import os

from libc.stdint cimport uint64_t

cdef dict TABLE = {
    "head_timeout_ms": (10_000, 1, 3_600_000),
    "keepalive_timeout_ms": (60_000, 1, 3_600_000),
    "open_timeout_ms": (10_000, 1, 3_600_000),
    # 256 streams are opened in a round trip: at 150 ms these have theirs within the time above.
    "open_queue_max": (16_384, 0, 1 << 20),
    "response_timeout_ms": (60_000, 1, 86_400_000),
    "body_timeout_ms": (60_000, 1, 86_400_000),
    "tunnel_timeout_ms": (3_600_000, 1, 7 * 86_400_000),
    "linger_timeout_ms": (5_000, 1, 60_000),
    "auth_timeout_ms": (10_000, 1, 60_000),
    "target_timeout_ms": (5_000, 1, 60_000),
    # Popular servers close idle connections after 5 s; reusing one later loses races.
    "pool_idle_ms": (4_000, 0, 600_000),
    "pool_idle_max_ms": (60_000, 0, 600_000),
    "pool_streams_max": (1_024, 0, 65_000),
    "ping_interval_ms": (15_000, 50, 600_000),
    "link_stall_ms": (15_000, 50, 600_000),
    "reader_timeout_ms": (60_000, 1, 86_400_000),
    "upload_rate_min": (256, 0, 1 << 30),
    "download_rate_min": (0, 0, 1 << 30),
    "rate_grace_ms": (10_000, 0, 3_600_000),
    "head_size_max": (32_768, 256, 32_768),
    "head_fields_max": (128, 1, 128),
    "request_line_size_max": (8_192, 64, 8_192),
    "connection_requests_max": (0, 0, 2**32 - 1),
    "abort_on_half_close": (0, 0, 1),
    "address_connections_max": (0, 0, 1_048_576),
    "address_connection_rate": (0, 0, 1_000_000),
    "address_request_rate": (0, 0, 1_000_000),
    "device_request_rate": (0, 0, 1_000_000),
    "device_requests_max": (0, 0, 65_000),
    "rate_burst_ms": (2_000, 0, 3_600_000),
    # More than a busy worker is late: else a limit would be less than it says.
    "bandwidth_burst_ms": (250, 1, 3_600_000),
    "address_table_size": (65_536, 64, 4_194_304),
    "direct_ticket_ms": (10_000, 1, 60_000),
    "direct_shrink_ms": (30_000, 1, 3_600_000),
    # NAT routers forget silent connections after a few minutes, some cloud ones after one.
    "tcp_keepalive_ms": (30_000, 0, 7_200_000),
    "tcp_proxy_protocol": (0, 0, 1),
    # What a NAT has to keep at least (RFC 4787); less for those who ask once: a resolver's every
    # question comes from another port.
    "udp_timeout_ms": (120_000, 1, 7 * 86_400_000),
    "udp_brief_timeout_ms": (10_000, 1, 7 * 86_400_000),
    "udp_tunnel_visitors_max": (4_096, 1, 1 << 20),
    "udp_visitors_max": (16_384, 1, 1 << 20),
    "link_pings_max": (100, 1, 1 << 30),
    "link_opens_max": (2_000, 1, 1 << 30),
    "link_resets_max": (50_000, 1, 1 << 30),
    "link_empty_frames_max": (200_000, 1, 1 << 30),
    "link_records_max": (1_000, 1, 1 << 30),
    "link_surplus_max": (1 << 20, 0, 1 << 40),
    "trace_mode": (0, 0, 2),
    # Less would turn off what targets with the usual sampler record now.
    "trace_sampled": (1_000, 0, 1_000),
    "body_size_max": (0, 0, 2**62),
    "log_ring_size": (4 << 20, 64 << 10, 1 << 30),
    "slow_turn_ms": (0, 0, 3_600_000),
    "backlog": (4_096, 1, 65_535),
    "window_start": (1 << 20, 256 << 10, 1 << 30),
    "window_stream_max": (16 << 20, 256 << 10, 1 << 30),
    "window_link_max": (64 << 20, 0, 1 << 40),
    "window_worker_max": (256 << 20, 0, 1 << 40),
    "memory_max": (0, 0, 1 << 44),
    "files_reserve": (64, 0, 1 << 20),
    # Three quarters of the ids a side has.
    "link_streams_max": (3 << 29, 1, 3 << 29),
    "tls_handshake_timeout_ms": (10_000, 1, 600_000),
    "tls_handshakes_max": (4_096, 1, 1 << 20),
}
DEFAULTS = {name: row[0] for name, row in TABLE.items()}

if len(TABLE) * sizeof(uint64_t) != sizeof(Options):
    raise ImportError("options.pyx has a row, or options.pxd a field, that the other has not")


cdef int options_read(Options *options, dict given) except -1:
    cdef dict values = dict(DEFAULTS)
    for name, value in given.items():
        check(name, value)
        values[name] = value
    options[0] = values                   # by name; a field without a row is a ValueError
    return 0


cdef int check(str name, object value) except -1:
    if name not in TABLE:
        raise TypeError(f"unknown engine option {name!r}")
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"engine option {name!r} takes an int, not {type(value).__name__}")
    _, smallest, largest = TABLE[name]
    if not smallest <= value <= largest:
        raise ValueError(f"engine option {name!r} takes {smallest} to {largest}, not {value}")
    if name == "log_ring_size" and value & (value - 1):
        raise ValueError("engine option 'log_ring_size' takes a power of two")
    return 0


cdef int options_fit_memory(Options *options, int workers) except -1:
    if options.memory_max == 0:
        options.memory_max = max(64 << 20, machine_memory() // 4 // workers)
    return 0


cdef uint64_t machine_memory() except? 0:
    """Bytes of memory this process may use: the machine's, or its container's if less."""
    most = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        with open("/sys/fs/cgroup/memory.max", encoding="ascii") as file:
            return min(most, int(file.read()))
    except (OSError, ValueError):        # no such limit: "max"
        return most
