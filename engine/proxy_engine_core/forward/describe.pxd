# What is known of a request when its head is gone: for the log, and for answers of our own.

from proxy_engine_core.forward.transaction cimport Visitor
from proxy_engine_core.http1.head cimport Head


cdef void new_request_id(Visitor *visitor) noexcept nogil
# From a parsed head into the visitor's transaction, whose id stays if it has one.
cdef void describe(Visitor *visitor, const Head *head) noexcept nogil
