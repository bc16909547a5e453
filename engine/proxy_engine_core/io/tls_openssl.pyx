# See tls_openssl.pxd. OpenSSL keeps errors in a queue of the thread: it is cleared before each
# call whose failure is looked at, or an old one would be taken for the new one.

from libc.errno cimport EAGAIN, ENOMEM, EPROTO
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, strlen, strstr

from proxy_engine_core.atomic cimport atomic_add, atomic_exchange_pointer, atomic_subtract
from proxy_engine_core.io.openssl cimport *
from proxy_engine_core.io.socket cimport (
    ADDRESS_TEXT_SIZE, Address, address_set, address_text,
)

cdef enum:
    DER_SIZE_MAX = 8192                   # of a public key: RSA of 16,384 bits has 2 KiB

# What TLS 1.2 may use, if it is allowed at all: forward secrecy and AEAD only (RFC 9325).
cdef const char *CIPHERS_1_2 = (
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:"
    "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:"
    "ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305"
)
# Of TLS 1.3 all are good; this one takes the least time with AES in hardware, and who has none
# of it asks for ChaCha20 first, which is heeded.
cdef const char *CIPHERS_1_3 = (
    "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"
)
cdef const char *GROUPS = "X25519:P-256:P-384"
cdef const uint8_t *ALPN = b"\x08http/1.1"
cdef enum:
    ALPN_SIZE = 9

cdef BIO_METHOD *bio_method = BIO_meth_new(BIO_TYPE_SOURCE_SINK, b"connection")
if bio_method == NULL:
    raise MemoryError
BIO_meth_set_read_ex(bio_method, bio_read)
BIO_meth_set_write_ex(bio_method, bio_write)
BIO_meth_set_ctrl(bio_method, bio_control)


cdef const char *tls_library() noexcept nogil:
    return OpenSSL_version(OPENSSL_VERSION)


include "tls_certificate.pxi"


# --- contexts -------------------------------------------------------------------------------

cdef TlsContext *tls_context_new(uint32_t identity_count, char *error) noexcept nogil:
    cdef TlsContext *context = <TlsContext *>calloc(1, sizeof(TlsContext))
    if context != NULL:
        context.identities = <void **>calloc(identity_count, sizeof(void *))
    if context == NULL or context.identities == NULL:
        free(context)
        say(error, b"no memory")
        return NULL
    context.references = 1
    context.identity_count = identity_count
    return context


cdef TlsContext *tls_context_hold(TlsContext *context) noexcept nogil:
    if context != NULL:
        atomic_add(&context.references, 1)
    return context


cdef void tls_context_drop(TlsContext *context) noexcept nogil:
    cdef uint32_t index
    if context == NULL or atomic_subtract(&context.references, 1):
        return
    for index in range(TLS_SESSIONS_MAX):
        SSL_SESSION_free(<SSL_SESSION *>context.sessions[index])
    for index in range(context.identity_count):
        SSL_CTX_free(<SSL_CTX *>context.identities[index])
    free(context.identities)
    free(context.names)
    free(context.pins)
    free(context)


cdef int tls_context_set(
    TlsContext *context, uint32_t identity, const TlsSettings *settings, const TlsText *chain,
    const TlsText *key, char *error
) noexcept nogil:
    cdef SSL_CTX *ssl_context = SSL_CTX_new(
        TLS_server_method() if settings.is_server else TLS_client_method()
    )
    if ssl_context == NULL:
        return say(error, b"no memory")
    context.identities[identity] = ssl_context
    context.is_server = settings.is_server
    context.refuses_unknown = settings.refuses_unknown
    SSL_CTX_set_min_proto_version(
        ssl_context, TLS1_2_VERSION if settings.allows_1_2 else TLS1_3_VERSION
    )
    SSL_CTX_set_options(ssl_context, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION)
    SSL_CTX_set_mode(
        ssl_context, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE
        | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER
    )
    # One recv() for a record, not one for its header and another for the rest.
    SSL_CTX_set_read_ahead(ssl_context, 1)
    if (
        SSL_CTX_set_cipher_list(ssl_context, CIPHERS_1_2) != 1
        or SSL_CTX_set_ciphersuites(ssl_context, CIPHERS_1_3) != 1
        or SSL_CTX_set1_groups_list(ssl_context, GROUPS) != 1
    ):
        return say(error, b"this OpenSSL has none of the ciphers that are wanted")
    if settings.is_server or chain.size:
        if use_chain(ssl_context, chain, error) < 0 or use_key(ssl_context, key, error) < 0:
            return -1
    if settings.is_server:
        return set_server(context, identity, settings, error)
    return set_client(context, settings, error)


