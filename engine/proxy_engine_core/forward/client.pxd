# Whom a trusted proxy speaks for: the right-most address of X-Forwarded-For that is no
# trusted proxy's own. Left of it stands what that client itself may have made up.

from proxy_engine_core.forward.transaction cimport Visitor
from proxy_engine_core.http1.head cimport Head
from proxy_engine_core.io.socket cimport Address
from proxy_engine_core.io.worker cimport Worker


cdef enum:
    CLIENT_KEY_TRUSTED = 0                # visitor.address_key of a trusted proxy

cdef bint is_trusted_peer(const Worker *worker, const Address *peer) noexcept nogil
# Set transaction.client and client_key from the head, of a visitor that is a trusted proxy.
# What is missing or malformed leaves the proxy's own address.
cdef void find_client(Visitor *visitor, const Head *head) noexcept nogil
