# Certificates and keys, and what to say of those that are not taken: the other half of
# tls_openssl.pyx, included there so that one module has all that links OpenSSL.


# --- what failed ----------------------------------------------------------------------------

cdef int say(char *error, const char *what) noexcept nogil:
    snprintf(error, TLS_ERROR_SIZE, "%s", what)
    return -1


cdef const char *verify_text(long code) noexcept nogil:
    """Why a certificate is not taken; NULL: no reason of ours to name."""
    if code == X509_V_ERR_CERT_HAS_EXPIRED:
        return b"its certificate has expired"
    if code == X509_V_ERR_CERT_NOT_YET_VALID:
        return b"its certificate is not valid yet"
    if code == X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
        return b"its certificate is self-signed"
    if code == X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
        return b"its certificate is by an authority that is not trusted here"
    if code in (
        X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT, X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY,
        X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE, X509_V_ERR_CERT_UNTRUSTED,
    ):
        return b"its certificate is by an unknown authority"
    if code == X509_V_ERR_CERT_REVOKED:
        return b"its certificate was revoked"
    if code == X509_V_ERR_CRL_HAS_EXPIRED:
        return b"the revocation list of its certificate's authority has expired"
    if code == X509_V_ERR_INVALID_PURPOSE:
        return b"its certificate is not meant for this side of a connection"
    return NULL


cdef const char *ssl_text(int reason) noexcept nogil:
    """What the other side did, or said in an alert; NULL: no reason of ours to name."""
    if reason == SSL_R_WRONG_VERSION_NUMBER:
        return b"it does not speak TLS on this port"
    if reason in (SSL_R_UNSUPPORTED_PROTOCOL, SSL_R_TLSV1_ALERT_PROTOCOL_VERSION):
        return b"no version of TLS that both sides allow"
    if reason in (SSL_R_NO_SHARED_CIPHER, SSL_R_SSLV3_ALERT_HANDSHAKE_FAILURE):
        return b"nothing that both sides can agree on"
    if reason == SSL_R_NO_APPLICATION_PROTOCOL:
        return b"it does not ask for http/1.1"
    if reason in (
        SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE, SSL_R_TLSV13_ALERT_CERTIFICATE_REQUIRED,
    ):
        return b"a client certificate is required"
    if reason == SSL_R_TLSV1_ALERT_UNKNOWN_CA:
        return b"the other side does not know the authority of our certificate"
    if reason == SSL_R_SSLV3_ALERT_CERTIFICATE_EXPIRED:
        return b"the other side says our certificate has expired"
    if reason == SSL_R_SSLV3_ALERT_CERTIFICATE_REVOKED:
        return b"the other side says our certificate was revoked"
    if reason == SSL_R_SSLV3_ALERT_BAD_CERTIFICATE:
        return b"the other side refused our certificate"
    if reason == SSL_R_TLSV1_UNRECOGNIZED_NAME:
        return b"the other side does not know the name it was asked for"
    return NULL


# --- PEM ------------------------------------------------------------------------------------

cdef int no_passphrase(char *target, int size, int is_writing, void *argument) noexcept nogil:
    # Asked for only if the key has one; OpenSSL would ask at the terminal.
    (<bint *>argument)[0] = True
    return -1


cdef bint is_end_of_pem() noexcept nogil:
    # Nothing more that begins with a dashed line, rather than something that can not be read.
    cdef unsigned long code = ERR_peek_last_error()
    return ERR_GET_LIB(code) == ERR_LIB_PEM and ERR_GET_REASON(code) == PEM_R_NO_START_LINE


cdef int use_chain(SSL_CTX *ssl_context, const TlsText *chain, char *error) noexcept nogil:
    cdef BIO *bio = BIO_new_mem_buf(chain.bytes, chain.size)
    cdef X509 *certificate
    cdef int count = 0
    cdef int outcome = 0
    if bio == NULL:
        return say(error, b"no memory")
    while outcome == 0:
        ERR_clear_error()
        certificate = PEM_read_bio_X509(bio, NULL, NULL, NULL)
        if certificate == NULL:
            if not is_end_of_pem():
                outcome = say(error, b"the certificate is not valid PEM")
            elif count == 0:
                outcome = say(error, b"there is no certificate in the certificate file")
            break
        if count == 0:
            if SSL_CTX_use_certificate(ssl_context, certificate) != 1:
                outcome = say(error, b"the certificate can not be used: its key is too weak?")
        elif SSL_CTX_add1_chain_cert(ssl_context, certificate) != 1:
            outcome = say(error, b"a certificate of the chain can not be used")
        X509_free(certificate)
        count += 1
    BIO_free(bio)
    return outcome