cdef int set_server(
    TlsContext *context, uint32_t identity, const TlsSettings *settings, char *error
) noexcept nogil:
    cdef SSL_CTX *ssl_context = <SSL_CTX *>context.identities[identity]
    SSL_CTX_set_options(
        ssl_context, SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_PRIORITIZE_CHACHA
    )
    # The session is in the ticket: nothing is kept here. Its keys are those of the first
    # identity's SSL_CTX, random and as old as this context; the id says for which it is good.
    SSL_CTX_set_session_cache_mode(ssl_context, SSL_SESS_CACHE_OFF)
    SSL_CTX_set_num_tickets(ssl_context, 1)
    SSL_CTX_set_session_id_context(ssl_context, <const uint8_t *>&identity, sizeof(identity))
    SSL_CTX_set_client_hello_cb(ssl_context, choose_identity, context)
    SSL_CTX_set_alpn_select_cb(ssl_context, choose_protocol, NULL)
    if settings.ca.size == 0:
        return 0
    SSL_CTX_set_verify(
        ssl_context,
        SSL_VERIFY_PEER | (SSL_VERIFY_FAIL_IF_NO_PEER_CERT if settings.peer_required else 0),
        verify,
    )
    if use_authorities(ssl_context, settings, error) < 0:
        return -1
    return use_revocations(ssl_context, &settings.crl, error) if settings.crl.size else 0


cdef int set_client(
    TlsContext *context, const TlsSettings *settings, char *error
) noexcept nogil:
    cdef SSL_CTX *ssl_context = <SSL_CTX *>context.identities[0]
    cdef X509_VERIFY_PARAM *rules = SSL_CTX_get0_param(ssl_context)
    SSL_CTX_set_session_cache_mode(
        ssl_context, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL
    )
    SSL_CTX_sess_set_new_cb(ssl_context, keep_session)
    if settings.says_http:
        SSL_CTX_set_alpn_protos(ssl_context, ALPN, ALPN_SIZE)
    context.is_address = X509_VERIFY_PARAM_set1_ip_asc(rules, context.server_name) == 1
    if settings.insecure:
        SSL_CTX_set_verify(ssl_context, SSL_VERIFY_NONE, NULL)
        return 0
    if not context.is_address:
        X509_VERIFY_PARAM_set_hostflags(rules, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS)
        if X509_VERIFY_PARAM_set1_host(rules, context.server_name, 0) != 1:
            return say(error, b"the server's name can not be used")
    SSL_CTX_set_verify(
        ssl_context, SSL_VERIFY_PEER, verify_pinned if settings.pins_alone else verify
    )
    if settings.ca.size:
        if use_authorities(ssl_context, settings, error) < 0:
            return -1
    elif not settings.pins_alone and SSL_CTX_set_default_verify_paths(ssl_context) != 1:
        return say(error, b"the system's authorities can not be read")
    return use_revocations(ssl_context, &settings.crl, error) if settings.crl.size else 0


cdef int verify(int is_good, X509_STORE_CTX *check) noexcept nogil:
    if not is_good and X509_STORE_CTX_get_error(check) == X509_V_ERR_UNABLE_TO_GET_CRL:
        X509_STORE_CTX_set_error(check, X509_V_OK)     # an issuer we have no list of
        return 1
    return is_good


cdef int verify_pinned(int is_good, X509_STORE_CTX *check) noexcept nogil:
    # Who signed it does not matter, the pin will tell; its name and dates do.
    if not is_good and X509_STORE_CTX_get_error(check) in (
        X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT, X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN,
        X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT, X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY,
        X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE, X509_V_ERR_CERT_UNTRUSTED,
    ):
        X509_STORE_CTX_set_error(check, X509_V_OK)
        return 1
    return verify(is_good, check)


cdef const uint8_t *asked_name(const uint8_t *bytes, size_t *size) noexcept nogil:
    # The one host name of a server_name extension (RFC 6066, 3); NULL: malformed.
    cdef size_t given = size[0]
    if given < 5 or ((bytes[0] << 8) | bytes[1]) != given - 2 or bytes[2] != 0:
        return NULL
    size[0] = (bytes[3] << 8) | bytes[4]
    return bytes + 5 if size[0] == given - 5 and size[0] else NULL


cdef int find_identity(
    const TlsContext *context, const uint8_t *asked, size_t size
) noexcept nogil:
    """Of an exact name, else of a wildcard for its first label; -1: none."""
    cdef uint8_t name[TLS_SERVER_NAME_SIZE_MAX]
    cdef const TlsName *candidate
    cdef int found = -1
    cdef size_t index
    cdef size_t label = 0
    if size > TLS_SERVER_NAME_SIZE_MAX:
        return -1
    for index in range(size):
        name[index] = asked[index] + 32 if c'A' <= asked[index] <= c'Z' else asked[index]
    while label < size and name[label] != c'.':
        label += 1
    for index in range(context.name_count):
        candidate = &context.names[index]
        if candidate.is_wildcard:
            if label and size - label == candidate.size and memcmp(
                name + label, candidate.text, candidate.size
            ) == 0 and found < 0:
                found = <int>candidate.identity
        elif size == candidate.size and memcmp(name, candidate.text, size) == 0:
            return <int>candidate.identity
    return found


