# A RoutePolicy (core.pyi), checked and packed into the block of forward/policy.pxd.

# Raises ValueError for what is unknown, malformed or too much. `is_tcp`: of a "tcp:" route, which
# has no requests to answer or change.
cdef bytes policy_pack(dict options, bint is_tcp)
