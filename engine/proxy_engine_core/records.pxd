# What Python sees of the records in a worker's two rings.

from libc.stdint cimport uint8_t


cdef tuple event_tuple(const uint8_t *place)      # of the control ring: core.pyi, Event
cdef object log_record(const uint8_t *place)      # of the log ring: core.pyi, LogRecord
