# io/tls_openssl.pyx of a build without OpenSSL: no context can be made, so that nothing but the
# first function, and those that take NULL, is ever called.

from libc.errno cimport EPROTO
from libc.stdint cimport uint8_t, uint32_t
from libc.stdio cimport snprintf


cdef int refuse(char *error) noexcept nogil:
    snprintf(error, TLS_ERROR_SIZE, "this build has no TLS: OpenSSL was not there when it was made")
    return -1


cdef const char *tls_library() noexcept nogil:
    return b""


cdef TlsContext *tls_context_new(uint32_t identity_count, char *error) noexcept nogil:
    refuse(error)
    return NULL


cdef int tls_context_set(
    TlsContext *context, uint32_t identity, const TlsSettings *settings, const TlsText *chain,
    const TlsText *key, char *error
) noexcept nogil:
    return refuse(error)


cdef TlsContext *tls_context_hold(TlsContext *context) noexcept nogil:
    return context


cdef void tls_context_drop(TlsContext *context) noexcept nogil:
    pass


cdef int tls_describe(
    const TlsText *chain, TlsDescription *description, char *error
) noexcept nogil:
    return refuse(error)


cdef int tls_session_start(TlsSession *session) noexcept nogil:
    return -EPROTO


cdef void tls_session_free(TlsSession *session) noexcept nogil:
    pass


cdef int tls_session_handshake(TlsSession *session, char *error) noexcept nogil:
    return -EPROTO


cdef int tls_session_read(
    TlsSession *session, uint8_t *target, size_t size, char *error
) noexcept nogil:
    return -EPROTO


cdef int tls_session_write(
    TlsSession *session, const uint8_t *source, size_t size, char *error
) noexcept nogil:
    return -EPROTO


cdef void tls_session_finish(TlsSession *session) noexcept nogil:
    pass


cdef bint tls_session_has_more(const TlsSession *session) noexcept nogil:
    return False


cdef bint tls_session_is_resumed(const TlsSession *session) noexcept nogil:
    return False


cdef uint32_t tls_session_names(
    const TlsSession *session, char *target, uint32_t size
) noexcept nogil:
    return 0
