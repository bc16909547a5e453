# The names of OpenSSL 3.0 that tls_openssl.pyx uses.

from libc.stdint cimport uint8_t, uint64_t
from posix.types cimport time_t


cdef extern from "<openssl/crypto.h>" nogil:
    const char *OpenSSL_version(int kind)
    int OPENSSL_VERSION
    void OPENSSL_free(void *block)

cdef extern from "<openssl/err.h>" nogil:
    void ERR_clear_error()
    unsigned long ERR_peek_last_error()
    const char *ERR_reason_error_string(unsigned long error)
    int ERR_GET_REASON(unsigned long error)
    int ERR_GET_LIB(unsigned long error)
    int ERR_LIB_PEM
    int ERR_LIB_SSL

cdef extern from "<openssl/bio.h>" nogil:
    ctypedef struct BIO:
        pass
    ctypedef struct BIO_METHOD:
        pass
    int BIO_TYPE_SOURCE_SINK
    int BIO_CTRL_FLUSH
    BIO *BIO_new(const BIO_METHOD *method)
    BIO *BIO_new_mem_buf(const void *bytes, int size)
    int BIO_free(BIO *bio)
    void BIO_set_data(BIO *bio, void *data)
    void *BIO_get_data(BIO *bio)
    void BIO_set_init(BIO *bio, int is_ready)
    void BIO_set_retry_read(BIO *bio)
    void BIO_clear_retry_flags(BIO *bio)
    BIO_METHOD *BIO_meth_new(int kind, const char *name)
    int BIO_meth_set_read_ex(
        BIO_METHOD *method, int (*)(BIO *, char *, size_t, size_t *) noexcept nogil
    )
    int BIO_meth_set_write_ex(
        BIO_METHOD *method, int (*)(BIO *, const char *, size_t, size_t *) noexcept nogil
    )
    int BIO_meth_set_ctrl(
        BIO_METHOD *method, long (*)(BIO *, int, long, void *) noexcept nogil
    )

cdef extern from "<openssl/asn1.h>" nogil:
    ctypedef struct ASN1_STRING:
        pass
    ctypedef struct ASN1_TIME:
        pass
    const uint8_t *ASN1_STRING_get0_data(const ASN1_STRING *text)
    int ASN1_STRING_length(const ASN1_STRING *text)
    int ASN1_TIME_diff(int *days, int *seconds, const ASN1_TIME *since, const ASN1_TIME *to)
    ASN1_TIME *ASN1_TIME_set(ASN1_TIME *target, time_t moment)
    void ASN1_TIME_free(ASN1_TIME *moment)

cdef extern from "<openssl/evp.h>" nogil:
    ctypedef struct EVP_PKEY:
        pass
    ctypedef struct EVP_MD:
        pass
    const EVP_MD *EVP_sha256()
    int EVP_Digest(
        const void *bytes, size_t size, uint8_t *target, unsigned int *target_size,
        const EVP_MD *kind, void *engine
    )
    void EVP_PKEY_free(EVP_PKEY *key)

