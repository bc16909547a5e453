# TLS sessions of either role against what a hostile peer sends: the handshake, then records. The
# peer is a session of the other role, so what it says is encrypted as it should be, and the input
# edits that on its way; or there is none, and the input is all the peer says.
#
# Nothing is left to chance: every side has random numbers of its own, the same for every input,
# and time stands still (main.c). So the same input is played twice, the second time in pieces.
#
# Input: two bytes of choices, then edits, or what the peer says:
#     bit 0     the client is the victim, else the server
#     bit 1     TLS 1.2, else 1.3
#     bit 2     the server asks for a certificate
#     bit 3     a session is resumed
#     bit 4     there is no peer: the rest of the input is what it says
#     bits 5-7  how the second play is cut (Cuts)
# and of the second byte, once its handshake is done
#     bit 0     the peer sends 100 bytes
#     bit 1     the peer sends two records
#     bit 2     the peer wants other keys (1.3)
#     bit 3     the peer finishes
#     bit 4     the victim sends 100 bytes
#     bit 5     the victim finishes
# An edit is the number of bytes (16 bits) that pass before it, its kind, a number n, and:
#     0  the next byte is changed by exclusive or with n
#     1  n bytes of the input come in between
#     2  n bytes are left out
#     3  the last n bytes come again
#     4  nothing comes any more
#
# Permitted: both plays do the same, to the byte. What the victim reads is what the peer wrote, from
# its beginning; it hears of an end only if the peer has said so, after everything. A failure has a
# line of text. When nothing more comes the session has ended or failed.

import os

from libc.errno cimport EAGAIN, EPROTO
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdio cimport FILE, fclose, fopen, fwrite, snprintf
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memset, strcmp

from input cimport REQUIRE, Cuts, cuts_init, cuts_next, exact
from proxy_engine_core.io.openssl cimport (
    SSL, SSL_CTX, SSL_SESSION, SSL_SESSION_free, TLS1_2_VERSION,
)
from proxy_engine_core.io.tls_openssl cimport (
    TLS_ERROR_SIZE, TLS_SESSIONS_MAX, TlsContext, TlsSession, tls_context_hold,
    tls_session_finish, tls_session_free, tls_session_handshake, tls_session_is_resumed,
    tls_session_names, tls_session_read, tls_session_start, tls_session_write,
)
from proxy_engine_core.tls cimport TlsClient, TlsServer

cdef extern from *:
    """
    /* RAND_set_rand_method() is the one way to say what is random to all of OpenSSL. */
    #pragma clang diagnostic ignored "-Wdeprecated-declarations"
    """
cdef extern from "<openssl/rand.h>" nogil:
    ctypedef struct RAND_METHOD:
        int (*seed)(const void *bytes, int size) noexcept nogil
        int (*bytes)(unsigned char *target, int size) noexcept nogil
        int (*pseudorand)(unsigned char *target, int size) noexcept nogil
        int (*status)() noexcept nogil
    int RAND_set_rand_method(const RAND_METHOD *method)
cdef extern from "<openssl/ssl.h>" nogil:
    int SSL_CTX_set_max_proto_version(SSL_CTX *context, int version)
    int SSL_key_update(SSL *ssl, int kind)
    int SSL_KEY_UPDATE_REQUESTED

cdef enum:
    INBOX_SIZE = 256 * 1024               # ciphertext for one side, more than there can be
    SPOKEN_SIZE = 24 * 1024               # what a peer writes: a long record and a short one
    ROUNDS_MAX = 40
    READ_SIZE = 5000                      # less than a record
    NAMES_SIZE = 40                       # too few for some

cdef enum Choice:
    CHOICE_CLIENT = 1
    CHOICE_1_2 = 2
    CHOICE_MUTUAL = 4
    CHOICE_RESUMED = 8
    CHOICE_ALONE = 16
    CHOICE_CUTS_SHIFT = 5

cdef enum Deed:
    DEED_SHORT = 1
    DEED_LONG = 2
    DEED_KEYS = 4
    DEED_FINISH = 8
    DEED_VICTIM_SHORT = 16
    DEED_VICTIM_FINISH = 32

cdef enum Edit:
    EDIT_CHANGE
    EDIT_INSERT
    EDIT_LEAVE_OUT
    EDIT_REPEAT
    EDIT_CUT_OFF
    EDIT_KINDS

