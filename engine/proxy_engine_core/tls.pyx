# See tls.pxd; core.pyi has the contract. What is wrong with a certificate or key is found here,
# when an object is made, and never by a connection.

import time
from collections import namedtuple

from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport calloc
from libc.string cimport memcpy, memset

from proxy_engine_core.io.tls_openssl cimport (
    TLS_ERROR_SIZE, TLS_PIN_SIZE, TLS_SERVER_NAME_SIZE_MAX, TLS_TICKET_KEY_SIZE,
    TLS_TICKET_KEYS_MAX, TlsContext, TlsDescription, TlsName, TlsSettings, TlsText, TlsTicketKey,
    tls_context_drop, tls_context_new, tls_context_set, tls_describe,
    tls_library,
)

TLS_LIBRARY = tls_library().decode()
TlsCertificate = namedtuple("TlsCertificate", ("names", "not_before", "not_after", "pin"))

cdef enum:
    PEM_SIZE_MAX = 16 << 20               # bytes of a file; all the world's authorities have 1 %


cdef int fill(TlsText *text, bytes pem) except -1:
    """It points into `pem`, which the caller keeps."""
    if len(pem) > PEM_SIZE_MAX:
        raise ValueError(f"PEM of {len(pem)} bytes")
    text.bytes = pem
    text.size = <int>len(pem)
    return 0


cdef int start(TlsSettings *settings, str minimum, bytes ca, bytes crl) except -1:
    memset(settings, 0, sizeof(TlsSettings))
    if minimum not in ("1.2", "1.3"):
        raise ValueError(f"minimum is '1.2' or '1.3', not {minimum!r}")
    settings.allows_1_2 = minimum == "1.2"
    fill(&settings.ca, ca)
    fill(&settings.crl, crl)
    return 0


cdef TlsContext *new_context(uint32_t identity_count) except NULL:
    cdef char error[TLS_ERROR_SIZE]
    cdef TlsContext *context = tls_context_new(identity_count, error)
    if context == NULL:
        raise ValueError(error.decode())
    return context


cdef int set_identity(
    TlsContext *context, uint32_t index, const TlsSettings *settings, bytes chain, bytes key
) except -1:
    cdef char error[TLS_ERROR_SIZE]
    cdef TlsText chain_text, key_text
    cdef int outcome
    fill(&chain_text, chain)
    fill(&key_text, key)
    with nogil:                           # the system's authorities take some milliseconds
        outcome = tls_context_set(context, index, settings, &chain_text, &key_text, error)
    if outcome < 0:
        raise ValueError(error.decode())
    return 0


cdef bytes host_name(str name):
    """A DNS name as TLS has it: lower case, IDNA, no dot behind it."""
    cdef bytes host
    try:
        host = name.rstrip(".").lower().encode("ascii" if name.isascii() else "idna")
    except UnicodeError:
        host = b""
    if not 0 < len(host) <= TLS_SERVER_NAME_SIZE_MAX or b"\0" in host or b" " in host:
        raise ValueError(f"{name!r} is no server name")
    return host


def tls_certificate(bytes chain not None):
    cdef TlsDescription description
    cdef TlsText text
    cdef char error[TLS_ERROR_SIZE]
    fill(&text, chain)
    if tls_describe(&text, &description, error) < 0:
        raise ValueError(error.decode())
    now = int(time.time())
    names = description.names[:description.names_size].decode("utf-8", "replace")
    return TlsCertificate(
        tuple(names.splitlines()), now + description.not_before, now + description.not_after,
        <bytes>(<const char *>description.pin)[:TLS_PIN_SIZE],
    )