cdef int use_key(SSL_CTX *ssl_context, const TlsText *key, char *error) noexcept nogil:
    cdef BIO *bio = BIO_new_mem_buf(key.bytes, key.size)
    cdef EVP_PKEY *found
    cdef bint has_passphrase = False
    cdef int outcome = 0
    if bio == NULL:
        return say(error, b"no memory")
    ERR_clear_error()
    found = PEM_read_bio_PrivateKey(bio, NULL, no_passphrase, &has_passphrase)
    BIO_free(bio)
    if found == NULL and has_passphrase:
        return say(error, b"the key has a passphrase: only one without can be used")
    if found == NULL and strstr(key.bytes, b"PRIVATE KEY-----") == NULL:
        return say(error, b"there is no private key in the key file")
    if found == NULL:
        return say(error, b"the key is not valid PEM")
    # Of another certificate it is refused by one call or by the other.
    if (
        SSL_CTX_use_PrivateKey(ssl_context, found) != 1
        or SSL_CTX_check_private_key(ssl_context) != 1
    ):
        outcome = say(error, b"the key does not belong to the certificate")
    EVP_PKEY_free(found)
    return outcome


cdef int use_authorities(
    SSL_CTX *ssl_context, const TlsSettings *settings, char *error
) noexcept nogil:
    cdef X509_STORE *store = SSL_CTX_get_cert_store(ssl_context)
    cdef BIO *bio = BIO_new_mem_buf(settings.ca.bytes, settings.ca.size)
    cdef X509 *certificate
    cdef int count = 0
    cdef int outcome = 0
    if bio == NULL:
        return say(error, b"no memory")
    while outcome == 0:
        ERR_clear_error()
        certificate = PEM_read_bio_X509(bio, NULL, NULL, NULL)
        if certificate == NULL:
            if not is_end_of_pem():
                outcome = say(error, b"the authority's certificate is not valid PEM")
            elif count == 0:
                outcome = say(error, b"there is no certificate in the authority's file")
            break
        if X509_STORE_add_cert(store, certificate) != 1 or (
            settings.is_server and SSL_CTX_add_client_CA(ssl_context, certificate) != 1
        ):
            outcome = say(error, b"a certificate of the authority's can not be used")
        X509_free(certificate)
        count += 1
    BIO_free(bio)
    return outcome


cdef int use_revocations(
    SSL_CTX *ssl_context, const TlsText *lists, char *error
) noexcept nogil:
    cdef X509_STORE *store = SSL_CTX_get_cert_store(ssl_context)
    cdef BIO *bio = BIO_new_mem_buf(lists.bytes, lists.size)
    cdef X509_CRL *found
    cdef int count = 0
    cdef int outcome = 0
    if bio == NULL:
        return say(error, b"no memory")
    while outcome == 0:
        ERR_clear_error()
        found = PEM_read_bio_X509_CRL(bio, NULL, NULL, NULL)
        if found == NULL:
            if not is_end_of_pem():
                outcome = say(error, b"the revocation list is not valid PEM")
            elif count == 0:
                outcome = say(error, b"there is no revocation list in its file")
            break
        if X509_STORE_add_crl(store, found) != 1:
            outcome = say(error, b"a revocation list can not be used")
        X509_CRL_free(found)
        count += 1
    BIO_free(bio)
    X509_STORE_set_flags(store, X509_V_FLAG_CRL_CHECK | X509_V_FLAG_CRL_CHECK_ALL)
    return outcome


cdef uint32_t add_name(
    char *target, uint32_t used, uint32_t size, const char *kind, const uint8_t *name, int name_size
) noexcept nogil:
    """Bytes of `target` in use then. What has a control character in it is left out: no name has,
    and lines are what separates them."""
    cdef int index
    cdef uint32_t kind_size = <uint32_t>strlen(kind)
    if name == NULL or name_size <= 0:
        return used
    if used + kind_size + <uint32_t>name_size + 1 > size:
        return used
    for index in range(name_size):
        if name[index] < 32 or name[index] == 127:
            return used
    memcpy(target + used, kind, kind_size)
    memcpy(target + used + kind_size, name, name_size)
    used += kind_size + <uint32_t>name_size
    target[used] = c'\n'
    return used + 1