cdef struct Side:
    TlsSession session                    # first: pull and push get it
    uint64_t random
    Side *other
    bint is_edited                        # what it says is
    bint is_checked                       # what it hears is what the other side wrote
    uint8_t inbox[INBOX_SIZE]
    uint32_t size
    uint32_t visible                      # of it so far
    uint32_t used
    bint has_ended                        # nothing comes behind `size`
    bint is_open
    bint has_acted
    int result                            # -EAGAIN until it is over
    uint32_t heard                        # bytes of plaintext
    uint64_t said                         # ciphertext pushed: a hash
    uint32_t said_size
    char error[TLS_ERROR_SIZE]

cdef struct Script:                       # the edits, and where in them we are
    const uint8_t *bytes
    size_t size
    size_t used
    uint32_t passing                      # bytes until the next edit; SILENT: there is none
    uint32_t leaving_out
    uint8_t change
    bint is_cut_off

cdef struct Outcome:
    bint is_open
    bint is_resumed
    int result
    uint32_t heard
    uint64_t said
    uint32_t said_size
    uint32_t names_size
    char names[NAMES_SIZE]
    char error[TLS_ERROR_SIZE]

cdef enum:
    SILENT = 0xFFFFFFFF

cdef RAND_METHOD random_method
cdef uint64_t *random_now                 # of the side that is at work
cdef uint64_t random_start = 1
cdef list kept = []                       # the objects of the contexts
cdef TlsContext *servers[2][2]             # by version and whether it asks for a certificate
cdef TlsContext *clients[2]
cdef Side victim_side
cdef Side peer_side
cdef Script script
cdef uint8_t[SPOKEN_SIZE] spoken
cdef FILE *recording

KEY = b"""-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgz5TgshsSXMUIWzwb
IIwUyItVdeBAikYjEUxYhE59IVyhRANCAARd6stAbKiSRBoS9OwLNi3YdkTHZTLm
/TXCSeAD91N+IaYAGzZkhVl6fG5pGPZJ5Q+O2VOsWgBh8KCj9IvdzBo5
-----END PRIVATE KEY-----
"""
# For web.test, signed with that key, until 2126.
CERTIFICATE = b"""-----BEGIN CERTIFICATE-----
MIIBkjCCATigAwIBAgIUWdWYN/5i8OBDH5DxYkOfOjrCbWEwCgYIKoZIzj0EAwIw
EzERMA8GA1UEAwwId2ViLnRlc3QwIBcNMjYxMTIyMTQzOTU3WhgPMjEyNjEwMjkx
NDM5NTdaMBMxETAPBgNVBAMMCHdlYi50ZXN0MFkwEwYHKoZIzj0CAQYIKoZIzj0D
AQcDQgAEXerLQGyokkQaEvTsCzYt2HZEx2Uy5v01wkngA/dTfiGmABs2ZIVZenxu
aRj2SeUPjtlTrFoAYfCgo/SL3cwaOaNoMGYwHQYDVR0OBBYEFMJKnTiENPdGhcCX
86QoG8b+9w0xMB8GA1UdIwQYMBaAFMJKnTiENPdGhcCX86QoG8b+9w0xMA8GA1Ud
EwEB/wQFMAMBAf8wEwYDVR0RBAwwCoIId2ViLnRlc3QwCgYIKoZIzj0EAwIDSAAw
RQIhAJaZ9v0nHLpuSWm55caQ8JWPANuHsfIPcBfh81Qe6qXvAiAvSYWCxCPt6y7s
RROaASsX1mqoFyFPOS+8vvnJhM0xug==
-----END CERTIFICATE-----
"""


cdef int random_bytes(unsigned char *target, int size) noexcept nogil:
    """splitmix64."""
    cdef uint64_t word
    cdef int index
    for index in range(size):
        random_now[0] += 0x9E3779B97F4A7C15u
        word = random_now[0]
        word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9u
        word = (word ^ (word >> 27)) * 0x94D049BB133111EBu
        target[index] = <uint8_t>(word >> 56)
    return 1


cdef int random_seed(const void *bytes, int size) noexcept nogil:
    return 1


cdef int random_status() noexcept nogil:
    return 1


