# The strict parser for Python: the control plane reads the heads of devices with the
# same eyes as the data plane.

from libc.stdint cimport UINT32_MAX, uint8_t, uint32_t

from proxy_engine_core.http1.head cimport (
    Head, head_error_reason, head_error_text, request_head_parse,
)


def parse_request_head(bytes head not None):
    """Method, target and fields of a request head, by the engine's own strict parser.

    Args:
        head: the whole head, up to and with the empty line, and nothing behind it.
    Returns: method, request target as sent, and (lower-case name, value) of every field in
        order; values are without surrounding white space.
    Raises: ValueError, "reason: sentence", for a head that the engine refuses.
    See: RFC 9112 section 3, docs/errors.md
    """
    cdef const uint8_t *source = head
    cdef uint32_t size = <uint32_t>min(<size_t>len(head), <size_t>UINT32_MAX)
    cdef Head parsed
    cdef uint32_t index
    cdef const uint8_t *name
    cdef const uint8_t *value
    cdef int code = request_head_parse(&parsed, source, size)
    if code < 0:
        raise ValueError(
            f"{head_error_reason(code).decode()}: {head_error_text(code).decode()}"
        )
    fields = []
    for index in range(parsed.field_count):
        name = source + parsed.fields[index].name.start
        value = source + parsed.fields[index].value.start
        fields.append((
            name[:parsed.fields[index].name.size].decode("ascii").lower(),
            value[:parsed.fields[index].value.size],
        ))
    method = source[:parsed.method_name.size].decode("ascii")
    target = (source + parsed.target.start)[:parsed.target.size].decode("ascii")
    return method, target, fields
