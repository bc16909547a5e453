# Growing, shrinking and walking the stream table. See table.pxd for the rules.

from libc.errno cimport ENOMEM
from libc.stdint cimport uint32_t
from libc.stdlib cimport calloc, free

from proxy_engine_core.check cimport CHECK
from proxy_engine_core.yamux.session cimport YamuxSession, YamuxStream


cdef enum:
    TABLE_BUCKETS_MIN = 2            # an idle link has its control stream and no other


cdef int table_resize(YamuxSession *session, uint32_t bucket_count) noexcept nogil:
    cdef YamuxStream **buckets = <YamuxStream **>calloc(bucket_count, sizeof(YamuxStream *))
    cdef YamuxStream *stream
    cdef uint32_t index, bucket
    if buckets == NULL:
        return -ENOMEM
    for index in range(session.bucket_count):
        while session.buckets[index] != NULL:
            stream = session.buckets[index]
            session.buckets[index] = stream.next
            bucket = (stream.id >> 1) & (bucket_count - 1)
            stream.next = buckets[bucket]
            buckets[bucket] = stream
    free(session.buckets)
    session.buckets = buckets
    session.bucket_count = bucket_count
    session.first_bucket = 0
    return 0


cdef int table_insert(YamuxSession *session, YamuxStream *stream) noexcept nogil:
    cdef uint32_t bucket
    CHECK(table_find(session, stream.id) == NULL)
    if session.bucket_count == 0:
        if table_resize(session, TABLE_BUCKETS_MIN) < 0:
            return -ENOMEM
    elif session.stream_count >= session.bucket_count:
        if table_resize(session, session.bucket_count * 2) < 0:
            return -ENOMEM
    bucket = (stream.id >> 1) & (session.bucket_count - 1)
    stream.next = session.buckets[bucket]
    session.buckets[bucket] = stream
    session.stream_count += 1
    if bucket < session.first_bucket:
        session.first_bucket = bucket
    return 0


cdef void table_remove(YamuxSession *session, YamuxStream *stream) noexcept nogil:
    cdef YamuxStream **link = &session.buckets[(stream.id >> 1) & (session.bucket_count - 1)]
    while link[0] != stream:
        CHECK(link[0] != NULL)
        link = &link[0].next
    link[0] = stream.next
    session.stream_count -= 1
    if session.stream_count == 0:
        free(session.buckets)
        session.buckets = NULL
        session.bucket_count = 0
        session.first_bucket = 0
    elif (
        session.bucket_count > TABLE_BUCKETS_MIN
        and session.stream_count < session.bucket_count // 8
    ):
        # Without memory for the smaller table the larger one serves as well.
        table_resize(session, session.bucket_count // 2)


cdef YamuxStream *table_any(YamuxSession *session) noexcept nogil:
    if session.stream_count == 0:
        return NULL
    while session.buckets[session.first_bucket] == NULL:
        session.first_bucket += 1
        CHECK(session.first_bucket < session.bucket_count)
    return session.buckets[session.first_bucket]
