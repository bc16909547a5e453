# Session tickets, sealed with keys of ours: part of tls_openssl.pyx, as tls_certificate.pxi is.
#
# A session is in its ticket: nothing is kept here (RFC 5077, RFC 8446 4.6.1). Without keys of a
# context's own, OpenSSL's are used, random and as old as the context. With them a context that
# takes the place of another, with other certificates or one key more, goes on with its sessions:
# the first key seals, the others only open, and what they opened is sealed anew.


cdef int use_ticket_keys(SSL_CTX *ssl_context, const TlsContext *context) noexcept nogil:
    if context.ticket_key_count == 0:
        return 0
    return 0 if SSL_CTX_set_tlsext_ticket_key_evp_cb(ssl_context, ticket_key) == 1 else -1


cdef int ticket_key(
    SSL *ssl, uint8_t *name, uint8_t *iv, EVP_CIPHER_CTX *cipher, EVP_MAC_CTX *mac, int is_sealing
) noexcept nogil:
    """1: the key is set; 2: ... and the client gets another ticket; 0: it is none of ours; -1."""
    cdef const TlsContext *context = <const TlsContext *>SSL_get_app_data(ssl)
    cdef const TlsTicketKey *key = context.ticket_keys
    cdef uint32_t index = 0
    if is_sealing:
        if RAND_bytes(iv, TICKET_IV_SIZE) != 1:
            return -1
        memcpy(name, key.name, sizeof(key.name))
    else:
        while memcmp(name, key.name, sizeof(key.name)):
            index += 1
            if index == context.ticket_key_count:
                return 0
            key = &context.ticket_keys[index]
    if not set_ticket_key(key, iv, cipher, mac, is_sealing):
        return -1
    return 1 if index == 0 else 2


cdef bint set_ticket_key(
    const TlsTicketKey *key, const uint8_t *iv, EVP_CIPHER_CTX *cipher, EVP_MAC_CTX *mac,
    int is_sealing
) noexcept nogil:
    cdef OSSL_PARAM parameters[3]
    parameters[0] = OSSL_PARAM_construct_octet_string(
        OSSL_MAC_PARAM_KEY, <void *>key.mac, sizeof(key.mac)
    )
    parameters[1] = OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, <char *>b"SHA256", 0)
    parameters[2] = OSSL_PARAM_construct_end()
    return EVP_MAC_CTX_set_params(mac, parameters) == 1 and EVP_CipherInit_ex(
        cipher, EVP_aes_256_cbc(), NULL, key.cipher, iv, is_sealing
    ) == 1


cdef int identify(
    uint8_t *id, uint32_t identity, const TlsSettings *settings, const TlsText *chain
) noexcept nogil:
    """What a ticket was given for, and so is good for: this certificate, and these rules about
    those of clients. SESSION_ID_SIZE bytes into `id`; 0, -1."""
    cdef uint8_t[3] rules = [settings.allows_1_2, settings.peer_required, settings.refuses_unknown]
    cdef EVP_MD_CTX *digest = EVP_MD_CTX_new()
    cdef bint is_good = digest != NULL and EVP_DigestInit_ex(digest, EVP_sha256(), NULL) == 1
    is_good = is_good and EVP_DigestUpdate(digest, &identity, sizeof(identity)) == 1
    is_good = is_good and EVP_DigestUpdate(digest, rules, sizeof(rules)) == 1
    is_good = is_good and add_text(digest, chain) and add_text(digest, &settings.ca)
    is_good = is_good and add_text(digest, &settings.crl)
    is_good = is_good and EVP_DigestFinal_ex(digest, id, NULL) == 1
    EVP_MD_CTX_free(digest)
    return 0 if is_good else -1


cdef bint add_text(EVP_MD_CTX *digest, const TlsText *text) noexcept nogil:
    return (
        EVP_DigestUpdate(digest, &text.size, sizeof(text.size)) == 1
        and EVP_DigestUpdate(digest, text.bytes, <size_t>text.size) == 1
    )
