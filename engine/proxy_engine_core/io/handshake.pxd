# Connections while their TLS handshake lasts: they are of the kind CONN_HANDSHAKE, so nobody above
# hears of them, and none of it costs the others anything. When it is done they are of their own
# kind again and ready() is called; also when it has failed, with CONN_BROKEN and a line in
# tls_failure(). Handshakes of servers are bounded:
#
#   HANDSHAKES_A_TURN steps in a turn of the loop, each some hundred microseconds of arithmetic
#   tls_handshakes_max of them at a time, tls_handshake_timeout_ms for each
#
# A server looks at the first byte: who speaks HTTP gets an answer in HTTP, and no more.

from proxy_engine_core.io.tls_openssl cimport TlsContext
from proxy_engine_core.io.worker cimport Conn, Worker


cdef void handshake_init_worker(Worker *worker) noexcept nogil
# Whether there is room for one more that was accepted; counted if not.
cdef bint handshake_admits(Worker *worker) noexcept nogil
# `conn` is connected, its deadline set: it holds for what comes then. False: no memory.
cdef bint handshake_start(Conn *conn, TlsContext *context) noexcept nogil

cdef inline const char *tls_failure(const Conn *conn) noexcept nogil:
    # Why TLS has failed; NULL: it has not.
    return conn.tls.error if conn.tls != NULL and conn.tls.error[0] else NULL
