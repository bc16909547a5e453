# The option table: name, default, smallest, largest. See options.pxd for meanings.

from libc.stdint cimport uint64_t
from libc.string cimport memset

cdef dict TABLE = {
    "head_timeout_ms": (10_000, 1, 3_600_000),
    "keepalive_timeout_ms": (60_000, 1, 3_600_000),
    "open_timeout_ms": (10_000, 1, 3_600_000),
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
    "address_table_size": (65_536, 64, 4_194_304),
    "tcp_proxy_protocol": (0, 0, 1),
    "link_pings_max": (100, 1, 1 << 30),
    "link_opens_max": (2_000, 1, 1 << 30),
    "link_resets_max": (50_000, 1, 1 << 30),
    "link_empty_frames_max": (200_000, 1, 1 << 30),
    "link_records_max": (1_000, 1, 1 << 30),
    "link_surplus_max": (1 << 20, 0, 1 << 40),
    "body_size_max": (0, 0, 2**62),
    "log_ring_size": (4 << 20, 64 << 10, 1 << 30),
    "backlog": (4_096, 1, 65_535),
    "window_start": (1 << 20, 256 << 10, 1 << 30),
    "window_stream_max": (16 << 20, 256 << 10, 1 << 30),
    "window_link_max": (64 << 20, 0, 1 << 40),
    "window_worker_max": (256 << 20, 0, 1 << 40),
    "memory_max": (0, 0, 1 << 44),
    "files_reserve": (64, 0, 1 << 20),
    # Three quarters of the ids a side has.
    "link_streams_max": (3 << 29, 1, 3 << 29),
}
DEFAULTS = {name: row[0] for name, row in TABLE.items()}


cdef uint64_t *field(Options *options, str name):
    if name == "head_timeout_ms":
        return &options.head_timeout_ms
    if name == "keepalive_timeout_ms":
        return &options.keepalive_timeout_ms
    if name == "open_timeout_ms":
        return &options.open_timeout_ms
    if name == "response_timeout_ms":
        return &options.response_timeout_ms
    if name == "body_timeout_ms":
        return &options.body_timeout_ms
    if name == "tunnel_timeout_ms":
        return &options.tunnel_timeout_ms
    if name == "linger_timeout_ms":
        return &options.linger_timeout_ms
    if name == "auth_timeout_ms":
        return &options.auth_timeout_ms
    if name == "target_timeout_ms":
        return &options.target_timeout_ms
    if name == "pool_idle_ms":
        return &options.pool_idle_ms
    if name == "pool_idle_max_ms":
        return &options.pool_idle_max_ms
    if name == "pool_streams_max":
        return &options.pool_streams_max
    if name == "ping_interval_ms":
        return &options.ping_interval_ms
    if name == "link_stall_ms":
        return &options.link_stall_ms
    if name == "reader_timeout_ms":
        return &options.reader_timeout_ms
    if name == "upload_rate_min":
        return &options.upload_rate_min
    if name == "download_rate_min":
        return &options.download_rate_min
    if name == "rate_grace_ms":
        return &options.rate_grace_ms
    if name == "head_size_max":
        return &options.head_size_max
    if name == "head_fields_max":
        return &options.head_fields_max
    if name == "request_line_size_max":
        return &options.request_line_size_max
    if name == "connection_requests_max":
        return &options.connection_requests_max
    if name == "abort_on_half_close":
        return &options.abort_on_half_close
    if name == "address_connections_max":
        return &options.address_connections_max
    if name == "address_connection_rate":
        return &options.address_connection_rate
    if name == "address_request_rate":
        return &options.address_request_rate
    if name == "device_request_rate":
        return &options.device_request_rate
    if name == "device_requests_max":
        return &options.device_requests_max
    if name == "rate_burst_ms":
        return &options.rate_burst_ms
    if name == "address_table_size":
        return &options.address_table_size
    if name == "tcp_proxy_protocol":
        return &options.tcp_proxy_protocol
    if name == "link_pings_max":
        return &options.link_pings_max
    if name == "link_opens_max":
        return &options.link_opens_max
    if name == "link_resets_max":
        return &options.link_resets_max
    if name == "link_empty_frames_max":
        return &options.link_empty_frames_max
    if name == "link_records_max":
        return &options.link_records_max
    if name == "link_surplus_max":
        return &options.link_surplus_max
    if name == "body_size_max":
        return &options.body_size_max
    if name == "log_ring_size":
        return &options.log_ring_size
    if name == "backlog":
        return &options.backlog
    if name == "window_start":
        return &options.window_start
    if name == "window_stream_max":
        return &options.window_stream_max
    if name == "window_link_max":
        return &options.window_link_max
    if name == "window_worker_max":
        return &options.window_worker_max
    if name == "memory_max":
        return &options.memory_max
    if name == "files_reserve":
        return &options.files_reserve
    if name == "link_streams_max":
        return &options.link_streams_max
    return NULL


cdef void options_default(Options *options) noexcept:
    memset(options, 0, sizeof(Options))
    for name, value in DEFAULTS.items():
        field(options, name)[0] = value


cdef int options_set(Options *options, str name, object value) except -1:
    """Raises TypeError for an unknown name or a non-integer, ValueError out of range."""
    cdef uint64_t *place = field(options, name)
    if place == NULL:
        raise TypeError(f"unknown engine option {name!r}")
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"engine option {name!r} takes an int, not {type(value).__name__}")
    _, smallest, largest = TABLE[name]
    if not smallest <= value <= largest:
        raise ValueError(f"engine option {name!r} takes {smallest} to {largest}, not {value}")
    if name == "log_ring_size" and value & (value - 1):
        raise ValueError("engine option 'log_ring_size' takes a power of two")
    place[0] = value
    return 0
