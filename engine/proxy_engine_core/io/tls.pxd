# TLS between a connection and its socket: conn.pyx comes here where conn.tls is not NULL. The
# layers above see plaintext only (docs/adr/0017).
#
#   conn.out   plaintext that was not taken yet, as without TLS
#   tls.out    ciphertext of what was taken and the socket refused: at most TLS_BLOCK_SIZE of it,
#              so that backpressure reaches conn.out, and conn_owed() counts both
#
# What has been read from the socket and not been handed on is in OpenSSL's own buffer, so it moves
# with the session; CONN_READABLE stays set while there is any.
#
# An end without a close_notify is a reset (-ECONNRESET): what ends with the connection would else
# look complete. Only a peer that tells so has finished.

from libc.stdint cimport int64_t, uint8_t, uint32_t

from proxy_engine_core.io.sys cimport iovec
from proxy_engine_core.io.tls_openssl cimport TlsContext
from proxy_engine_core.io.worker cimport CONN_HANDSHAKE, Conn, Tls, Worker


cdef enum:
    TLS_BLOCK_SIZE = 64 * 1024            # plaintext encrypted before the socket is asked again

cdef Tls *tls_new(TlsContext *context) noexcept nogil          # holds the context; NULL: no memory
cdef void tls_free(Tls *tls) noexcept nogil                    # NULL is nothing
# A connection's, with what it owes, to another one; of another worker only if it owes nothing.
cdef Tls *tls_take(Conn *conn) noexcept nogil
cdef void tls_give(Conn *conn, Tls *tls) noexcept nogil

cdef int64_t tls_recv(Conn *conn, uint8_t *target, size_t size) noexcept nogil
cdef int64_t tls_send(Conn *conn, const uint8_t *source, size_t size) noexcept nogil
cdef int64_t tls_send_spans(Conn *conn, const iovec *spans, uint32_t count) noexcept nogil
# Push tls.out; bytes the socket took, -errno.
cdef int64_t tls_flush(Conn *conn) noexcept nogil
# close_notify, and the FIN as soon as it is out.
cdef void tls_finish_writing(Conn *conn) noexcept nogil
# At the end of a connection: close_notify if everything was said, and free. True: it was cut off.
cdef bint tls_close(Conn *conn) noexcept nogil
# It is a connection of its own kind again.
cdef void tls_leave_handshake(Conn *conn) noexcept nogil
