# Kinds of control events towards Python; core.pyi describes their fields.

cdef enum EventKind:
    EVENT_AUTH = 1
    EVENT_LINK_UP = 2
    EVENT_LINK_DOWN = 3
    EVENT_CONTROL = 4
    EVENT_DIAL_FAILED = 5
    EVENT_TARGET_FAILED = 6
    EVENT_DRAINED = 7
    EVENT_PRESSURE = 8
    EVENT_LINK_SPENT = 9
    EVENT_LINK_LOAD = 10
    EVENT_REQUESTS_OPEN = 11
    EVENT_SLOW_TURN = 12
    EVENT_DUMP = 13
