# All that is asked of OpenSSL, in one file: a build that links it statically has it once, and a
# build without it has without_tls/tls_openssl.pyx instead, which can make no context.
#
# A context is what all connections of a listener, or to a server, share. Any thread may hold it;
# once it is in use it does not change, but for its references and the sessions of a client.
#
# A session is one connection's TLS. It belongs to one thread at a time. It gets and gives
# ciphertext by two functions of its owner.

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t


cdef enum:
    TLS_ERROR_SIZE = 320                  # bytes of a line that says what is wrong, with its NUL
    TLS_NAMES_SIZE_MAX = 4096             # bytes of all names of a certificate
    TLS_SERVER_NAME_SIZE_MAX = 253
    TLS_PIN_SIZE = 32                     # SHA-256
    TLS_SESSION_ID_SIZE = 32              # SHA-256
    TLS_TICKET_KEY_SIZE = 80
    TLS_TICKET_KEYS_MAX = 8
    TLS_SESSIONS_MAX = 4                  # that a client remembers: one for each of its links

cdef struct TlsName:                      # of an identity, in lower case
    uint32_t identity
    uint8_t size
    bint is_wildcard                      # `text` is then what follows the star: ".example.com"
    uint8_t text[TLS_SERVER_NAME_SIZE_MAX + 1]

cdef struct TlsTicketKey:
    uint8_t name[16]
    uint8_t cipher[32]                    # of AES-256-CBC
    uint8_t mac[32]                       # of HMAC-SHA-256

cdef struct TlsContext:
    uint64_t references                   # atomic
    void **identities                     # SSL_CTX *; a client has one
    uint32_t identity_count
    bint is_server
    TlsName *names
    uint32_t name_count
    bint refuses_unknown                  # a name that nobody has
    uint8_t (*session_ids)[TLS_SESSION_ID_SIZE]       # what tickets of an identity are good for
    TlsTicketKey *ticket_keys             # NULL: OpenSSL's own
    uint32_t ticket_key_count
    char server_name[TLS_SERVER_NAME_SIZE_MAX + 1]
    bint is_address                       # server_name is one: it is not sent
    uint8_t *pins                         # TLS_PIN_SIZE bytes each
    uint32_t pin_count
    void *sessions[TLS_SESSIONS_MAX]      # SSL_SESSION *, atomic
    uint64_t session_count                # atomic: kept so far

cdef struct TlsText:                      # PEM
    const char *bytes
    int size

cdef struct TlsSettings:                  # core.pyi TlsServer and TlsClient
    bint is_server
    bint allows_1_2
    bint peer_required                    # server: a client certificate
    bint refuses_unknown                  # server
    bint insecure                         # client
    bint pins_alone                       # client: they take the place of an authority
    bint says_http                        # client: ALPN
    TlsText ca
    TlsText crl

cdef struct TlsSession:
    void *ssl                             # SSL *; NULL: none
    TlsContext *context                   # a reference
    # Bytes of ciphertext put into `target`; 0: the end; -EAGAIN, -errno.
    int64_t (*pull)(TlsSession *session, uint8_t *target, size_t size) noexcept nogil
    # 0: all of it is kept for sending; -ENOMEM.
    int (*push)(TlsSession *session, const uint8_t *source, size_t size) noexcept nogil

cdef struct TlsDescription:               # of a certificate
    int64_t not_before                    # seconds from now
    int64_t not_after
    uint8_t pin[TLS_PIN_SIZE]
    uint32_t names_size
    char names[TLS_NAMES_SIZE_MAX]        # "cn:a\ndns:b\n..."

cdef const char *tls_library() noexcept nogil                # "": there is none

# 0, or -1 and what is wrong in `error`. tls_context_new(): NULL.
cdef TlsContext *tls_context_new(uint32_t identity_count, char *error) noexcept nogil
cdef int tls_context_set(
    TlsContext *context, uint32_t identity, const TlsSettings *settings, const TlsText *chain,
    const TlsText *key, char *error
) noexcept nogil
cdef TlsContext *tls_context_hold(TlsContext *context) noexcept nogil      # NULL stays NULL
cdef void tls_context_drop(TlsContext *context) noexcept nogil
cdef int tls_describe(
    const TlsText *chain, TlsDescription *description, char *error
) noexcept nogil

# `session` has its context, pull and push. 0, or -ENOMEM.
cdef int tls_session_start(TlsSession *session) noexcept nogil
cdef void tls_session_free(TlsSession *session) noexcept nogil
# 1: done; -EAGAIN; -EPROTO: it has failed, an alert is pushed, `error` has the reason.
cdef int tls_session_handshake(TlsSession *session, char *error) noexcept nogil
# Bytes (> 0); 0: the other side has finished; -EAGAIN; -EPROTO as above.
cdef int tls_session_read(
    TlsSession *session, uint8_t *target, size_t size, char *error
) noexcept nogil
cdef int tls_session_write(
    TlsSession *session, const uint8_t *source, size_t size, char *error
) noexcept nogil
cdef void tls_session_finish(TlsSession *session) noexcept nogil           # push close_notify
cdef bint tls_session_has_more(const TlsSession *session) noexcept nogil   # already pulled
cdef bint tls_session_is_resumed(const TlsSession *session) noexcept nogil
# Names of the peer's certificate as those of TlsDescription; bytes in `target`, 0: none.
cdef uint32_t tls_session_names(
    const TlsSession *session, char *target, uint32_t size
) noexcept nogil