cdef extern from "<openssl/x509v3.h>" nogil:
    ctypedef struct X509:
        pass
    ctypedef struct X509_CRL:
        pass
    ctypedef struct X509_NAME:
        pass
    ctypedef struct X509_NAME_ENTRY:
        pass
    ctypedef struct X509_PUBKEY:
        pass
    ctypedef struct X509_STORE:
        pass
    ctypedef struct X509_STORE_CTX:
        pass
    ctypedef struct X509_VERIFY_PARAM:
        pass
    ctypedef struct GENERAL_NAMES "STACK_OF(GENERAL_NAME)":
        pass
    ctypedef struct general_name_value "__typeof__(((GENERAL_NAME *)0)->d)":
        ASN1_STRING *dNSName
        ASN1_STRING *uniformResourceIdentifier
        ASN1_STRING *iPAddress
    ctypedef struct GENERAL_NAME:
        int type
        general_name_value d
    int GEN_DNS
    int GEN_URI
    int GEN_IPADD
    int NID_commonName
    int NID_subject_alt_name
    void X509_free(X509 *certificate)
    void X509_CRL_free(X509_CRL *crl)
    X509_NAME *X509_get_subject_name(const X509 *certificate)
    int X509_NAME_get_index_by_NID(const X509_NAME *name, int nid, int after)
    X509_NAME_ENTRY *X509_NAME_get_entry(const X509_NAME *name, int place)
    ASN1_STRING *X509_NAME_ENTRY_get_data(const X509_NAME_ENTRY *entry)
    const ASN1_TIME *X509_get0_notBefore(const X509 *certificate)
    const ASN1_TIME *X509_get0_notAfter(const X509 *certificate)
    X509_PUBKEY *X509_get_X509_PUBKEY(const X509 *certificate)
    int i2d_X509_PUBKEY(const X509_PUBKEY *key, uint8_t **target)
    void *X509_get_ext_d2i(const X509 *certificate, int nid, int *critical, int *place)
    int sk_GENERAL_NAME_num(const GENERAL_NAMES *names)
    GENERAL_NAME *sk_GENERAL_NAME_value(const GENERAL_NAMES *names, int place)
    void GENERAL_NAMES_free(GENERAL_NAMES *names)
    int X509_STORE_add_cert(X509_STORE *store, X509 *certificate)
    int X509_STORE_add_crl(X509_STORE *store, X509_CRL *crl)
    int X509_STORE_set_flags(X509_STORE *store, unsigned long flags)
    int X509_STORE_CTX_get_error(const X509_STORE_CTX *check)
    void X509_STORE_CTX_set_error(X509_STORE_CTX *check, int error)
    int X509_VERIFY_PARAM_set1_host(X509_VERIFY_PARAM *rules, const char *name, size_t size)
    int X509_VERIFY_PARAM_set1_ip_asc(X509_VERIFY_PARAM *rules, const char *ip)
    void X509_VERIFY_PARAM_set_hostflags(X509_VERIFY_PARAM *rules, unsigned int flags)
    const char *X509_verify_cert_error_string(long error)
    unsigned int X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS
    unsigned long X509_V_FLAG_CRL_CHECK
    unsigned long X509_V_FLAG_CRL_CHECK_ALL
    cdef enum:
        X509_V_OK
        X509_V_ERR_UNABLE_TO_GET_CRL
        X509_V_ERR_CERT_NOT_YET_VALID
        X509_V_ERR_CERT_HAS_EXPIRED
        X509_V_ERR_CRL_HAS_EXPIRED
        X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT
        X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN
        X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT
        X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY
        X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE
        X509_V_ERR_CERT_UNTRUSTED
        X509_V_ERR_CERT_REVOKED
        X509_V_ERR_HOSTNAME_MISMATCH
        X509_V_ERR_IP_ADDRESS_MISMATCH
        X509_V_ERR_INVALID_PURPOSE

cdef extern from "<openssl/pem.h>" nogil:
    int PEM_R_NO_START_LINE
    X509 *PEM_read_bio_X509(
        BIO *bio, X509 **place, int (*)(char *, int, int, void *) noexcept nogil, void *argument
    )
    X509_CRL *PEM_read_bio_X509_CRL(
        BIO *bio, X509_CRL **place, int (*)(char *, int, int, void *) noexcept nogil,
        void *argument
    )
    EVP_PKEY *PEM_read_bio_PrivateKey(
        BIO *bio, EVP_PKEY **place, int (*)(char *, int, int, void *) noexcept nogil,
        void *argument
    )

