# See policy_pack.pxd. What gets past here goes onto wires as it is: lines of fields that can
# neither end a head nor frame a body, a host that is one, a path that is one.

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memset

from proxy_engine_core.forward.policy cimport (
    POLICY_AUTH, POLICY_DIGEST_SIZE, POLICY_DIGESTS_MAX, POLICY_DISABLED, POLICY_EDITS_REQUEST,
    POLICY_EDITS_RESPONSE, POLICY_LINES_SIZE_MAX, POLICY_MAINTENANCE, POLICY_NETWORKS_MAX,
    POLICY_PAGE_SIZE_MAX, POLICY_PREFIX_SIZE_MAX, POLICY_REALM_SIZE_MAX, POLICY_RETRY_AFTER_MAX,
    POLICY_RULES_MAX, POLICY_SALT_SIZE_MAX, POLICY_SERVER_TIMING, Policy, PolicyEdit,
)
from proxy_engine_core.http1.edit cimport EDIT_NAME_SIZE_MAX
from proxy_engine_core.http1.field cimport field_name_id
from proxy_engine_core.http1.head cimport (
    FIELD_ACCEPT, FIELD_AUTHORIZATION, FIELD_COOKIE, FIELD_OTHER, FIELD_TRACEPARENT,
    FIELD_TRACESTATE, Span,
)
from proxy_engine_core.http1.request_line cimport authority_parse
from proxy_engine_core.http1.scan cimport CHAR_TOKEN, scan_class
from proxy_engine_core.io.profile cimport (
    PROFILE_BALANCED, PROFILE_LATENCY, PROFILE_THROUGHPUT,
)
from proxy_engine_core.networks cimport Network, network_parse

cdef frozenset TCP_OPTIONS = frozenset({"disabled", "allow", "deny", "profile"})
cdef frozenset HTTP_OPTIONS = TCP_OPTIONS | {
    "basic_auth", "host", "maintenance", "request_headers", "response_headers", "server_timing",
    "strip_prefix",
}
cdef dict PROFILES = {
    "balanced": PROFILE_BALANCED, "throughput": PROFILE_THROUGHPUT, "latency": PROFILE_LATENCY,
}
cdef dict PAGE_TYPES = {
    "html": b"text/html; charset=utf-8", "json": b"application/json",
    "text": b"text/plain; charset=utf-8",
}
# Segments of a path, as nobody needs to encode them (RFC 3986 section 3.3, without "%" and ";").
cdef frozenset PREFIX_BYTES = frozenset(
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~!$&'()*+,=:@/"
)


cdef bytes policy_pack(dict options, bint is_tcp):
    cdef Policy policy
    cdef bytearray tail = bytearray()
    memset(&policy, 0, sizeof(Policy))
    check_names("option", options, TCP_OPTIONS if is_tcp else HTTP_OPTIONS)
    if options.get("disabled"):
        policy.flags |= POLICY_DISABLED
    if options.get("profile", "balanced") not in PROFILES:
        raise ValueError(
            f"unknown profile {options['profile']!r}; there are {', '.join(sorted(PROFILES))}"
        )
    policy.profile = PROFILES[options.get("profile", "balanced")]
    networks = pack_networks(options.get("allow"), &policy.allow_count)
    networks += pack_networks(options.get("deny"), &policy.deny_count)
    if policy.allow_count + policy.deny_count > POLICY_NETWORKS_MAX:
        raise ValueError(f"more than {POLICY_NETWORKS_MAX} networks")
    policy.networks = put(tail, networks)
    if options.get("maintenance") is not None:
        pack_maintenance(&policy, tail, options["maintenance"])
    if options.get("basic_auth") is not None:
        pack_auth(&policy, tail, options["basic_auth"])
    policy.prefix = put(tail, read_prefix(options.get("strip_prefix") or ""))
    policy.host = put(tail, read_host(options.get("host") or ""))
    pack_rules(&policy.request, tail, options.get("request_headers"))
    pack_rules(&policy.response, tail, options.get("response_headers"))
    if (
        policy.request.names.size or policy.request.lines.size or policy.host.size
        or policy.prefix.size
    ):
        policy.flags |= POLICY_EDITS_REQUEST
    # A target that is told another host or path names it in its redirects.
    if (
        policy.response.names.size or policy.response.lines.size or policy.host.size
        or policy.prefix.size
    ):
        policy.flags |= POLICY_EDITS_RESPONSE
    if options.get("server_timing"):
        policy.flags |= POLICY_SERVER_TIMING | POLICY_EDITS_RESPONSE
    policy.size = <uint32_t>(sizeof(Policy) + len(tail))
    return (<const uint8_t *>&policy)[:sizeof(Policy)] + bytes(tail)


