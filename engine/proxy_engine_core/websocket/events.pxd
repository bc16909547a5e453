# What Connection.receive() tells. None of these types is tracked by the garbage
# collector (they can not be part of a cycle): making one never runs code of others.


cdef class Text:
    cdef readonly str data
    cdef readonly bint final

cdef class Binary:
    cdef readonly bytes data
    cdef readonly bint final

cdef class Ping:
    cdef readonly bytes data

cdef class Pong:
    cdef readonly bytes data

cdef class Close:
    cdef readonly int code
    cdef readonly str reason
    cdef readonly bint is_error
