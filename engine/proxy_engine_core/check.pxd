cdef extern from "check.h" nogil:
    void CHECK(bint condition) noexcept
