# See https.pxd.

from libc.stdio cimport snprintf
from libc.string cimport memset

from proxy_engine_core.counters cimport COUNT_HTTPS_REDIRECTS, count
from proxy_engine_core.forward.reply cimport Reply
from proxy_engine_core.forward.transaction cimport Visitor
from proxy_engine_core.http1.head cimport Head

cdef enum:
    HTTPS_PORT = 443
    PORT_TEXT_SIZE = 8


cdef void https_answer(
    const Visitor *visitor, const Head *head, char *line, Reply *reply
) noexcept nogil:
    cdef unsigned int port = visitor.conn.worker.crew.https_port
    cdef char port_text[PORT_TEXT_SIZE]
    cdef int size
    count(visitor.conn.worker.counters, COUNT_HTTPS_REDIRECTS, 1)
    memset(reply, 0, sizeof(Reply))
    reply.reason = b"https_required"
    reply.status = 400
    reply.text = b"This is only served by https."
    port_text[0] = 0
    if port != HTTPS_PORT:
        snprintf(port_text, PORT_TEXT_SIZE, ":%u", port)
    # The parser lets no control characters and no spaces into either.
    size = snprintf(
        line, HTTPS_LOCATION_SIZE_MAX, "Location: https://%.*s%s%.*s\r\n",
        <int>head.host.size, <const char *>head.bytes + head.host.start, port_text,
        <int>head.path.size, <const char *>head.bytes + head.path.start,
    )
    if (
        head.host.size == 0 or head.path.size == 0 or size >= HTTPS_LOCATION_SIZE_MAX
        or head.bytes[head.path.start] != c'/'
    ):
        return                            # nowhere that could be named
    reply.status = 308                    # and not 301: the method stays
    reply.fields = line
