# Which links a worker works for. The control plane asks now and then; what it wants to know
# is who has much, so links that carry little are not worth an event each.

from proxy_engine_core.io.worker cimport Worker


# EVENT_LINK_LOAD for every link that carried a sixteenth or more of this worker's bytes since
# the last time.
cdef void tell_link_loads(Worker *worker) noexcept nogil
