# See events.pxd, and events.pyi for what they mean.

cimport cython


@cython.final
@cython.no_gc
@cython.freelist(64)
cdef class Text:
    __match_args__ = ("data", "final")

    def __init__(self, str data not None, bint final=True):
        self.data = data
        self.final = final

    def __eq__(self, other):
        return isinstance(other, Text) and (
            self.data == (<Text>other).data and self.final == (<Text>other).final
        )

    def __repr__(self):
        return f"Text({self.data!r}{'' if self.final else ', final=False'})"


@cython.final
@cython.no_gc
@cython.freelist(64)
cdef class Binary:
    __match_args__ = ("data", "final")

    def __init__(self, bytes data not None, bint final=True):
        self.data = data
        self.final = final

    def __eq__(self, other):
        return isinstance(other, Binary) and (
            self.data == (<Binary>other).data and self.final == (<Binary>other).final
        )

    def __repr__(self):
        return f"Binary({self.data!r}{'' if self.final else ', final=False'})"


@cython.final
@cython.no_gc
cdef class Ping:
    __match_args__ = ("data",)

    def __init__(self, bytes data not None=b""):
        self.data = data

    def __eq__(self, other):
        return isinstance(other, Ping) and self.data == (<Ping>other).data

    def __repr__(self):
        return f"Ping({self.data!r})"


@cython.final
@cython.no_gc
cdef class Pong:
    __match_args__ = ("data",)

    def __init__(self, bytes data not None=b""):
        self.data = data

    def __eq__(self, other):
        return isinstance(other, Pong) and self.data == (<Pong>other).data

    def __repr__(self):
        return f"Pong({self.data!r})"


@cython.final
@cython.no_gc
cdef class Close:
    __match_args__ = ("code", "reason", "is_error")

    def __init__(self, int code, str reason not None="", bint is_error=False):
        self.code = code
        self.reason = reason
        self.is_error = is_error

    def __eq__(self, other):
        return isinstance(other, Close) and (
            self.code == (<Close>other).code and self.reason == (<Close>other).reason
            and self.is_error == (<Close>other).is_error
        )

    def __repr__(self):
        error = ", is_error=True" if self.is_error else ""
        return f"Close({self.code}, {self.reason!r}{error})"