cdef Span put(bytearray tail, bytes content):
    cdef Span span
    span.start = <uint32_t>(sizeof(Policy) + len(tail))
    span.size = <uint32_t>len(content)
    tail += content
    return span


cdef int check_names(str what, options, frozenset known) except -1:
    if not isinstance(options, dict):
        raise ValueError(f"{what}s come as a dict, not {options!r}")
    for name in options:
        if name not in known:
            raise ValueError(f"unknown {what} {name!r}; there are {', '.join(sorted(known))}")
    return 0


cdef bytes read_bytes(str what, value, Py_ssize_t size_min, Py_ssize_t size_max):
    if not isinstance(value, bytes) or not size_min <= len(value) <= size_max:
        raise ValueError(f"{what} takes {size_min} to {size_max} bytes")
    return value


cdef bytes read_ascii(str what, value):
    # Printable; a tab is not.
    if not isinstance(value, str) or not value.isascii() or not value.isprintable():
        raise ValueError(f"{what} takes printable ASCII, not {value!r}")
    return value.encode()


cdef bytes pack_networks(texts, uint32_t *count):
    cdef Network network
    cdef bytearray rows = bytearray()
    for text in texts or ():
        network_parse(&network, text)
        rows += (<const uint8_t *>&network)[:sizeof(Network)]
        count[0] += 1
    return bytes(rows)


cdef int pack_maintenance(Policy *policy, bytearray tail, page) except -1:
    check_names("maintenance option", page, frozenset({"retry_after", "kind", "body"}))
    retry_after = page.get("retry_after", 300)
    kind = page.get("kind", "html")
    if not isinstance(retry_after, int) or not 1 <= retry_after <= POLICY_RETRY_AFTER_MAX:
        raise ValueError(f"retry_after takes 1 to {POLICY_RETRY_AFTER_MAX} seconds")
    if kind not in PAGE_TYPES:
        raise ValueError(f"a maintenance page is html, json or text, not {kind!r}")
    policy.flags |= POLICY_MAINTENANCE
    policy.retry_after = put(tail, b"Retry-After: %d\r\n\0" % retry_after)
    policy.page_type = put(tail, PAGE_TYPES[kind] + b"\0")
    policy.page = put(
        tail, read_bytes("a maintenance page", page.get("body", b""), 0, POLICY_PAGE_SIZE_MAX)
    )
    return 0


cdef int pack_auth(Policy *policy, bytearray tail, auth) except -1:
    check_names("basic_auth option", auth, frozenset({"realm", "salt", "digests"}))
    realm = read_ascii("a realm", auth.get("realm"))
    if not 0 < len(realm) <= POLICY_REALM_SIZE_MAX or b'"' in realm or b"\\" in realm:
        raise ValueError(f"a realm has 1 to {POLICY_REALM_SIZE_MAX} bytes without \" and \\")
    digests = list(auth.get("digests", ()))
    if not 0 < len(digests) <= POLICY_DIGESTS_MAX:
        raise ValueError(f"basic_auth takes 1 to {POLICY_DIGESTS_MAX} digests")
    for digest in digests:
        read_bytes("a digest", digest, POLICY_DIGEST_SIZE, POLICY_DIGEST_SIZE)
    policy.flags |= POLICY_AUTH
    policy.challenge = put(
        tail, b'WWW-Authenticate: Basic realm="%b", charset="UTF-8"\r\n\0' % realm
    )
    policy.salt = put(tail, read_bytes("a salt", auth.get("salt"), 1, POLICY_SALT_SIZE_MAX))
    policy.digests = put(tail, b"".join(digests))
    policy.digest_count = <uint32_t>len(digests)
    return 0


