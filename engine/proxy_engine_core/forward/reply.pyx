# See reply.pxd. All texts are ours and request ids are checked tokens, so nothing here
# needs escaping. A page is its operator's own and goes out as it is.

from libc.stdint cimport uint8_t, uint32_t
from libc.stdio cimport snprintf

from proxy_engine_core.io.conn cimport conn_arena, conn_gather, gather_flush
from proxy_engine_core.io.worker cimport Conn

cdef enum:
    REPLY_SIZE_MAX = 4096


cdef const char *status_text(int status) noexcept nogil:
    if status == 308:
        return "Permanent Redirect"
    if status == 400:
        return "Bad Request"
    if status == 401:
        return "Unauthorized"
    if status == 403:
        return "Forbidden"
    if status == 404:
        return "Not Found"
    if status == 405:
        return "Method Not Allowed"
    if status == 408:
        return "Request Timeout"
    if status == 413:
        return "Content Too Large"
    if status == 414:
        return "URI Too Long"
    if status == 417:
        return "Expectation Failed"
    if status == 429:
        return "Too Many Requests"
    if status == 431:
        return "Request Header Fields Too Large"
    if status == 502:
        return "Bad Gateway"
    if status == 503:
        return "Service Unavailable"
    if status == 504:
        return "Gateway Timeout"
    if status == 505:
        return "HTTP Version Not Supported"
    return "Error"


cdef uint32_t reply_write(Conn *conn, const Reply *reply) noexcept nogil:
    cdef char body[1536]
    cdef uint8_t *place = conn_arena(conn.worker, REPLY_SIZE_MAX)
    cdef const char *title = status_text(reply.status)
    cdef const char *extra = ""
    cdef const char *media_type = "application/json"
    cdef const char *persistence = "close"
    cdef const char *sent_body = body
    cdef int id_size = <int>reply.request_id_size
    cdef const char *request_id = <const char *>reply.request_id
    cdef int body_size, size
    if reply.page_size:
        body[0] = 0
        body_size = <int>reply.page_size
    elif reply.is_html:
        body_size = snprintf(
            body, sizeof(body),
            "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>%d %s</title>"
            "<style>body{font:16px/1.5 system-ui,sans-serif;max-width:36rem;margin:15vh auto;"
            "padding:0 1rem;color:#222}h1{font-size:1.4rem}small{color:#777}"
            "@media(prefers-color-scheme:dark){body{background:#111;color:#ddd}}</style>"
            "<h1>%d %s</h1><p>%s</p><p><small>reason: %s<br>request id: %.*s</small></p></html>\n",
            reply.status, title, reply.status, title, reply.text, reply.reason, id_size,
            request_id,
        )
    else:
        body_size = snprintf(
            body, sizeof(body),
            "{\"status\":%d,\"error\":\"%s\",\"message\":\"%s\",\"request_id\":\"%.*s\"}\n",
            reply.status, reply.reason, reply.text, id_size, request_id,
        )
    if reply.page_size:
        media_type = reply.page_type
    elif reply.is_html:
        media_type = "text/html; charset=utf-8"
    if reply.keep_alive:
        persistence = "keep-alive"
    if reply.is_head:
        sent_body = ""
    if reply.fields != NULL:
        extra = reply.fields
    elif reply.status == 503:
        extra = "Retry-After: 2\r\n"
    elif reply.status == 429:
        extra = "Retry-After: 1\r\n"    # no rate is below one a second
    elif reply.status == 405:
        extra = "Allow: GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH\r\n"
    size = snprintf(
        <char *>place, REPLY_SIZE_MAX,
        "HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %d\r\nCache-Control: no-store\r\n"
        "X-Request-Id: %.*s\r\n%sConnection: %s\r\n\r\n%s",
        reply.status, title,
        media_type, body_size, id_size, request_id, extra, persistence, sent_body,
    )
    conn_gather(conn, place, size)
    if reply.page_size and not reply.is_head:
        conn_gather(conn, reply.page, reply.page_size)
        size += <int>reply.page_size
    gather_flush(conn.worker)
    return <uint32_t>size