cdef void set_up():
    """Once, at import."""
    global random_now, recording
    cdef TlsServer server
    cdef TlsClient client
    cdef int version, asks
    cdef uint32_t index
    random_now = &random_start
    random_method.seed = random_seed
    random_method.bytes = random_bytes
    random_method.pseudorand = random_bytes
    random_method.status = random_status
    RAND_set_rand_method(&random_method)
    for index in range(SPOKEN_SIZE):
        spoken[index] = <uint8_t>(index * 7 + (index >> 8))
    for version, minimum in enumerate(("1.3", "1.2")):
        client = TlsClient(
            "web.test", ca=CERTIFICATE, chain=CERTIFICATE, key=KEY, minimum=minimum
        )
        kept.append(client)
        clients[version] = client.context
        if version:
            SSL_CTX_set_max_proto_version(
                <SSL_CTX *>client.context.identities[0], TLS1_2_VERSION
            )
        for asks in range(2):
            server = TlsServer(
                [(("web.test",), CERTIFICATE, KEY), (("*.other.test",), CERTIFICATE, KEY)],
                client_ca=CERTIFICATE if asks else b"", client_required=bool(asks),
                minimum=minimum, unknown_name="refuse" if asks else "default",
            )
            kept.append(server)
            servers[version][asks] = server.context
    if "FUZZ_RECORDING" in os.environ:
        recording = fopen(os.environ["FUZZ_RECORDING"].encode(), b"wb")
        if recording == NULL:
            raise OSError("FUZZ_RECORDING can not be written")


# --- the wire -------------------------------------------------------------------------------

cdef int64_t pull(TlsSession *session, uint8_t *target, size_t size) noexcept nogil:
    cdef Side *side = <Side *>session
    cdef size_t given = min(size, <size_t>(side.visible - side.used))
    if given:
        memcpy(target, side.inbox + side.used, given)
        side.used += <uint32_t>given
        return <int64_t>given
    return 0 if side.has_ended and side.used == side.size else -EAGAIN


cdef int push(TlsSession *session, const uint8_t *source, size_t size) noexcept nogil:
    cdef Side *side = <Side *>session
    cdef size_t index
    for index in range(size):
        side.said = (side.said ^ source[index]) * 0x100000001B3u
        if side.is_edited:
            edited(side.other, source[index])
        else:
            deliver(side.other, source[index])
    side.said_size += <uint32_t>size
    return 0


cdef void deliver(Side *side, uint8_t byte) noexcept nogil:
    REQUIRE(side.size < INBOX_SIZE)
    side.inbox[side.size] = byte
    side.size += 1


cdef void edited(Side *side, uint8_t byte) noexcept nogil:
    while script.passing == 0:
        edit(side)
    if script.is_cut_off:
        return
    if script.passing != SILENT:
        script.passing -= 1
    if script.leaving_out:
        script.leaving_out -= 1
        return
    deliver(side, byte ^ script.change)
    script.change = 0


cdef void next_edit() noexcept nogil:
    if script.size - script.used < 4:
        script.passing = SILENT
        return
    script.passing = (script.bytes[script.used] << 8) | script.bytes[script.used + 1]
    script.used += 2


cdef void edit(Side *side) noexcept nogil:
    cdef uint8_t kind = script.bytes[script.used] % <uint8_t>EDIT_KINDS
    cdef uint32_t number = script.bytes[script.used + 1]
    script.used += 2
    if kind == EDIT_CHANGE:
        script.change = <uint8_t>number
    elif kind == EDIT_INSERT:
        for _index in range(min(number, <uint32_t>(script.size - script.used))):
            deliver(side, script.bytes[script.used])
            script.used += 1
    elif kind == EDIT_LEAVE_OUT:
        script.leaving_out = number
    elif kind == EDIT_REPEAT:
        number = min(number, side.size)
        for _index in range(number):
            deliver(side, side.inbox[side.size - number])
    else:
        script.is_cut_off = True
        script.passing = SILENT
        side.has_ended = True
        return
    next_edit()


# --- the sides ------------------------------------------------------------------------------

cdef void side_start(Side *side, Side *other, TlsContext *context, uint64_t random) noexcept nogil:
    global random_now
    memset(side, 0, sizeof(Side))
    side.other = other
    side.random = random
    side.result = -EAGAIN
    side.session.context = tls_context_hold(context)
    side.session.pull = pull
    side.session.push = push
    random_now = &side.random
    REQUIRE(tls_session_start(&side.session) == 0)


