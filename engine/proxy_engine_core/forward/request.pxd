# A visitor's request head: read, parsed once, and asked of everybody who has a say: admission,
# routing, the device. What may go on is put on a stream by dispatch.pyx.

from proxy_engine_core.forward.transaction cimport Visitor


# VISITOR_HEAD: look at the input, read more, and begin the request when its head is in.
cdef void read_head(Visitor *visitor) noexcept nogil
