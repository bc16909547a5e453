# What a visitor sends behind its head: a request body, framed and validated, or the bytes of
# a tunnel after 101. Both stop for window and link, and go on from visitor_ready().

from proxy_engine_core.forward.transaction cimport Visitor


cdef void send_body(Visitor *visitor) noexcept nogil             # VISITOR_ACTIVE
cdef void run_tunnel(Visitor *visitor) noexcept nogil            # VISITOR_TUNNEL
cdef void body_too_big(Visitor *visitor) noexcept nogil          # 413