cdef void side_end(Side *side) noexcept nogil:
    global random_now
    random_now = &side.random
    tls_session_free(&side.session)


cdef void step(Side *side) noexcept nogil:
    """With what is visible to it."""
    global random_now
    cdef uint8_t *target
    cdef int result
    random_now = &side.random
    if side.result != -EAGAIN:
        return
    if not side.is_open:
        result = tls_session_handshake(&side.session, side.error)
        if result == 1:
            side.is_open = True
        elif result != -EAGAIN:
            side.result = result
    while side.is_open and side.result == -EAGAIN:
        target = <uint8_t *>malloc(READ_SIZE)
        result = tls_session_read(&side.session, target, READ_SIZE, side.error)
        if result > 0:
            check_heard(side, target, <uint32_t>result)
        free(target)
        if result == -EAGAIN:
            break
        if result <= 0:
            side.result = result
    REQUIRE(side.result in (-EAGAIN, 0, -EPROTO))
    if side.result == -EPROTO:
        check_line(side.error)


cdef void check_heard(Side *side, const uint8_t *bytes, uint32_t size) noexcept nogil:
    cdef uint32_t index
    REQUIRE(size <= READ_SIZE)
    if side.is_checked:
        for index in range(size):
            REQUIRE(bytes[index] == spoken[(side.heard + index) % SPOKEN_SIZE])
    side.heard += size


cdef void check_line(const char *error) noexcept nogil:
    cdef uint32_t index = 0
    while index < TLS_ERROR_SIZE and error[index]:
        REQUIRE(32 <= <uint8_t>error[index] < 127)
        index += 1
    REQUIRE(0 < index < TLS_ERROR_SIZE)


cdef void say(Side *side, uint32_t size) noexcept nogil:
    """Bytes of `spoken`, from its beginning at first."""
    cdef uint32_t done = 0
    cdef int result
    while done < size:
        result = tls_session_write(&side.session, spoken + done, size - done, side.error)
        if result <= 0:
            side.result = result
            return
        done += <uint32_t>result


cdef uint32_t peer_acts(uint8_t deeds) noexcept nogil:
    """Bytes it has said then."""
    global random_now
    random_now = &peer_side.random
    if deeds & DEED_LONG:
        say(&peer_side, SPOKEN_SIZE)
    if deeds & DEED_KEYS:
        SSL_key_update(<SSL *>peer_side.session.ssl, SSL_KEY_UPDATE_REQUESTED)
    if deeds & DEED_SHORT:
        say(&peer_side, 100)
    if deeds & DEED_FINISH:
        tls_session_finish(&peer_side.session)
    return (SPOKEN_SIZE if deeds & DEED_LONG else 0) + (100 if deeds & DEED_SHORT else 0)


cdef void victim_acts(uint8_t deeds) noexcept nogil:
    global random_now
    random_now = &victim_side.random
    if deeds & DEED_VICTIM_SHORT and victim_side.result == -EAGAIN:
        say(&victim_side, 100)
    if deeds & DEED_VICTIM_FINISH and victim_side.result == -EAGAIN:
        tls_session_finish(&victim_side.session)


# --- a play ---------------------------------------------------------------------------------

