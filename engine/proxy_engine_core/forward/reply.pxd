# Answers the proxy makes itself: small JSON, or HTML for a browser, by Accept.

from libc.stdint cimport uint8_t, uint32_t

from proxy_engine_core.io.worker cimport Conn


cdef struct Reply:
    int status
    const char *reason                    # docs/errors.md
    const char *text                      # one sentence
    const uint8_t *request_id
    uint32_t request_id_size
    bint is_html
    const char *fields                    # lines of fields; NULL: as the status wants them
    const uint8_t *page                   # instead of our body
    uint32_t page_size                    # 0: there is none
    const char *page_type
    bint keep_alive
    bint is_head                          # no body, the same fields

# Gathers the whole answer on `conn` and flushes it; nothing of `reply` is used afterwards.
# Returns its bytes.
cdef uint32_t reply_write(Conn *conn, const Reply *reply) noexcept nogil
cdef const char *status_text(int status) noexcept nogil