cdef extern from "<openssl/ssl.h>" nogil:
    ctypedef struct SSL:
        pass
    ctypedef struct SSL_CTX:
        pass
    ctypedef struct SSL_METHOD:
        pass
    ctypedef struct SSL_SESSION:
        pass
    int TLS1_2_VERSION
    int TLS1_3_VERSION
    int SSL_VERIFY_NONE
    int SSL_VERIFY_PEER
    int SSL_VERIFY_FAIL_IF_NO_PEER_CERT
    int SSL_ERROR_WANT_READ
    int SSL_ERROR_ZERO_RETURN
    int SSL_CLIENT_HELLO_SUCCESS
    int SSL_CLIENT_HELLO_ERROR
    int SSL_AD_DECODE_ERROR
    int SSL_AD_UNRECOGNIZED_NAME
    int SSL_AD_REASON_OFFSET
    int SSL_TLSEXT_ERR_OK
    int SSL_TLSEXT_ERR_ALERT_FATAL
    long SSL_SESS_CACHE_OFF
    long SSL_SESS_CACHE_CLIENT
    long SSL_SESS_CACHE_NO_INTERNAL
    long SSL_MODE_RELEASE_BUFFERS
    long SSL_MODE_ENABLE_PARTIAL_WRITE
    long SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER
    uint64_t SSL_OP_NO_RENEGOTIATION
    uint64_t SSL_OP_NO_COMPRESSION
    uint64_t SSL_OP_CIPHER_SERVER_PREFERENCE
    uint64_t SSL_OP_PRIORITIZE_CHACHA
    cdef enum:
        SSL_R_WRONG_VERSION_NUMBER
        SSL_R_UNSUPPORTED_PROTOCOL
        SSL_R_NO_SHARED_CIPHER
        SSL_R_NO_APPLICATION_PROTOCOL
        SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE
        SSL_R_CERTIFICATE_VERIFY_FAILED
        SSL_R_TLSV1_ALERT_PROTOCOL_VERSION
        SSL_R_TLSV13_ALERT_CERTIFICATE_REQUIRED
        SSL_R_TLSV1_ALERT_UNKNOWN_CA
        SSL_R_SSLV3_ALERT_CERTIFICATE_EXPIRED
        SSL_R_SSLV3_ALERT_CERTIFICATE_REVOKED
        SSL_R_SSLV3_ALERT_BAD_CERTIFICATE
        SSL_R_SSLV3_ALERT_HANDSHAKE_FAILURE
        SSL_R_TLSV1_UNRECOGNIZED_NAME
    const SSL_METHOD *TLS_server_method()
    const SSL_METHOD *TLS_client_method()
    SSL_CTX *SSL_CTX_new(const SSL_METHOD *method)
    void SSL_CTX_free(SSL_CTX *context)
    int SSL_CTX_set_min_proto_version(SSL_CTX *context, int version)
    uint64_t SSL_CTX_set_options(SSL_CTX *context, uint64_t options)
    long SSL_CTX_set_mode(SSL_CTX *context, long mode)
    void SSL_CTX_set_read_ahead(SSL_CTX *context, int on)
    int SSL_CTX_set_cipher_list(SSL_CTX *context, const char *names)
    int SSL_CTX_set_ciphersuites(SSL_CTX *context, const char *names)
    int SSL_CTX_set1_groups_list(SSL_CTX *context, const char *names)
    int SSL_CTX_set_num_tickets(SSL_CTX *context, size_t count)
    long SSL_CTX_set_session_cache_mode(SSL_CTX *context, long mode)
    int SSL_CTX_set_session_id_context(SSL_CTX *context, const uint8_t *id, unsigned int size)
    void SSL_CTX_sess_set_new_cb(SSL_CTX *context, int (*)(SSL *, SSL_SESSION *) noexcept nogil)
    void SSL_CTX_set_client_hello_cb(
        SSL_CTX *context, int (*)(SSL *, int *, void *) noexcept nogil, void *argument
    )
    void SSL_CTX_set_alpn_select_cb(
        SSL_CTX *context,
        int (*)(
            SSL *, const uint8_t **, uint8_t *, const uint8_t *, unsigned int, void *
        ) noexcept nogil,
        void *argument
    )
    int SSL_CTX_set_alpn_protos(SSL_CTX *context, const uint8_t *names, unsigned int size)
    int SSL_select_next_proto(
        uint8_t **chosen, uint8_t *chosen_size, const uint8_t *ours, unsigned int ours_size,
        const uint8_t *theirs, unsigned int theirs_size
    )
    int OPENSSL_NPN_NEGOTIATED
    void SSL_CTX_set_verify(
        SSL_CTX *context, int mode, int (*)(int, X509_STORE_CTX *) noexcept nogil
    )
    X509_STORE *SSL_CTX_get_cert_store(const SSL_CTX *context)
    int SSL_CTX_set_default_verify_paths(SSL_CTX *context)
    X509_VERIFY_PARAM *SSL_CTX_get0_param(SSL_CTX *context)
    int SSL_CTX_add_client_CA(SSL_CTX *context, X509 *certificate)
    int SSL_CTX_use_certificate(SSL_CTX *context, X509 *certificate)
    int SSL_CTX_add1_chain_cert(SSL_CTX *context, X509 *certificate)
    int SSL_CTX_use_PrivateKey(SSL_CTX *context, EVP_PKEY *key)
    int SSL_CTX_check_private_key(const SSL_CTX *context)
    SSL *SSL_new(SSL_CTX *context)
    void SSL_free(SSL *ssl)
    SSL_CTX *SSL_set_SSL_CTX(SSL *ssl, SSL_CTX *context)
    int SSL_set_session_id_context(SSL *ssl, const uint8_t *id, unsigned int size)
    int SSL_set_app_data(SSL *ssl, void *data)
    void *SSL_get_app_data(const SSL *ssl)
    void SSL_set_bio(SSL *ssl, BIO *reads, BIO *writes)
    void SSL_set_accept_state(SSL *ssl)
    void SSL_set_connect_state(SSL *ssl)
    long SSL_set_tlsext_host_name(SSL *ssl, const char *name)
    int SSL_set_session(SSL *ssl, SSL_SESSION *session)
    int SSL_session_reused(const SSL *ssl)
    int SSL_SESSION_is_resumable(const SSL_SESSION *session)
    void SSL_SESSION_free(SSL_SESSION *session)
    int SSL_client_hello_get0_ext(
        SSL *ssl, unsigned int kind, const uint8_t **bytes, size_t *size
    )
    int SSL_do_handshake(SSL *ssl)
    int SSL_read(SSL *ssl, void *target, int size)
    int SSL_write(SSL *ssl, const void *source, int size)
    int SSL_shutdown(SSL *ssl)
    void SSL_set_shutdown(SSL *ssl, int mode)
    int SSL_SENT_SHUTDOWN
    int SSL_RECEIVED_SHUTDOWN
    int SSL_has_pending(const SSL *ssl)
    int SSL_get_error(const SSL *ssl, int result)
    long SSL_get_verify_result(const SSL *ssl)
    X509 *SSL_get0_peer_certificate(const SSL *ssl)
    const char *SSL_get_version(const SSL *ssl)
