# See session.pxd.

from libc.stdint cimport uint32_t
from libc.string cimport memset

from proxy_engine_core.buffer cimport Buffer


cdef void yamux_session_init(
    YamuxSession *session, bint is_client, Buffer *out, Buffer *urgent, uint32_t window,
    uint32_t streams_max
) noexcept nogil:
    memset(session, 0, sizeof(YamuxSession))
    session.out = out
    session.urgent = urgent
    session.is_client = is_client
    session.next_id = 1 if is_client else 2
    session.window = window
    session.window_start = window
    session.streams_max = streams_max


cdef void yamux_session_tune(
    YamuxSession *session, WindowBudget *budget, uint32_t start
) noexcept nogil:
    session.budget = budget
    session.window_start = start if start > session.window else session.window
