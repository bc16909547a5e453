# Walks over a worker's visitors that messages ask for, a part of them each turn: the message is
# posted again until it has come to the end. Who comes meanwhile, and stands where the walk has
# been, finds what the message tells in the quota itself.

from proxy_engine_core.io.worker cimport Worker
from proxy_engine_core.messages cimport OpenMessage, QuotaMessage


# MESSAGE_QUOTA_CHANGED: what is under way on its links counts from now on, and who waits for
# bandwidth looks again. MESSAGE_QUOTA_ENDED: who joined a tunnel by it has to go.
# True: the message is kept, for it goes on.
cdef bint walk_quota(Worker *worker, QuotaMessage *message) noexcept nogil
# MESSAGE_REQUESTS_OPEN: EVENT_REQUESTS_OPEN, several if there are many, the last one marked.
cdef bint walk_open(Worker *worker, OpenMessage *message) noexcept nogil