cdef bytes read_prefix(str text):
    cdef bytes prefix = text.encode()
    if not prefix:
        return prefix
    segments = prefix.split(b"/")
    if (
        len(prefix) > POLICY_PREFIX_SIZE_MAX or not PREFIX_BYTES.issuperset(prefix)
        or segments[0] or not all(segments[1:]) or b"." in segments or b".." in segments
    ):
        raise ValueError(f"strip_prefix takes a path such as /api, not {text!r}")
    return prefix


cdef bytes read_host(str text):
    cdef bytes host = text.encode()
    cdef Span authority, name
    authority.start = 0
    authority.size = <uint32_t>len(host)
    if host and authority_parse(host, authority, &name) < 0:
        raise ValueError(f"host takes a name or an address, and a port if any, not {text!r}")
    return host


# --- rules for fields -----------------------------------------------------------------------

cdef int pack_rules(PolicyEdit *edit, bytearray tail, rules) except -1:
    cdef bytearray names = bytearray()
    cdef bytearray lines = bytearray()
    rules = list(rules or ())
    if len(rules) > POLICY_RULES_MAX:
        raise ValueError(f"more than {POLICY_RULES_MAX} header rules")
    for rule in rules:
        name, value = read_rule(rule)
        if rule[0] != "add":
            names.append(<uint8_t>len(name))
            # "_" is "-" to CGI targets, so a rule for the one is a rule for the other.
            names += name.lower().replace(b"_", b"-")
        if value is not None:
            lines += name + b": " + value + b"\r\n"
    if len(lines) > POLICY_LINES_SIZE_MAX:
        raise ValueError(f"header rules add {len(lines)} bytes, more than {POLICY_LINES_SIZE_MAX}")
    edit.names = put(tail, bytes(names))
    edit.lines = put(tail, bytes(lines))
    return 0


cdef tuple read_rule(rule):
    # Its name and its value; None: it adds none.
    match rule:
        case ("remove", str() as name):
            value = None
        case ("set" | "add", str() as name, str() as text):
            value = read_ascii("a header value", text)
            if value != value.strip():
                raise ValueError(f"a header value begins and ends without spaces, not {text!r}")
        case _:
            raise ValueError(
                f"a header rule is (set, name, value), (add, name, value) or (remove, name), "
                f"not {rule!r}"
            )
    return read_name(name), value


cdef bytes read_name(str text):
    # What frames a message, routes it, belongs to one hop, or is written by us is not for rules.
    cdef bytes name = text.encode()
    cdef const uint8_t *start = name
    cdef Py_ssize_t size = len(name)
    if not 0 < size <= EDIT_NAME_SIZE_MAX or scan_class(start, start + size, CHAR_TOKEN) != (
        start + size
    ):
        raise ValueError(f"{text!r} is not the name of a header")
    plain = name.lower().replace(b"_", b"-")
    start = plain
    if field_name_id(start, <uint32_t>size) not in (
        FIELD_OTHER, FIELD_ACCEPT, FIELD_AUTHORIZATION, FIELD_COOKIE, FIELD_TRACEPARENT,
        FIELD_TRACESTATE,
    ) or plain.startswith((b"sec-websocket-", b"proxy-")):
        raise ValueError(f"header rules can not touch {text}")
    return name
