# See edit.pxd.

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memchr, memcmp

from proxy_engine_core.http1.head cimport Field, Head
from proxy_engine_core.http1.scan cimport equals_lower


cdef inline uint8_t lower(uint8_t byte) noexcept nogil:
    return byte + 32 if c'A' <= byte <= c'Z' else byte


# --- fields -------------------------------------------------------------------------------------

cdef bint is_named(const uint8_t *name, uint32_t size, const HeadEdit *edit) noexcept nogil:
    cdef const uint8_t *wanted = edit.names
    cdef const uint8_t *end = edit.names + edit.names_size
    cdef uint32_t index
    cdef uint8_t byte
    while wanted < end:
        if wanted[0] == size:
            index = 0
            while index < size:
                # To CGI targets "X_User" is X-User, so it goes as well.
                byte = c'-' if name[index] == c'_' else lower(name[index])
                if byte != wanted[1 + index]:
                    break
                index += 1
            if index == size:
                return True
        wanted += 1 + wanted[0]
    return False


cdef void edit_fields(Head *head, const HeadEdit *edit) noexcept nogil:
    cdef Field *field
    cdef uint32_t index
    if edit.names_size == 0:
        return
    for index in range(head.field_count):
        field = &head.fields[index]
        if is_named(head.bytes + field.name.start, field.name.size, edit):
            field.is_dropped = True


# --- the path -----------------------------------------------------------------------------------

cdef uint8_t decoded(const uint8_t *bytes, const uint8_t *end) noexcept nogil:
    # "." or "/" for what stands for it in three bytes ("\\" is "/" to some), else 0.
    if end - bytes < 3 or bytes[0] != c'%':
        return 0
    if bytes[1] == c'2' and lower(bytes[2]) == c'e':
        return c'.'
    if bytes[1] == c'2' and lower(bytes[2]) == c'f':
        return c'/'
    if bytes[1] == c'5' and lower(bytes[2]) == c'c':
        return c'/'
    return 0


cdef bint has_dot_segments(const uint8_t *path, uint32_t size) noexcept nogil:
    # In any spelling that a target may read as one: encoded, or with parameters ("..;x=1").
    cdef const uint8_t *cursor = path
    cdef const uint8_t *end = path + size
    cdef uint32_t dots = 0
    cdef bint is_dots = True              # the segment, so far
    cdef bint in_parameters = False
    cdef uint8_t byte
    while cursor < end:
        byte = decoded(cursor, end)
        if byte:
            cursor += 3
        else:
            byte = cursor[0]
            cursor += 1
        if byte == c'/':
            if is_dots and 1 <= dots <= 2:
                return True
            dots = 0
            is_dots = True
            in_parameters = False
        elif byte == c';' or in_parameters:
            in_parameters = True
        elif byte == c'.':
            dots += 1
        else:
            is_dots = False
    return is_dots and 1 <= dots <= 2


cdef bint edit_adds(const HeadEdit *edit, const char *name, uint32_t size) noexcept nogil:
    cdef const uint8_t *line = edit.lines
    cdef const uint8_t *end = edit.lines + edit.lines_size
    while end - line > size:              # each ends with a line feed
        if line[size] == c':' and equals_lower(line, name, size):
            return True
        line = <const uint8_t *>memchr(line, c'\n', end - line) + 1
    return False


cdef int edit_path(Head *head, RequestEdit *edit) noexcept nogil:
    cdef const uint8_t *path = head.bytes + head.path.start
    cdef const uint8_t *query = <const uint8_t *>memchr(path, c'?', head.path.size)
    cdef uint32_t size = head.path.size if query == NULL else <uint32_t>(query - path)
    if (
        size < edit.prefix_size or memcmp(path, edit.prefix, edit.prefix_size) != 0
        or size > edit.prefix_size and path[edit.prefix_size] != c'/'
    ):
        return PATH_OUTSIDE
    if has_dot_segments(path, size):
        return PATH_AMBIGUOUS
    edit.needs_slash = size == edit.prefix_size
    head.path.start += edit.prefix_size
    head.path.size -= edit.prefix_size
    return PATH_FITS


# --- redirects ----------------------------------------------------------------------------------

cdef Field *location_field(Head *head) noexcept nogil:
    # The one there is; two are nothing we understand.
    cdef Field *found = NULL
    cdef Field *field
    cdef uint32_t index
    for index in range(head.field_count):
        field = &head.fields[index]
        if field.name.size == 8 and equals_lower(
            head.bytes + field.name.start, b"location", 8
        ):
            if found != NULL:
                return NULL
            found = field
    return NULL if found == NULL or found.is_dropped else found


cdef uint32_t size_of_origin(
    const uint8_t *bytes, uint32_t size, const uint8_t *host, uint32_t host_size, bint is_https
) noexcept nogil:
    # Of "http://host" or "https://host" at the start; 0: another one stands there.
    cdef uint32_t start = 0
    cdef uint32_t index
    if size >= 7 and equals_lower(bytes, b"http://", 7):
        start = 7
    elif is_https and size >= 8 and equals_lower(bytes, b"https://", 8):
        start = 8
    if start == 0 or host_size == 0 or size - start < host_size:
        return 0
    for index in range(host_size):
        if lower(bytes[start + index]) != lower(host[index]):
            return 0
    return start + host_size


cdef bint stays_here(const uint8_t *rest, uint32_t size) noexcept nogil:
    # Whether what may have followed an origin leads to this very host as a reference of its own:
    # "//x" names a host, to browsers "/\\x" does, and they skip tabs on the way.
    cdef uint32_t index
    if size == 0:
        return True
    if rest[0] != c'/' and rest[0] != c'?' and rest[0] != c'#':
        return False                      # the origin went on: a port, a longer name, "@"
    if size > 1 and rest[0] == c'/' and (rest[1] == c'/' or rest[1] == c'\\'):
        return False
    for index in range(size):
        if rest[index] <= c' ':
            return False
    return True


cdef bint is_below(
    const uint8_t *path, uint32_t size, const uint8_t *prefix, uint32_t prefix_size
) noexcept nogil:
    if size < prefix_size or memcmp(path, prefix, prefix_size) != 0:
        return False
    return size == prefix_size or path[prefix_size] in (c'/', c'?', c'#')


cdef void edit_location(
    Head *head, ResponseEdit *edit, const uint8_t *host, uint32_t host_size,
    const uint8_t *prefix, uint32_t prefix_size, bint is_https
) noexcept nogil:
    cdef Field *field = location_field(head)
    cdef const uint8_t *rest
    cdef uint32_t origin, size
    if field == NULL:
        return
    rest = head.bytes + field.value.start
    origin = size_of_origin(rest, field.value.size, host, host_size, is_https)
    rest += origin
    size = field.value.size - origin
    if origin == 0 and (size == 0 or rest[0] != c'/') or not stays_here(rest, size):
        return
    if prefix_size and not is_below(rest, size, prefix, prefix_size):
        edit.prefix = prefix
        edit.prefix_size = prefix_size
    elif origin == 0:
        return
    field.is_dropped = True
    edit.moves_location = True
    edit.location.start = field.value.start + origin
    edit.location.size = size
    edit.needs_slash = size == 0 or rest[0] != c'/'
