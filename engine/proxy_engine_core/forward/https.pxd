# Plain requests where https is wanted: sent to the same place there, before anything of them
# is looked at, a device's request for a link too. Trusted proxies have ended TLS themselves.

from proxy_engine_core.forward.client cimport CLIENT_KEY_TRUSTED
from proxy_engine_core.forward.reply cimport Reply
from proxy_engine_core.forward.transaction cimport Visitor
from proxy_engine_core.http1.head cimport Head

cdef enum:
    HTTPS_LOCATION_SIZE_MAX = 2048        # of the field line; longer targets get no Location


cdef inline bint https_is_wanted(const Visitor *visitor) noexcept nogil:
    return (
        visitor.conn.worker.crew.https_port != 0 and visitor.conn.tls == NULL
        and visitor.address_key != CLIENT_KEY_TRUSTED
    )

# The answer, for transaction_answer(); `line` has HTTPS_LOCATION_SIZE_MAX bytes and has to
# outlive it.
cdef void https_answer(
    const Visitor *visitor, const Head *head, char *line, Reply *reply
) noexcept nogil
