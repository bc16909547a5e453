"""What workers do and have: see inspector.pyi."""

import os

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy

from proxy_engine_core.atomic cimport atomic_load_relaxed
from proxy_engine_core.forward.dump cimport (
    DUMP_LINK, DUMP_STREAM, DUMP_WORKER, DumpLink, DumpStream, DumpWorker,
)
from proxy_engine_core.io.sampler cimport (
    STACK_FRAMES_MAX, profile_begin, profile_end, stack_look,
)
from proxy_engine_core.mail cimport check_worker, post_dump

CONNECTION_KINDS = (
    "listener", "visitor", "link", "dial", "target", "data", "direct_target", "handshake",
    "udp_listener", "udp_target", "parting", "pacer",
)
STREAM_OWNERS = ("none", "control", "http", "target", "udp", "udp_target")


cdef class Inspector:
    cdef int check_usable(self) except -1:
        if self.crew == NULL:
            raise RuntimeError("the engine is stopped")
        return 0

    cdef void close(self):
        if self.is_profiling:
            self.is_profiling = False
            profile_end(&self.profile)
        self.crew = NULL

    def busy_since_us(self):
        cdef uint32_t index
        self.check_usable()
        return [
            atomic_load_relaxed(&self.crew.workers[index].busy_since_us)
            for index in range(self.crew.worker_count)
        ]

    def stack(self, int worker, *, uint32_t patience_ms=200):
        cdef uint64_t frames[STACK_FRAMES_MAX]
        cdef uint32_t depth = 0
        cdef int error
        self.check_usable()
        check_worker(self.crew, worker)
        # Keeps the GIL, so that the engine is not stopped, and its threads joined, meanwhile.
        error = stack_look(self.crew.workers[worker], frames, &depth, min(patience_ms, 1000))
        if error < 0:
            raise OSError(-error, os.strerror(-error))
        return [frames[index] for index in range(depth)]

    def profile_start(self, uint64_t period_us):
        cdef int error
        self.check_usable()
        if not 1000 <= period_us <= 1_000_000:
            raise ValueError(f"period_us takes 1000 to 1000000, not {period_us}")
        error = profile_begin(&self.profile, self.crew, period_us)
        if error < 0:
            raise OSError(-error, os.strerror(-error))
        self.is_profiling = True

    def profile_stop(self):
        if not self.is_profiling:
            raise RuntimeError("there is no profile of this engine")
        self.is_profiling = False
        return profile_end(&self.profile)

    def dump(
        self, uint64_t query, *, uint64_t device=0, uint32_t links=1000, uint32_t streams=1000
    ):
        self.check_usable()
        if not self.is_server:
            raise RuntimeError("an agent does not do that")
        post_dump(self.crew, query, device, links, streams)


def dump_rows(bytes packed):
    cdef const char *place = packed
    cdef const char *end = place + len(packed)
    cdef uint32_t kind
    cdef DumpWorker worker
    cdef DumpLink link
    cdef DumpStream stream
    cdef list rows = []
    while place < end:
        memcpy(&kind, place, sizeof(kind))
        place += sizeof(kind)
        if kind == DUMP_LINK:
            memcpy(&link, place, sizeof(link))
            place += sizeof(link)
            rows.append(("link", dict(link, peer=(<const char *>link.peer).decode("latin-1"))))
        elif kind == DUMP_STREAM:
            memcpy(&stream, place, sizeof(stream))
            place += sizeof(stream)
            rows.append(("stream", dict(stream, owner=STREAM_OWNERS[stream.owner])))
        elif kind == DUMP_WORKER:
            memcpy(&worker, place, sizeof(worker))
            place += sizeof(worker)
            rows.append(("worker", dict(worker)))
        else:
            raise ValueError(f"unknown row {kind}")
    return rows