cdef void play(
    TlsContext *victim, TlsContext *peer, uint8_t deeds, uint8_t cut, Outcome *outcome
) noexcept nogil:
    cdef Cuts cuts
    cdef uint32_t before
    cdef uint32_t said = 0
    cdef uint32_t turn
    cuts_init(&cuts, cut)
    side_start(&victim_side, &peer_side, victim, 17)
    if peer != NULL:
        side_start(&peer_side, &victim_side, peer, 23)
        peer_side.is_edited = True
        victim_side.is_checked = True
        script.used = 0
        script.leaving_out = 0
        script.change = 0
        script.is_cut_off = False
        next_edit()
    else:
        peer_side.size = 0                # it only listens
        memcpy(victim_side.inbox, script.bytes, script.size)
        victim_side.size = <uint32_t>script.size
    for turn in range(ROUNDS_MAX):
        before = victim_side.size + peer_side.size
        if peer != NULL:
            peer_side.visible = peer_side.size
            step(&peer_side)
            if peer_side.is_open and not peer_side.has_acted and peer_side.result == -EAGAIN:
                peer_side.has_acted = True
                said = peer_acts(deeds)
        step(&victim_side)                # a client speaks first
        while victim_side.visible < victim_side.size:
            victim_side.visible += <uint32_t>cuts_next(
                &cuts, victim_side.size - victim_side.visible
            )
            step(&victim_side)
        if victim_side.is_open and not victim_side.has_acted:
            victim_side.has_acted = True
            victim_acts(deeds)
        if turn and before == victim_side.size + peer_side.size:
            break
    REQUIRE(turn < ROUNDS_MAX - 1)
    victim_side.has_ended = True
    step(&victim_side)
    REQUIRE(victim_side.result != -EAGAIN)
    if peer != NULL:
        REQUIRE(victim_side.heard <= said)
        if victim_side.result == 0:
            REQUIRE(victim_side.heard == said and deeds & DEED_FINISH)
    memset(outcome, 0, sizeof(Outcome))
    outcome.is_open = victim_side.is_open
    outcome.is_resumed = tls_session_is_resumed(&victim_side.session)
    outcome.result = victim_side.result
    outcome.heard = victim_side.heard
    outcome.said = victim_side.said
    outcome.said_size = victim_side.said_size
    if victim_side.is_open:
        outcome.names_size = tls_session_names(&victim_side.session, outcome.names, NAMES_SIZE)
        REQUIRE(outcome.names_size <= NAMES_SIZE)
    if victim_side.result == -EPROTO:
        snprintf(outcome.error, TLS_ERROR_SIZE, "%s", victim_side.error)
    side_end(&victim_side)
    if peer != NULL:
        side_end(&peer_side)


cdef void forget(TlsContext *client) noexcept nogil:
    """The sessions it could resume."""
    cdef uint32_t index
    for index in range(TLS_SESSIONS_MAX):
        SSL_SESSION_free(<SSL_SESSION *>client.sessions[index])
        client.sessions[index] = NULL
    client.session_count = 0


cdef void whole_play(
    uint8_t choice, uint8_t deeds, uint8_t cut, Outcome *outcome
) noexcept nogil:
    cdef bint is_1_2 = choice & CHOICE_1_2 != 0
    cdef TlsContext *client = clients[is_1_2]
    cdef TlsContext *server = servers[is_1_2][choice & CHOICE_MUTUAL != 0]
    cdef TlsContext *victim = client if choice & CHOICE_CLIENT else server
    cdef TlsContext *peer = server if choice & CHOICE_CLIENT else client
    cdef size_t size = script.size
    if choice & CHOICE_RESUMED:
        script.size = 0
        play(victim, peer, DEED_FINISH, 0, outcome)
        REQUIRE(outcome.is_open)
        script.size = size
    play(victim, NULL if choice & CHOICE_ALONE else peer, deeds, cut, outcome)
    forget(client)


cdef api int one_input(const uint8_t *data, size_t size) noexcept nogil:
    cdef Outcome whole, cut
    cdef uint8_t *copy
    if size < 2 or size > INBOX_SIZE // 4:
        return 0
    copy = exact(data, size)
    memset(&script, 0, sizeof(script))
    script.bytes = copy + 2
    script.size = size - 2
    whole_play(copy[0], copy[1], 0, &whole)
    if recording != NULL:
        record(copy[0], copy[1])
    if copy[0] >> CHOICE_CUTS_SHIFT:
        whole_play(copy[0], copy[1], copy[0] >> CHOICE_CUTS_SHIFT, &cut)
        REQUIRE(strcmp(whole.error, cut.error) == 0)
        REQUIRE(memcmp(&whole, &cut, sizeof(Outcome)) == 0)
    free(copy)
    return 0


cdef void record(uint8_t choice, uint8_t deeds) noexcept nogil:
    """What came of an input, as one without a peer: FUZZ_RECORDING=FILE, with --replay."""
    cdef uint8_t[2] head = [choice | <uint8_t>CHOICE_ALONE, deeds]
    fwrite(head, 1, 2, recording)
    fwrite(victim_side.inbox, 1, victim_side.size, recording)
    fclose(recording)


set_up()
