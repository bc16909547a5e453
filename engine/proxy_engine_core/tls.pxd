# TlsServer and TlsClient of core.pyi: contexts that Python can hold.

from proxy_engine_core.io.tls_openssl cimport TlsContext


cdef class TlsServer:
    cdef TlsContext *context
    cdef int set_names(self, list names) except -1
    cdef int set_ticket_keys(self, list keys) except -1

cdef class TlsClient:
    cdef TlsContext *context
    cdef int set_pins(self, list pins) except -1
