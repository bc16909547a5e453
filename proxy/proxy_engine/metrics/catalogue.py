"""Every metric: its name, kind, labels and meaning. docs/metrics.md is made of this table.

Names by the conventions of Prometheus: base units (seconds, bytes), counters end in _total. Most
are what `/api/v1/stats` counts, under names and labels made for queries: STATS says which is which.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Kind = Literal["counter", "gauge", "histogram"]


class Metric(NamedTuple):
    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()


class Source(NamedTuple):
    """Where a number of /api/v1/stats goes."""

    metric: str
    values: tuple[str, ...] = ()  # of the metric's labels
    scale: float = 1


_N = "proxy_engine_"


def _metric(name: str, kind: Kind, help: str, *labels: str) -> Metric:
    return Metric(_N + name, kind, help, labels)


TUNNELS = (
    _metric(
        "tunnel_requests_total",
        "counter",
        "Requests and connections that ended, by the class of the status the visitor saw; none: "
        "connections of TCP and UDP tunnels, and requests that broke off before.",
        "tunnel",
        "code",
    ),
    _metric(
        "tunnel_errors_total",
        "counter",
        "Requests that the proxy answered itself (refused: below 500; failed: from 500 on) or that "
        "broke off (aborted).",
        "tunnel",
        "kind",
    ),
    _metric(
        "tunnel_request_duration_seconds",
        "histogram",
        "Time from the first byte of a request to the last of its response; no connections to TCP "
        "and UDP tunnels or WebSockets.",
        "tunnel",
    ),
    _metric("tunnel_received_bytes_total", "counter", "Bytes from visitors.", "tunnel"),
    _metric("tunnel_sent_bytes_total", "counter", "Bytes to visitors.", "tunnel"),
    _metric(
        "tunnel_connections_total",
        "counter",
        "Connections that got to the device: TCP, visitors of UDP, WebSockets.",
        "tunnel",
    ),
    _metric("tunnel_open", "gauge", "Requests and connections under way.", "tunnel"),
)
OWN = (
    _metric(
        "tunnel_online", "gauge", "1: a device serves this tunnel now; 0: none does.", "tunnel"
    ),
    _metric("tunnels", "gauge", "Tunnels known."),
    _metric(
        "tunnels_without_series",
        "gauge",
        'Tunnels beyond metrics_tunnels: they are counted together, as tunnel="(other)".',
    ),
    _metric(
        "build_info", "gauge", "Always 1; its labels say what runs.", "version", "python", "tls"
    ),
    _metric("start_time_seconds", "gauge", "When the server started, seconds since the epoch."),
    _metric("draining", "gauge", "1: the server ends, and takes nothing new."),
    _metric("links", "gauge", "Links of devices, now."),
    _metric("link_streams", "gauge", "Streams open on links, idle ones too."),
    _metric("link_requests_waiting", "gauge", "Requests that wait for a stream."),
    _metric("link_queue_bytes", "gauge", "Bytes that wait to be sent to devices."),
    _metric("link_window_extra_bytes", "gauge", "Window lent to streams beyond what was agreed."),
    _metric("link_windows_grown_total", "counter", "How often the window of a stream grew."),
    _metric(
        "link_window_withheld_bytes_total",
        "counter",
        "Window taken back, because it was not used or memory was short.",
    ),
    _metric("link_round_trip_max_seconds", "gauge", "The longest round trip of a link, now."),
    _metric("link_round_trip_seconds", "histogram", "Round trips of pings on links."),
    _metric("scrape_duration_seconds", "gauge", "What the last scrape took of the server's time."),
    _metric(
        "store_duration_seconds", "histogram", "How long the store took, by call.", "operation"
    ),
    _metric("store_errors_total", "counter", "Calls of the store that failed.", "operation"),
    _metric("worker_turns_total", "counter", "Turns of a worker's loop.", "worker"),
    _metric("worker_cpu_seconds_total", "counter", "CPU time of a worker.", "worker"),
    _metric("worker_connections", "gauge", "Connections that live on a worker.", "worker"),
    _metric("worker_memory_bytes", "gauge", "Bytes lent out of a worker's buffers.", "worker"),
    Metric("process_cpu_seconds_total", "counter", "CPU time of the process."),
    Metric("process_resident_memory_bytes", "gauge", "Memory of the process in RAM."),
    Metric("process_virtual_memory_bytes", "gauge", "Memory of the process, all of it."),
    Metric("process_open_fds", "gauge", "File descriptors in use."),
    Metric("process_max_fds", "gauge", "File descriptors there may be."),
    Metric("process_start_time_seconds", "gauge", "When it started, seconds since the epoch."),
)

# stat, metric without its prefix, values of its labels.
_ROWS = """
accepted                     connections_accepted_total
accept_errors                connection_accept_errors_total
connections                  connections
connections_closed           connections_closed_total
requests                     requests_total
responses                    responses_total                by=target
responses_local              responses_total                by=proxy
requests_aborted             requests_aborted_total
requests_retried             requests_retried_total
requests_queued              requests_queued_total
bad_requests                 malformed_total                side=visitor
bad_responses                malformed_total                side=target
bad_proxy_headers            malformed_total                side=load_balancer
timeouts                     requests_timed_out_total
head_timeouts                timeouts_total                 waiting_for=head
keepalive_timeouts           timeouts_total                 waiting_for=next_request
open_timeouts                timeouts_total                 waiting_for=stream
response_timeouts            timeouts_total                 waiting_for=response
body_timeouts                timeouts_total                 waiting_for=body
tunnel_timeouts              timeouts_total                 waiting_for=tunnel
auth_timeouts                timeouts_total                 waiting_for=auth
tls_handshake_timeouts       timeouts_total                 waiting_for=tls_handshake
slow_bodies                  slow_visitors_total            part=body
slow_readers                 slow_visitors_total            part=response
lingers_cut_off              lingers_cut_off_total
half_close_aborts            half_close_aborts_total
connections_used_up          connections_used_up_total
address_connections_refused  refused_total                  reason=address_connections
address_requests_refused     refused_total                  reason=address_rate
device_rate_refused          refused_total                  reason=device_rate
device_busy_refused          refused_total                  reason=device_busy
token_rate_refused           refused_total                  reason=token_rate
token_busy_refused           refused_total                  reason=token_busy
tunnel_disabled              refused_total                  reason=tunnel_disabled
address_denied               refused_total                  reason=address_denied
maintenance_answers          refused_total                  reason=maintenance
unauthorized                 refused_total                  reason=unauthorized
paths_refused                refused_total                  reason=outside_prefix
tcp_refused                  refused_total                  reason=tcp
udp_refused                  refused_total                  reason=udp
memory_refused               refused_total                  reason=memory_short
auth_refused                 refused_total                  reason=link
logins_limited               refused_total                  reason=login_limit
direct_tickets_refused       refused_total                  reason=direct_ticket
tls_handshakes_refused       refused_total                  reason=tls_handshakes
streams_refused              refused_total                  reason=stream
addresses_untracked          addresses_untracked_total
token_pauses                 token_pauses_total
token_ended                  connections_ended_total        reason=token
tunnels_turned_away          connections_ended_total        reason=tunnel_options
memory_cut_off               connections_ended_total        reason=memory_short
tunnels                      websockets_total
tcp_connections              tcp_connections_total
direct_connections           direct_connections_total
direct_missed                direct_missed_total
direct_lost                  direct_lost_total
direct_tickets_issued        direct_tickets_total           event=issued
direct_tickets_used          direct_tickets_total           event=used
direct_tickets_expired       direct_tickets_total           event=expired
direct_dials_failed          direct_dials_failed_total
resets_late                  resets_late_total
spliced_bytes                spliced_bytes_total
pipes_short                  pipes_short_total
udp_visitors                 udp_visitors_total
udp_datagrams_in             udp_datagrams_total            direction=in
udp_datagrams_out            udp_datagrams_total            direction=out
udp_errors                   udp_errors_total
udp_dropped                  dropped_total                  what=datagram_no_room
udp_overruns                 dropped_total                  what=datagram_overrun
udp_oversize                 dropped_total                  what=datagram_oversize
log_dropped                  dropped_total                  what=log_ring
request_log_dropped          dropped_total                  what=request_log
request_log_torn             dropped_total                  what=journal_entry
events_dropped               dropped_total                  what=live_event
webhooks_dropped             dropped_total                  what=webhook
hook_dropped                 dropped_total                  what=hook_event
device_events_dropped        dropped_total                  what=device_event
access_lines_dropped         dropped_total                  what=access_line
streams_opened               streams_opened_total
streams_reused               streams_reused_total
stream_surplus               stream_surplus_total
idle_streams_closed          idle_streams_ended_total       by=server
idle_streams_lost            idle_streams_ended_total       by=target
links_opened                 links_opened_total
links_closed                 links_closed_total
links_stalled                links_failed_total             reason=stalled
links_silent                 links_failed_total             reason=silent
link_protocol_errors         links_failed_total             reason=protocol
link_ping_floods             links_failed_total             reason=ping_flood
link_open_floods             links_failed_total             reason=open_flood
link_reset_floods            links_failed_total             reason=reset_flood
link_frame_floods            links_failed_total             reason=frame_flood
link_control_floods          links_failed_total             reason=control_flood
link_data_floods             links_failed_total             reason=data_flood
links_spent                  links_spent_total
links_moved                  links_moved_total
link_waits                   link_waits_total
link_unknown_stream_frames   link_unknown_stream_frames_total
link_bytes_in                link_received_bytes_total
link_bytes_out               link_sent_bytes_total
link_flushes                 link_flushes_total
pings_sent                   link_pings_total
auth_asked                   link_requests_total
control_records              control_records_total
targets_connected            targets_connected_total
targets_failed               targets_failed_total
prompt_acks                  prompt_acks_total
log_records                  log_records_total
log_ring_bytes               log_ring_bytes
log_ring_size                log_ring_size_bytes
visitor_bytes_in             visitor_received_bytes_total
visitor_bytes_out            visitor_sent_bytes_total
slow_turns                   slow_turns_total
memory_errors                memory_errors_total
buffer_bytes                 buffer_bytes
buffer_bytes_max             buffer_peak_bytes
buffer_bytes_kept            buffer_kept_bytes
memory_short                 memory_pressure_total          level=windows
memory_stops_work            memory_pressure_total          level=work
memory_stops_accept          memory_pressure_total          level=accept
files_short                  files_short_total
visitors_moved_out           visitors_moved_total           direction=out
visitors_moved_in            visitors_moved_total           direction=in
visitors_held                visitors_held_total
visitor_moves_exhausted      visitor_moves_exhausted_total
tls_handshakes               tls_handshakes_total
tls_resumed                  tls_resumed_total
tls_handshakes_failed        tls_handshakes_failed_total
tls_plain_requests           tls_plain_requests_total
https_redirects              https_redirects_total
tls_certificates             tls_certificates
tls_certificate_days         tls_certificate_remaining_seconds  *86400
tls_reloads                  tls_reloads_total              result=ok
tls_reload_failures          tls_reloads_total              result=failed
log_lines_written            log_lines_total                result=written
log_lines_dropped            log_lines_total                result=dropped
log_lines_repeated           log_lines_total                result=repeated
request_log_written          request_log_written_total
request_log_sampled_out      request_log_sampled_out_total
request_log_redacted         request_log_redacted_total
request_log_journaled        request_log_journaled_total
request_log_replayed         request_log_replayed_total
request_log_journal_bytes    request_log_journal_bytes
request_log_memory_bytes     request_log_memory_bytes
logins_failed                logins_failed_total
token_cache_hits             cache_lookups_total            cache=token result=hit
token_cache_misses           cache_lookups_total            cache=token result=miss
device_cache_hits            cache_lookups_total            cache=device result=hit
device_cache_misses          cache_lookups_total            cache=device result=miss
shared_cache_hits            cache_lookups_total            cache=shared result=hit
shared_cache_misses          cache_lookups_total            cache=shared result=miss
shared_cache_stale           cache_lookups_total            cache=shared result=stale
shared_cache_forged          cache_lookups_total            cache=shared result=forged
shared_cache_up              shared_cache_up
shared_cache_errors          shared_cache_errors_total
shared_cache_skipped         shared_cache_skipped_total
access_cache_flushes         cache_flushes_total
access_cache_entries         cache_entries
webhooks_sent                webhooks_sent_total
webhook_failures             webhook_failures_total
hooks                        hooks
hooks_stuck                  hooks_stuck
hook_calls                   hook_calls_total
hook_errors                  hook_errors_total
hook_timeouts                hook_timeouts_total
hook_refusals                hook_refusals_total
hook_waiting                 hook_events_waiting
otlp_posts                   otlp_posts_total               result=taken
otlp_posts_failed            otlp_posts_total               result=failed
otlp_spans_sent              otlp_spans_sent_total
otlp_spans_dropped           dropped_total                  what=otlp_span
otlp_points_rejected         dropped_total                  what=otlp_point
otlp_queue_bytes             otlp_queue_bytes
event_subscribers            event_subscribers
"""

_HELP = {
    "connections_accepted_total": "Connections accepted.",
    "connection_accept_errors_total": "Accepts that failed though there were descriptors.",
    "connections": "Connections open, of visitors, links and listeners.",
    "connections_closed_total": "Connections closed.",
    "requests_total": "Requests and connections to tunnels that began.",
    "responses_total": "Requests that ended well, by who answered.",
    "requests_aborted_total": "Requests and connections that broke off.",
    "requests_retried_total": "Requests that were sent a second time.",
    "requests_queued_total": "Requests that had to wait for a stream.",
    "malformed_total": "What was not valid, by who said it.",
    "requests_timed_out_total": "Requests that a time-out ended.",
    "timeouts_total": "Time-outs, by what was waited for.",
    "slow_visitors_total": "Visitors that were too slow, with a body or in taking a response.",
    "lingers_cut_off_total": "Refused visitors that kept their connection, or sent, too long.",
    "half_close_aborts_total": "Requests aborted because the visitor finished writing.",
    "connections_used_up_total": "Connections closed after connection_requests_max requests.",
    "refused_total": "What was refused, by the limit or option that did.",
    "addresses_untracked_total": "Visitors without limits of addresses: the table was full.",
    "token_pauses_total": "How often somebody waited for the bandwidth of a token.",
    "connections_ended_total": "Connections that were ended while they were good, by why.",
    "websockets_total": "Requests that became WebSockets or other upgrades.",
    "tcp_connections_total": "Connections to TCP tunnels.",
    "direct_connections_total": "Connections that devices brought for direct use.",
    "direct_missed_total": "Connections to TCP tunnels that found no direct one ready.",
    "direct_lost_total": "Direct connections that ended while idle.",
    "direct_tickets_total": "Tickets for direct connections.",
    "direct_dials_failed_total": "Direct connections that could not be made (agents).",
    "resets_late_total": "Resets that waited until what was said before had arrived.",
    "spliced_bytes_total": "Bytes that went from socket to socket in the kernel.",
    "pipes_short_total": "Times there was no pipe for that.",
    "udp_visitors_total": "Visitor addresses of UDP tunnels.",
    "udp_datagrams_total": "Datagrams read from sockets, and taken by them.",
    "udp_errors_total": "Datagrams that the network says did not arrive.",
    "dropped_total": "What was lost, by what it was.",
    "streams_opened_total": "Streams opened on links.",
    "streams_reused_total": "Requests that went over a stream used before.",
    "stream_surplus_total": "Streams given up because a target said too much.",
    "idle_streams_ended_total": "Idle streams that ended, by who ended them.",
    "links_opened_total": "Links that came up.",
    "links_closed_total": "Links that ended.",
    "links_failed_total": "Links that were ended for something they did or did not.",
    "links_spent_total": "Links replaced because of link_streams_max.",
    "links_moved_total": "Links that live on another worker than the one that accepted them.",
    "link_waits_total": "How often somebody stopped because a link's output was full.",
    "link_unknown_stream_frames_total": "Frames for streams that are not there.",
    "link_received_bytes_total": "Bytes from devices, on links.",
    "link_sent_bytes_total": "Bytes to devices, on links.",
    "link_flushes_total": "Sends on links.",
    "link_pings_total": "Pings sent.",
    "link_requests_total": "Requests for a link, or to join a tunnel.",
    "control_records_total": "Records that agents sent.",
    "targets_connected_total": "Targets connected (agents).",
    "targets_failed_total": "Targets that could not be connected (agents).",
    "prompt_acks_total": "Answers in parts, the first acknowledged at once (agents).",
    "log_records_total": "Records of requests the engine wrote.",
    "log_ring_bytes": "Records in the engine's log rings, not read yet.",
    "log_ring_size_bytes": "What these rings hold.",
    "visitor_received_bytes_total": "Bytes from visitors.",
    "visitor_sent_bytes_total": "Bytes to visitors.",
    "slow_turns_total": "Turns of workers that took far too long: docs/diagnosis.md.",
    "memory_errors_total": "Allocations the system refused.",
    "buffer_bytes": "Bytes lent out of the buffers.",
    "buffer_peak_bytes": "The most that was lent at once, of each worker, together.",
    "buffer_kept_bytes": "Bytes kept for reuse.",
    "memory_pressure_total": "How often memory was short, by what stopped.",
    "files_short_total": "How often accepting waited for file descriptors.",
    "visitors_moved_total": "Visitors' connections that went to another worker.",
    "visitors_held_total": "Those that waited there for the routes.",
    "visitor_moves_exhausted_total": "Those that moved too often.",
    "tls_handshakes_total": "TLS handshakes done.",
    "tls_resumed_total": "Those of them that resumed a session.",
    "tls_handshakes_failed_total": "TLS handshakes that failed.",
    "tls_plain_requests_total": "Plain HTTP on a port of TLS.",
    "https_redirects_total": "Requests that were sent to https.",
    "tls_certificates": "Certificates in use.",
    "tls_certificate_remaining_seconds": "Until the first of them ends, in whole days.",
    "tls_reloads_total": "Times the certificates were read again.",
    "log_lines_total": "Lines of the log on stderr; repeated: those that were only counted.",
    "request_log_written_total": "Records the store has taken.",
    "request_log_sampled_out_total": "Records left out by request_sample.",
    "request_log_redacted_total": "Paths that something was taken out of.",
    "request_log_journaled_total": "Records that went to the journal.",
    "request_log_replayed_total": "Records that came from there.",
    "request_log_journal_bytes": "The journal of the request log on disk.",
    "request_log_memory_bytes": "Records that wait in memory.",
    "logins_failed_total": "Failed logins of devices and admins.",
    "cache_lookups_total": "Lookups of tokens and devices, by cache and result.",
    "shared_cache_up": "1: Redis answers.",
    "shared_cache_errors_total": "Calls of Redis that failed.",
    "shared_cache_skipped_total": "Calls that were not made while it was away.",
    "cache_flushes_total": "How often all that was cached was forgotten.",
    "cache_entries": "Entries cached in this process.",
    "webhooks_sent_total": "Events that webhook_url took.",
    "webhook_failures_total": "Tries that it did not take.",
    "hooks": "Hooks of this server.",
    "hooks_stuck": "Hooks with so many calls that hang that no more are made.",
    "hook_calls_total": "Calls of hooks.",
    "hook_errors_total": "Calls of hooks that failed or took too long.",
    "hook_timeouts_total": "Calls of hooks that took too long.",
    "hook_refusals_total": "Devices and tunnels that hooks refused.",
    "hook_events_waiting": "Events in the queues of hooks.",
    "otlp_posts_total": "POSTs to the OTLP collector; failed: tries that it did not take.",
    "otlp_spans_sent_total": "Spans that it took.",
    "otlp_queue_bytes": "Records of requests that wait to become spans.",
    "event_subscribers": "Listeners of /api/v1/events.",
}


def _read() -> tuple[dict[str, Source], list[Metric]]:
    sources: dict[str, Source] = {}
    labels: dict[str, tuple[str, ...]] = {}
    for line in _ROWS.strip().splitlines():
        stat, name, *rest = line.split()
        scale = float(rest.pop()[1:]) if rest and rest[-1].startswith("*") else 1.0
        pairs = [pair.partition("=") for pair in rest]
        labels[name] = tuple(label for label, _, _ in pairs)
        sources[stat] = Source(_N + name, tuple(value for _, _, value in pairs), scale)
    made = [
        _metric(name, "counter" if name.endswith("_total") else "gauge", _HELP[name], *names)
        for name, names in labels.items()
    ]
    return sources, made


STATS, _made = _read()
METRICS: dict[str, Metric] = {metric.name: metric for metric in (*TUNNELS, *OWN, *_made)}
# Numbers of single workers, that STATS adds up or leaves out.
WORKER_STATS: dict[str, Source] = {
    "turns": Source(_N + "worker_turns_total"),
    "cpu_us": Source(_N + "worker_cpu_seconds_total", scale=1e-6),
    "connections": Source(_N + "worker_connections"),
    "buffer_bytes": Source(_N + "worker_memory_bytes"),
}
