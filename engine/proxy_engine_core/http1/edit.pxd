# What a tunnel's options change in the heads that pass through it: fields that go, lines that
# come, the path and the host towards the target. Pure; the words come from who made the rules.
#
# A field that goes is only marked, as the hop-by-hop ones are, and rewrite.pyx leaves it out.
# The head's bytes stay as they came: a request may be parsed once more (docs/adr/0004).

from libc.stdint cimport uint8_t, uint32_t

from proxy_engine_core.http1.head cimport Head


cdef enum:
    EDIT_NAME_SIZE_MAX = 128              # bytes of a field name in a rule; its size is one byte

cdef struct HeadEdit:
    const uint8_t *names                  # fields that go: lower case, each behind its size
    uint32_t names_size
    const uint8_t *lines                  # "Name: value\r\n" ..., that come
    uint32_t lines_size

cdef struct RequestEdit:
    HeadEdit head
    const uint8_t *host                   # for the target; size 0: the visitor's
    uint32_t host_size
    const uint8_t *prefix                 # taken off the path: what the target is told of it
    uint32_t prefix_size
    bint needs_slash                      # nothing was left of the path before its query

cdef enum PathFit:
    PATH_FITS = 0
    PATH_OUTSIDE = -1                     # not below the prefix
    PATH_AMBIGUOUS = -2                   # dot segments: who knows where it leads