cdef int choose_identity(SSL *ssl, int *alert, void *argument) noexcept nogil:
    # Before anything of the ClientHello is used: a ticket of another identity is none.
    cdef const TlsContext *context = <const TlsContext *>argument
    cdef const uint8_t *bytes
    cdef size_t size
    cdef int found
    cdef uint32_t identity
    if not SSL_client_hello_get0_ext(ssl, 0, &bytes, &size):
        return SSL_CLIENT_HELLO_SUCCESS
    bytes = asked_name(bytes, &size)
    if bytes == NULL:
        alert[0] = SSL_AD_DECODE_ERROR
        return SSL_CLIENT_HELLO_ERROR
    found = find_identity(context, bytes, size)
    if found < 0:
        if context.refuses_unknown:
            alert[0] = SSL_AD_UNRECOGNIZED_NAME
            return SSL_CLIENT_HELLO_ERROR
        found = 0
    identity = <uint32_t>found
    SSL_set_SSL_CTX(ssl, <SSL_CTX *>context.identities[identity])
    SSL_set_session_id_context(ssl, <const uint8_t *>&identity, sizeof(identity))
    return SSL_CLIENT_HELLO_SUCCESS


cdef int choose_protocol(
    SSL *ssl, const uint8_t **chosen, uint8_t *chosen_size, const uint8_t *offered,
    unsigned int offered_size, void *argument
) noexcept nogil:
    if SSL_select_next_proto(
        <uint8_t **>chosen, chosen_size, ALPN, ALPN_SIZE, offered, offered_size
    ) == OPENSSL_NPN_NEGOTIATED:
        return SSL_TLSEXT_ERR_OK
    return SSL_TLSEXT_ERR_ALERT_FATAL


cdef int keep_session(SSL *ssl, SSL_SESSION *session) noexcept nogil:
    """A client's, for the next connection. 1: it is ours now."""
    cdef TlsContext *context = <TlsContext *>SSL_get_app_data(ssl)
    cdef uint64_t place = atomic_add(&context.session_count, 1) % TLS_SESSIONS_MAX
    SSL_SESSION_free(
        <SSL_SESSION *>atomic_exchange_pointer(&context.sessions[place], session)
    )
    return 1


# --- sessions -------------------------------------------------------------------------------

cdef int bio_read(BIO *bio, char *target, size_t size, size_t *got) noexcept nogil:
    cdef TlsSession *session = <TlsSession *>BIO_get_data(bio)
    cdef int64_t pulled = session.pull(session, <uint8_t *>target, size)
    BIO_clear_retry_flags(bio)
    if pulled > 0:
        got[0] = <size_t>pulled
        return 1
    got[0] = 0
    if pulled == -EAGAIN:
        BIO_set_retry_read(bio)
    return 0


cdef int bio_write(BIO *bio, const char *source, size_t size, size_t *put) noexcept nogil:
    cdef TlsSession *session = <TlsSession *>BIO_get_data(bio)
    BIO_clear_retry_flags(bio)
    put[0] = size
    return 1 if session.push(session, <const uint8_t *>source, size) == 0 else 0


cdef long bio_control(BIO *bio, int what, long number, void *argument) noexcept nogil:
    return 1 if what == BIO_CTRL_FLUSH else 0


cdef int tls_session_start(TlsSession *session) noexcept nogil:
    cdef TlsContext *context = session.context
    cdef SSL *ssl = SSL_new(<SSL_CTX *>context.identities[0])
    cdef BIO *bio = BIO_new(bio_method)
    if ssl == NULL or bio == NULL:
        BIO_free(bio)
        SSL_free(ssl)
        return -ENOMEM
    BIO_set_data(bio, session)
    BIO_set_init(bio, 1)
    SSL_set_bio(ssl, bio, bio)
    SSL_set_app_data(ssl, context)
    session.ssl = ssl
    if context.is_server:
        SSL_set_accept_state(ssl)
        return 0
    SSL_set_connect_state(ssl)
    if not context.is_address and SSL_set_tlsext_host_name(ssl, context.server_name) != 1:
        return -ENOMEM
    resume(context, ssl)
    return 0


cdef void resume(TlsContext *context, SSL *ssl) noexcept nogil:
    # Each is used once (RFC 8446, C.4): the server sends another.
    cdef SSL_SESSION *remembered
    cdef uint32_t index
    for index in range(TLS_SESSIONS_MAX):
        remembered = <SSL_SESSION *>atomic_exchange_pointer(&context.sessions[index], NULL)
        if remembered != NULL:
            if SSL_SESSION_is_resumable(remembered):
                SSL_set_session(ssl, remembered)
            SSL_SESSION_free(remembered)
            return


