# The gate of a tunnel with options: who may pass, with what credentials, and what is answered
# instead. A route without a policy has none, and asking for it is all that it costs.
#
# A request is asked each time its head is looked at, so the options of now are what counts also
# for one that waited or changed workers; before its body is read, and before a link is chosen:
# a maintenance page needs no device.

from proxy_engine_core.forward.policy cimport Policy
from proxy_engine_core.forward.reply cimport Reply
from proxy_engine_core.forward.transaction cimport Visitor
from proxy_engine_core.http1.edit cimport RequestEdit
from proxy_engine_core.http1.head cimport Head
from proxy_engine_core.io.socket cimport Address
from proxy_engine_core.io.worker cimport Worker


# Whether the visitor may use the tunnel at all. NULL: yes; else the reason (docs/errors.md), and
# it is counted.
cdef const char *gate_turns_away(Visitor *visitor, const Policy *policy) noexcept nogil
# ... of a visitor who is only an address.
cdef const char *gate_turns_address_away(
    Worker *worker, const Address *address, const Policy *policy
) noexcept nogil
# Whether this request may pass, and then as what: `edit`, and `head` without what is dropped, the
# credentials that were for us among it. False: the refusal is in `reply`, for
# transaction_answer(). Both point into the policy.
cdef bint gate_passes(
    Visitor *visitor, const Policy *policy, Head *head, RequestEdit *edit, Reply *reply
) noexcept nogil
