# See admission.pxd.

from proxy_engine_core.bucket cimport bucket_take
from proxy_engine_core.counters cimport (
    COUNT_ADDRESS_CONNECTIONS_REFUSED, COUNT_ADDRESS_REQUESTS_REFUSED, COUNT_ADDRESSES_UNTRACKED,
    COUNT_DEVICE_BUSY_REFUSED, COUNT_DEVICE_RATE_REFUSED, COUNT_TOKEN_BUSY_REFUSED,
    COUNT_TOKEN_RATE_REFUSED, count,
)
from proxy_engine_core.forward.addresses cimport (
    AddressEntry, address_key, address_table_free, address_table_get, address_table_init,
)
from proxy_engine_core.forward.client cimport CLIENT_KEY_TRUSTED
from proxy_engine_core.forward.transaction cimport (
    ServerRole, Transaction, Visitor, server_of,
)
from proxy_engine_core.io.socket cimport Address
from proxy_engine_core.io.worker cimport Worker, worker_random
from proxy_engine_core.link.link cimport Link
from proxy_engine_core.options cimport Options
from proxy_engine_core.quota cimport (
    Quota, quota_enter, quota_is_limited, quota_leave, quota_take_request,
)


cdef int admission_init(ServerRole *role) noexcept nogil:
    cdef Worker *worker = role.worker
    cdef const Options *options = worker.options
    if not (
        options.address_connections_max or options.address_connection_rate
        or options.address_request_rate
    ):
        return 0
    return address_table_init(
        &role.addresses, <unsigned int>options.address_table_size, worker_random(worker)
    )


cdef void admission_free(ServerRole *role) noexcept nogil:
    address_table_free(&role.addresses)


cdef bint admit_connection(Worker *worker, const Address *peer) noexcept nogil:
    cdef ServerRole *role = server_of(worker)
    cdef const Options *options = worker.options
    cdef AddressEntry *entry
    if role.addresses.entries == NULL:
        return True
    entry = address_table_get(&role.addresses, address_key(peer), worker.now_us)
    if entry == NULL:
        count(worker.counters, COUNT_ADDRESSES_UNTRACKED, 1)
        return True
    if (
        options.address_connections_max and entry.connections >= options.address_connections_max
    ) or (
        options.address_connection_rate and not bucket_take(
            &entry.connects_ns, worker.now_us, options.address_connection_rate,
            options.rate_burst_ms,
        )
    ):
        count(worker.counters, COUNT_ADDRESS_CONNECTIONS_REFUSED, 1)
        return False
    return True


cdef void admission_enter(Visitor *visitor) noexcept nogil:
    cdef Worker *worker = visitor.conn.worker
    cdef ServerRole *role = server_of(worker)
    if role.addresses.entries == NULL or visitor.address_key == CLIENT_KEY_TRUSTED:
        return
    visitor.address_entry = address_table_get(
        &role.addresses, visitor.address_key, worker.now_us
    )
    if visitor.address_entry != NULL:
        visitor.address_entry.connections += 1


cdef void admission_leave(Visitor *visitor) noexcept nogil:
    if visitor.address_entry != NULL:
        visitor.address_entry.connections -= 1
        visitor.address_entry = NULL


cdef bint admit_visitor(Visitor *visitor) noexcept nogil:
    cdef Worker *worker = visitor.conn.worker
    cdef const Options *options = worker.options
    cdef AddressEntry *entry = visitor.address_entry
    if options.address_request_rate == 0:
        return True
    if visitor.transaction.client_size:
        entry = address_table_get(
            &server_of(worker).addresses, visitor.transaction.client_key, worker.now_us
        )
    if entry == NULL:
        return True
    entry.seen_us = worker.now_us
    if bucket_take(
        &entry.requests_ns, worker.now_us, options.address_request_rate, options.rate_burst_ms
    ):
        visitor.transaction.is_admitted = True
        return True
    count(worker.counters, COUNT_ADDRESS_REQUESTS_REFUSED, 1)
    return False


cdef bint refuse(
    Refusal *refusal, int status, const char *reason, const char *text
) noexcept nogil:
    refusal.status = status
    refusal.reason = reason
    refusal.text = text
    return False


cdef bint admit_device(Visitor *visitor, Link *link, Refusal *refusal) noexcept nogil:
    cdef Worker *worker = visitor.conn.worker
    cdef const Options *options = worker.options
    if options.device_requests_max and link.requests >= options.device_requests_max:
        count(worker.counters, COUNT_DEVICE_BUSY_REFUSED, 1)
        return refuse(refusal, 503, b"device_busy", b"The device is busy with others.")
    if options.device_request_rate and not visitor.transaction.is_device_admitted:
        if not bucket_take(
            &link.requests_ns, worker.now_us, options.device_request_rate, options.rate_burst_ms
        ):
            count(worker.counters, COUNT_DEVICE_RATE_REFUSED, 1)
            return refuse(refusal, 429, b"device_rate", b"Too many requests for this device.")
    visitor.transaction.is_device_admitted = True
    if quota_is_limited(link.quota):
        return admit_to_quota(visitor, link.quota, refusal)
    return True


cdef bint admit_to_quota(Visitor *visitor, Quota *quota, Refusal *refusal) noexcept nogil:
    # Each request is counted once, however often it is looked at: until it ends.
    cdef Worker *worker = visitor.conn.worker
    cdef Transaction *transaction = visitor.transaction
    if transaction.quota != quota:
        if not quota_enter(quota):
            count(worker.counters, COUNT_TOKEN_BUSY_REFUSED, 1)
            return refuse(
                refusal, 503, b"token_busy", b"Too many are connected to this device's tunnels."
            )
        if transaction.quota != NULL:     # of a link that it was sent to before
            quota_leave(transaction.quota)
        transaction.quota = quota
    if not transaction.is_quota_admitted:
        if not quota_take_request(quota, worker.now_us, worker.options.rate_burst_ms):
            count(worker.counters, COUNT_TOKEN_RATE_REFUSED, 1)
            return refuse(
                refusal, 429, b"token_rate", b"Too many requests for this device's tunnels."
            )
        transaction.is_quota_admitted = True
    return True