cdef void tls_session_free(TlsSession *session) noexcept nogil:
    # A connection that broke says nothing against its session (RFC 5246, 7.2.1), but OpenSSL would
    # not resume it, and everybody who lost a network comes back with a whole handshake. Who
    # was sent a fatal alert has no session any more by now.
    if session.ssl != NULL:
        SSL_set_shutdown(<SSL *>session.ssl, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN)
    SSL_free(<SSL *>session.ssl)
    session.ssl = NULL
    tls_context_drop(session.context)
    session.context = NULL


cdef int failed(const TlsSession *session, char *error) noexcept nogil:
    """-EPROTO, with the reason of the call before in `error`."""
    cdef const SSL *ssl = <const SSL *>session.ssl
    cdef unsigned long code = ERR_peek_last_error()
    cdef long verified = SSL_get_verify_result(ssl)
    cdef const char *text = NULL
    if code and ERR_GET_LIB(code) == ERR_LIB_SSL:
        text = ssl_text(ERR_GET_REASON(code))
    if code and ERR_GET_REASON(code) == SSL_R_CERTIFICATE_VERIFY_FAILED:
        if verified in (X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH):
            snprintf(
                error, TLS_ERROR_SIZE, "its certificate is not for %s", session.context.server_name
            )
            return -EPROTO
        text = verify_text(verified)
        if text == NULL:
            text = X509_verify_cert_error_string(verified)
    if text == NULL and code:
        text = ERR_reason_error_string(code)
    if text == NULL:
        text = b"the connection ended in the middle of the handshake"
    say(error, text)
    return -EPROTO


cdef int outcome_of(const TlsSession *session, int result, char *error) noexcept nogil:
    cdef int kind = SSL_get_error(<const SSL *>session.ssl, result)
    if kind == SSL_ERROR_WANT_READ:
        return -EAGAIN
    if kind == SSL_ERROR_ZERO_RETURN:
        return 0
    return failed(session, error)


cdef int tls_session_handshake(TlsSession *session, char *error) noexcept nogil:
    cdef int result
    ERR_clear_error()
    result = SSL_do_handshake(<SSL *>session.ssl)
    if result != 1:
        result = outcome_of(session, result, error)
        if result == 0:                   # close_notify instead of a handshake
            say(error, b"the connection ended in the middle of the handshake")
            return -EPROTO
        return result
    return 1 if is_pinned(session, error) else -EPROTO


cdef bint is_pinned(const TlsSession *session, char *error) noexcept nogil:
    cdef const TlsContext *context = session.context
    cdef const X509 *certificate
    cdef uint8_t pin[TLS_PIN_SIZE]
    cdef uint32_t index
    if context.pin_count == 0:
        return True
    certificate = SSL_get0_peer_certificate(<const SSL *>session.ssl)
    if certificate != NULL and pin_of(certificate, pin) == 0:
        for index in range(context.pin_count):
            if memcmp(pin, context.pins + index * TLS_PIN_SIZE, TLS_PIN_SIZE) == 0:
                return True
    say(error, b"its key is not the one that was pinned")
    return False


cdef int tls_session_read(
    TlsSession *session, uint8_t *target, size_t size, char *error
) noexcept nogil:
    cdef int result
    ERR_clear_error()
    result = SSL_read(<SSL *>session.ssl, target, <int>min(size, <size_t>0x7FFFFFFF))
    return result if result > 0 else outcome_of(session, result, error)


cdef int tls_session_write(
    TlsSession *session, const uint8_t *source, size_t size, char *error
) noexcept nogil:
    cdef int result
    ERR_clear_error()
    result = SSL_write(<SSL *>session.ssl, source, <int>min(size, <size_t>0x7FFFFFFF))
    return result if result > 0 else outcome_of(session, result, error)


cdef void tls_session_finish(TlsSession *session) noexcept nogil:
    ERR_clear_error()
    SSL_shutdown(<SSL *>session.ssl)


cdef bint tls_session_has_more(const TlsSession *session) noexcept nogil:
    return SSL_has_pending(<const SSL *>session.ssl)


cdef bint tls_session_is_resumed(const TlsSession *session) noexcept nogil:
    return SSL_session_reused(<const SSL *>session.ssl)


cdef uint32_t tls_session_names(
    const TlsSession *session, char *target, uint32_t size
) noexcept nogil:
    cdef const X509 *certificate = SSL_get0_peer_certificate(<const SSL *>session.ssl)
    return names_of(certificate, target, size) if certificate != NULL else 0
