# What a tunnel's options change in the heads that pass through it: fields that go, lines that
# come, the path and the host towards the target, a redirect back. Pure.
#
# A field that goes is only marked, as the hop-by-hop ones are, and rewrite.pyx leaves it out.
# The head's bytes stay as they came: a request may be parsed once more (docs/adr/0004), and the
# log has what the visitor asked for. That lines and hosts are well-formed is the business of who
# made the rules (policy_pack.pyx).

from libc.stdint cimport uint8_t, uint32_t

from proxy_engine_core.http1.head cimport Head, Span


cdef enum:
    EDIT_NAME_SIZE_MAX = 128              # bytes of a field name in a rule; its size is one byte

cdef struct HeadEdit:
    const uint8_t *names                  # fields that go: lower case, "-" for "_", each behind
    uint32_t names_size                   # its size
    const uint8_t *lines                  # "Name: value\r\n" ..., that come
    uint32_t lines_size

cdef struct RequestEdit:
    HeadEdit head
    const uint8_t *host                   # for the target; size 0: the visitor's
    uint32_t host_size
    const uint8_t *prefix                 # taken off the path, and what the target is told of it
    uint32_t prefix_size
    bint needs_slash                      # nothing is left of the path before its query

cdef struct ResponseEdit:
    HeadEdit head
    bint moves_location
    Span location                         # the new one, in the head
    bint needs_slash                      # before it
    const uint8_t *prefix                 # before both; size 0: none
    uint32_t prefix_size
    const uint8_t *timing                 # a Server-Timing line of ours
    uint32_t timing_size

cdef enum PathFit:
    PATH_FITS = 0
    PATH_OUTSIDE = -1                     # not below the prefix
    PATH_AMBIGUOUS = -2                   # dot segments: targets differ about where it leads

# Mark the fields that go.
cdef void edit_fields(Head *head, const HeadEdit *edit) noexcept nogil
# Whether a line of this field comes. `name` in lower case.
cdef bint edit_adds(const HeadEdit *edit, const char *name, uint32_t size) noexcept nogil
# Take edit.prefix off the path, on the border of a segment only. A PathFit; the path is as it was
# unless it fits.
cdef int edit_path(Head *head, RequestEdit *edit) noexcept nogil
# Where the target sends the visitor is where it thinks it is itself. A Location on `host` becomes
# the path on it, and a path gets the prefix back unless it has it; either may be of size 0. What
# could be taken for another host's path stays as it came, and so does https:// for a visitor
# without it: without its scheme that would lead round and round.
cdef void edit_location(
    Head *head, ResponseEdit *edit, const uint8_t *host, uint32_t host_size,
    const uint8_t *prefix, uint32_t prefix_size, bint is_https
) noexcept nogil
