# The streams of a session by id: a chained hash table in the session's own fields.
#
# Ids of one side are consecutive, so the id itself without its parity bit is the
# best hash there is. A hostile peer can choose ids that share a chain, but no more
# than streams_max of them.
#
# The table is allocated with the first stream and freed with the last: an idle
# session owns nothing. It doubles when streams outnumber buckets and shrinks when
# they fill less than an eighth, so a burst does not stay paid for.

from libc.stdint cimport uint32_t

from proxy_engine_core.yamux.session cimport YamuxSession, YamuxStream


cdef inline YamuxStream *table_find(const YamuxSession *session, uint32_t id) noexcept nogil:
    cdef YamuxStream *stream
    if session.bucket_count == 0:
        return NULL
    stream = session.buckets[(id >> 1) & (session.bucket_count - 1)]
    while stream != NULL and stream.id != id:
        stream = stream.next
    return stream


cdef int table_insert(YamuxSession *session, YamuxStream *stream) noexcept nogil  # 0, -ENOMEM
cdef void table_remove(YamuxSession *session, YamuxStream *stream) noexcept nogil
# Any stream, or NULL. Walking all by removing each found is linear in their number.
cdef YamuxStream *table_any(YamuxSession *session) noexcept nogil
