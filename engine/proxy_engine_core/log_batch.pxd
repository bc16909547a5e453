from libc.stdint cimport uint8_t

from proxy_engine_core.forward.log cimport LogHeader

# The size of the record there, its header copied out. ValueError: it does not end there.
cdef Py_ssize_t record_size(const uint8_t *place, Py_ssize_t left, LogHeader *header) except -1