cdef class TlsServer:
    def __cinit__(
        self, identities, *, bytes client_ca=b"", bytes client_crl=b"",
        bint client_required=False, str minimum="1.3", str unknown_name="default",
        ticket_keys=(),
    ):
        cdef TlsSettings settings
        cdef uint32_t index
        cdef list rows = [(list(names), chain, key) for names, chain, key in identities]
        if not rows:
            raise ValueError("TLS needs a certificate")
        if unknown_name not in ("default", "refuse"):
            raise ValueError(f"unknown_name is 'default' or 'refuse', not {unknown_name!r}")
        if client_required and not client_ca:
            raise ValueError("client certificates need an authority")
        if client_crl and not client_ca:
            raise ValueError("a revocation list needs an authority")
        start(&settings, minimum, client_ca, client_crl)
        settings.is_server = True
        settings.peer_required = client_required
        settings.refuses_unknown = unknown_name == "refuse"
        self.context = new_context(<uint32_t>len(rows))
        self.set_ticket_keys(list(ticket_keys))
        for index, (_, chain, key) in enumerate(rows):
            if not key:
                raise ValueError("there is no private key in the key file")
            set_identity(self.context, index, &settings, chain, key)
        self.set_names([
            (host_name(name), index)
            for index, (names, chain, _) in enumerate(rows)
            for name in names or own_names(chain)
        ])

    def __dealloc__(self):
        tls_context_drop(self.context)

    cdef int set_names(self, list names) except -1:
        cdef TlsName *entry
        cdef bytes name
        self.context.names = <TlsName *>calloc(len(names) + 1, sizeof(TlsName))
        if self.context.names == NULL:
            raise MemoryError
        for name, index in names:
            entry = &self.context.names[self.context.name_count]
            entry.is_wildcard = name.startswith(b"*.")
            name = name[1:] if entry.is_wildcard else name
            if b"*" in name:
                raise ValueError(f"{name.decode()!r} is no server name: a star stands alone")
            entry.identity = index
            entry.size = <uint8_t>len(name)
            memcpy(entry.text, <const char *>name, len(name))
            self.context.name_count += 1
        return 0

    cdef int set_ticket_keys(self, list keys) except -1:
        cdef bytes key
        cdef uint32_t index
        if len(keys) > TLS_TICKET_KEYS_MAX:
            raise ValueError(f"{len(keys)} ticket keys, more than {TLS_TICKET_KEYS_MAX}")
        if not keys:
            return 0
        self.context.ticket_keys = <TlsTicketKey *>calloc(len(keys), sizeof(TlsTicketKey))
        if self.context.ticket_keys == NULL:
            raise MemoryError
        for index, key in enumerate(keys):
            if len(key) != TLS_TICKET_KEY_SIZE:
                raise ValueError(f"a ticket key has {TLS_TICKET_KEY_SIZE} bytes, not {len(key)}")
            memcpy(&self.context.ticket_keys[index], <const char *>key, TLS_TICKET_KEY_SIZE)
        self.context.ticket_key_count = <uint32_t>len(keys)
        return 0


cdef list own_names(bytes chain):
    return [
        name[4:] for name in tls_certificate(chain).names
        if name.startswith("dns:") and name[4:].isascii()
    ]


cdef class TlsClient:
    def __cinit__(
        self, str server_name not None, *, bytes ca=b"", bytes crl=b"", pins=(), bytes chain=b"",
        bytes key=b"", str minimum="1.3", bint insecure=False, bint alpn=True,
    ):
        cdef TlsSettings settings
        cdef bytes name = host_name(server_name)
        start(&settings, minimum, ca, crl)
        settings.insecure = insecure
        settings.pins_alone = bool(pins) and not ca
        settings.says_http = alpn
        if bool(chain) != bool(key):
            raise ValueError("a client certificate and its key come together")
        self.context = new_context(1)
        memcpy(self.context.server_name, <const char *>name, len(name))
        self.set_pins(list(pins))
        set_identity(self.context, 0, &settings, chain, key)

    def __dealloc__(self):
        tls_context_drop(self.context)

    cdef int set_pins(self, list pins) except -1:
        cdef bytes pin
        if not pins:
            return 0
        self.context.pins = <uint8_t *>calloc(len(pins), TLS_PIN_SIZE)
        if self.context.pins == NULL:
            raise MemoryError
        for pin in pins:
            if len(pin) != TLS_PIN_SIZE:
                raise ValueError(f"a pin has {TLS_PIN_SIZE} bytes, not {len(pin)}")
            memcpy(
                self.context.pins + self.context.pin_count * TLS_PIN_SIZE, <const char *>pin,
                TLS_PIN_SIZE,
            )
            self.context.pin_count += 1
        return 0
