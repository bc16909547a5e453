# See gate.pxd.

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from proxy_engine_core.counters cimport (
    COUNT_ADDRESS_DENIED, COUNT_MAINTENANCE_ANSWERS, COUNT_PATHS_REFUSED, COUNT_TUNNEL_DISABLED,
    COUNT_UNAUTHORIZED, count,
)
from proxy_engine_core.forward.policy cimport (
    POLICY_AUTH, POLICY_DISABLED, POLICY_DIGEST_SIZE, POLICY_MAINTENANCE, POLICY_SALT_SIZE_MAX,
    Policy, policy_bytes, policy_edit_request,
)
from proxy_engine_core.forward.reply cimport Reply
from proxy_engine_core.forward.transaction cimport Visitor
from proxy_engine_core.http1.edit cimport PATH_FITS, PATH_OUTSIDE, RequestEdit
from proxy_engine_core.http1.head cimport FIELD_AUTHORIZATION, Field, Head
from proxy_engine_core.http1.scan cimport equals_lower
from proxy_engine_core.io.socket cimport Address, address_bytes, address_parse
from proxy_engine_core.io.worker cimport Worker
from proxy_engine_core.networks cimport Network, network_row_has
from proxy_engine_core.sha256 cimport sha256

cdef enum:
    SCHEME_SIZE = 6                       # "Basic "
    TOKEN_SIZE_MAX = 1024                 # base64 of a name and a password; longer fits nothing


cdef bint is_denied(const Address *address, const Policy *policy) noexcept nogil:
    cdef const Network *networks = <const Network *>policy_bytes(policy, policy.networks)
    cdef uint8_t bytes[16]
    cdef int size = address_bytes(address, bytes)
    if size == 0:
        return True
    if network_row_has(networks + policy.allow_count, policy.deny_count, bytes, size):
        return True
    return policy.allow_count and not network_row_has(networks, policy.allow_count, bytes, size)


cdef const char *gate_turns_address_away(
    Worker *worker, const Address *address, const Policy *policy
) noexcept nogil:
    if policy.flags & POLICY_DISABLED:
        count(worker.counters, COUNT_TUNNEL_DISABLED, 1)
        return b"tunnel_disabled"
    if policy.networks.size and is_denied(address, policy):
        count(worker.counters, COUNT_ADDRESS_DENIED, 1)
        return b"address_denied"
    return NULL


cdef const char *gate_turns_away(Visitor *visitor, const Policy *policy) noexcept nogil:
    cdef const char *text = visitor.address
    cdef Address address
    if visitor.transaction.client_size:
        text = visitor.transaction.client
    if address_parse(&address, text, 0) < 0:
        address.storage.ss_family = 0     # nobody's, so in no network
    return gate_turns_address_away(visitor.conn.worker, &address, policy)


cdef Field *basic_field(Head *head) noexcept nogil:
    # The one Authorization field, if it is of this scheme.
    cdef Field *found = NULL
    cdef uint32_t index
    for index in range(head.field_count):
        if head.fields[index].id == FIELD_AUTHORIZATION:
            if found != NULL:
                return NULL               # targets differ about which of two counts
            found = &head.fields[index]
    if (
        found == NULL or found.value.size <= SCHEME_SIZE
        or not equals_lower(head.bytes + found.value.start, b"basic ", SCHEME_SIZE)
    ):
        return NULL
    return found


cdef bint is_authorized(const Policy *policy, const Head *head, const Field *field) noexcept nogil:
    # What comes is compared as it comes, in base64: nothing to decode, one form only. Every
    # digest is looked at, in a time that does not tell how much of it was right.
    cdef uint8_t salted[POLICY_SALT_SIZE_MAX + TOKEN_SIZE_MAX]
    cdef uint8_t digest[POLICY_DIGEST_SIZE]
    cdef const uint8_t *token = head.bytes + field.value.start + SCHEME_SIZE
    cdef const uint8_t *known = policy_bytes(policy, policy.digests)
    cdef uint32_t size = field.value.size - SCHEME_SIZE
    cdef uint32_t index, which
    cdef uint8_t differs, found = 0
    while size and token[0] == c' ':      # 1*SP (RFC 9110 section 11.4)
        token += 1
        size -= 1
    if size > TOKEN_SIZE_MAX:
        return False
    memcpy(salted, policy_bytes(policy, policy.salt), policy.salt.size)
    memcpy(salted + policy.salt.size, token, size)
    sha256(salted, policy.salt.size + size, digest)
    for which in range(policy.digest_count):
        differs = 0
        for index in range(POLICY_DIGEST_SIZE):
            differs |= known[which * POLICY_DIGEST_SIZE + index] ^ digest[index]
        found |= <uint8_t>((<uint32_t>differs - 1) >> 31)
    return found


cdef bint refuse(Reply *reply, int status, const char *reason, const char *text) noexcept nogil:
    reply.status = status
    reply.reason = reason
    reply.text = text
    return False


cdef bint gate_passes(
    Visitor *visitor, const Policy *policy, Head *head, RequestEdit *edit, Reply *reply
) noexcept nogil:
    cdef uint64_t *counters = visitor.conn.worker.counters
    cdef const char *reason = gate_turns_away(visitor, policy)
    cdef Field *field
    cdef int fit
    memset(reply, 0, sizeof(Reply))
    if reason != NULL and policy.flags & POLICY_DISABLED:
        return refuse(reply, 404, reason, b"This tunnel is switched off.")
    if reason != NULL:
        return refuse(reply, 403, reason, b"This tunnel is not open to your address.")
    if policy.flags & POLICY_MAINTENANCE:
        count(counters, COUNT_MAINTENANCE_ANSWERS, 1)
        reply.fields = <const char *>policy_bytes(policy, policy.retry_after)
        reply.page = policy_bytes(policy, policy.page)
        reply.page_size = policy.page.size
        reply.page_type = <const char *>policy_bytes(policy, policy.page_type)
        return refuse(
            reply, 503, b"maintenance", b"This service is being worked on and will be back soon."
        )
    if policy.flags & POLICY_AUTH:
        field = basic_field(head)
        if field == NULL or not is_authorized(policy, head, field):
            count(counters, COUNT_UNAUTHORIZED, 1)
            reply.fields = <const char *>policy_bytes(policy, policy.challenge)
            return refuse(reply, 401, b"unauthorized", b"A name and a password are needed here.")
        field.is_dropped = True           # it was for us
    fit = policy_edit_request(policy, head, edit)
    if fit == PATH_FITS:
        return True
    count(counters, COUNT_PATHS_REFUSED, 1)
    if fit == PATH_OUTSIDE:
        return refuse(reply, 404, b"outside_prefix", b"This tunnel has no such path.")
    return refuse(
        reply, 400, b"ambiguous_path", b"This tunnel takes no paths with . or .. in them."
    )