cdef uint32_t names_of(const X509 *certificate, char *target, uint32_t size) noexcept nogil:
    cdef X509_NAME *subject = X509_get_subject_name(certificate)
    cdef GENERAL_NAMES *names
    cdef GENERAL_NAME *name
    cdef ASN1_STRING *text
    cdef uint32_t used = 0
    cdef int place = X509_NAME_get_index_by_NID(subject, NID_commonName, -1)
    cdef int index
    if place >= 0:
        text = X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, place))
        used = add_name(
            target, used, size, b"cn:", ASN1_STRING_get0_data(text), ASN1_STRING_length(text)
        )
    names = <GENERAL_NAMES *>X509_get_ext_d2i(certificate, NID_subject_alt_name, NULL, NULL)
    if names == NULL:
        return used
    for index in range(sk_GENERAL_NAME_num(names)):
        name = sk_GENERAL_NAME_value(names, index)
        if name.type == GEN_DNS:
            text = name.d.dNSName
            used = add_name(
                target, used, size, b"dns:", ASN1_STRING_get0_data(text), ASN1_STRING_length(text)
            )
        elif name.type == GEN_URI:
            text = name.d.uniformResourceIdentifier
            used = add_name(
                target, used, size, b"uri:", ASN1_STRING_get0_data(text), ASN1_STRING_length(text)
            )
        elif name.type == GEN_IPADD:
            used = add_address(target, used, size, name.d.iPAddress)
    GENERAL_NAMES_free(names)
    return used


cdef uint32_t add_address(
    char *target, uint32_t used, uint32_t size, const ASN1_STRING *bytes
) noexcept nogil:
    cdef Address address
    cdef char text[ADDRESS_TEXT_SIZE]
    cdef int bytes_size = ASN1_STRING_length(bytes)
    if bytes_size != 4 and bytes_size != 16:
        return used
    address_set(&address, ASN1_STRING_get0_data(bytes), <uint32_t>bytes_size, 0)
    return add_name(
        target, used, size, b"ip:", <const uint8_t *>text, address_text(&address, text)
    )


cdef int pin_of(const X509 *certificate, uint8_t *pin) noexcept nogil:
    """SHA-256 of its SubjectPublicKeyInfo. 0, -1."""
    cdef uint8_t der[DER_SIZE_MAX]
    cdef uint8_t *end = der
    cdef X509_PUBKEY *key = X509_get_X509_PUBKEY(certificate)
    cdef int size = i2d_X509_PUBKEY(key, NULL)
    if size <= 0 or size > DER_SIZE_MAX:
        return -1
    i2d_X509_PUBKEY(key, &end)
    return 0 if EVP_Digest(der, size, pin, NULL, EVP_sha256(), NULL) == 1 else -1


cdef int64_t seconds_until(const ASN1_TIME *moment) noexcept nogil:
    cdef int days = 0
    cdef int seconds = 0
    ASN1_TIME_diff(&days, &seconds, NULL, moment)
    return <int64_t>days * 86_400 + seconds


cdef int tls_describe(
    const TlsText *chain, TlsDescription *description, char *error
) noexcept nogil:
    cdef BIO *bio = BIO_new_mem_buf(chain.bytes, chain.size)
    cdef X509 *certificate
    cdef int outcome = 0
    if bio == NULL:
        return say(error, b"no memory")
    ERR_clear_error()
    certificate = PEM_read_bio_X509(bio, NULL, NULL, NULL)
    BIO_free(bio)
    if certificate == NULL and is_end_of_pem():
        return say(error, b"there is no certificate in the certificate file")
    if certificate == NULL:
        return say(error, b"the certificate is not valid PEM")
    description.not_before = seconds_until(X509_get0_notBefore(certificate))
    description.not_after = seconds_until(X509_get0_notAfter(certificate))
    description.names_size = names_of(certificate, description.names, TLS_NAMES_SIZE_MAX)
    if pin_of(certificate, description.pin) < 0:
        outcome = say(error, b"the certificate has a key that can not be read")
    X509_free(certificate)
    return outcome
