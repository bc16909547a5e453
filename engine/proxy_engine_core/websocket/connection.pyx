# The Python face of the codec. See connection.pyi for the contract.
#
#   open ──── our close() ────▶ closing ──── Close received ────▶ closed
#     └── Close received, or ─▶ closing ──── outgoing() ──────────▶
#         a protocol error              (sending works until then)
#
# What all connections share (memory between calls, zlib's streams, the stock of masking
# keys) is guarded by the GIL, and no code of others may run while a call uses it. Only
# urandom() releases the GIL. Events are not tracked by the garbage collector, so making
# them never starts it.

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport uint8_t, uint16_t, uint64_t
from libc.string cimport memcpy

from os import register_at_fork, urandom

from proxy_engine_core.buffer cimport (
    Buffer, BufferPool, buffer_free, buffer_head, buffer_init, buffer_pool_init, buffer_size,
)
from proxy_engine_core.simd cimport simd_mask
from proxy_engine_core.websocket.deflate cimport (
    WS_DEFLATE_SIZE_MIN, WS_WINDOW_BITS_MAX, WS_WINDOW_BITS_MIN, WsDeflate, ws_deflate,
    ws_deflate_init,
)
from proxy_engine_core.websocket.events cimport Binary, Close, Ping, Pong, Text
from proxy_engine_core.websocket.frame cimport (
    WS_BINARY, WS_CLOSE, WS_COMPRESSED, WS_CONTINUATION, WS_CONTROL_SIZE_MAX, WS_ERROR_INTERNAL,
    WS_ERROR_PROTOCOL, WS_ERROR_TOO_BIG, WS_ERROR_UTF8, WS_EVENT_CLOSE, WS_EVENT_DATA,
    WS_EVENT_PING, WS_EVENT_PONG, WS_PING, WS_PONG, WS_TEXT, WsEvent, ws_close_code_is_valid,
    ws_header_encode, ws_header_size,
)
from proxy_engine_core.websocket.message cimport (
    WS_MESSAGE_SIZE_MAX, WsMessages, ws_frame_write, ws_messages_free,
    ws_messages_init, ws_messages_next,
)
from proxy_engine_core.wire cimport store_be16


cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL
    object PyUnicode_DecodeUTF8Stateful(
        const char *data, Py_ssize_t size, const char *errors, Py_ssize_t *consumed
    )
    bint PyUnicode_IS_COMPACT_ASCII(object text)


cdef enum:
    PIECE_SIZE = 32 * 1024        # input is unmasked on the stack: the caller's may not change
    KEY_SIZE = 4
    KEYS_SIZE = 1024 * KEY_SIZE   # masking keys asked from the system at a time
    REST_MAX = 3                  # bytes of a UTF-8 character that is not whole
    WINDOW_BITS_LEAST = 8         # that can be agreed on (RFC 7692, 7.1.2)
    CLOSE_NO_STATUS = 1005        # these two are never on the wire
    CLOSE_ABNORMAL = 1006

MAX_MESSAGE_SIZE = 16 * 1024 * 1024

cdef BufferPool pool
cdef WsDeflate shared_deflate
cdef Buffer deflated                  # output of ws_deflate(); empty between calls
buffer_pool_init(&pool)
ws_deflate_init(&shared_deflate)
buffer_init(&deflated, &pool, 0)

cdef bytes keys = b""
cdef Py_ssize_t keys_used = 0


def _forget_keys():
    # A forked child may not mask with the keys of its parent.
    global keys, keys_used
    keys = b""
    keys_used = 0


register_at_fork(after_in_child=_forget_keys)


cdef int prepare_key() except -1:
    # The next new_key() will not ask the system, which lets other threads run.
    global keys, keys_used
    cdef bytes fresh
    while keys_used == PyBytes_GET_SIZE(keys):
        fresh = urandom(KEYS_SIZE)
        if keys_used == PyBytes_GET_SIZE(keys):   # else another thread was quicker
            keys = fresh
            keys_used = 0
    return 0


cdef const uint8_t *new_key() except NULL:
    # A fresh masking key (section 5.3: from a strong source), good as long as no other
    # thread runs.
    global keys_used
    prepare_key()
    keys_used += KEY_SIZE
    return <const uint8_t *>PyBytes_AS_STRING(keys) + keys_used - KEY_SIZE


cdef dict ERROR_REASONS = {
    WS_ERROR_PROTOCOL: "protocol error",
    WS_ERROR_UTF8: "text is not UTF-8",
    WS_ERROR_TOO_BIG: "message too big",
    WS_ERROR_INTERNAL: "out of memory",
}


class LocalProtocolError(Exception):
    """What was asked for would break the protocol on our side; nothing was sent."""


@cython.final
@cython.no_gc
cdef class Connection:
    cdef WsMessages messages
    cdef Buffer pongs                 # due; empty most of the time
    cdef bint is_client
    cdef bint auto_pong
    cdef bint is_input_over           # by a Close, an error or the end of the transport
    cdef bint is_close_sent
    cdef bint is_ended                # the transport has
    # Of what we compress. 0: permessage-deflate is off; below WS_WINDOW_BITS_MIN: we only
    # read it.
    cdef int window_bits
    cdef uint8_t sending_opcode       # of the message being sent in parts; 0: none
    cdef uint8_t rest_size
    cdef uint8_t rest[REST_MAX]       # streaming: the begin of a character cut by a part's end
    cdef uint16_t answer_code         # of the Close due once the input is over
    cdef str answer_reason

    def __cinit__(
        self, str role not None, *, uint64_t max_message_size=MAX_MESSAGE_SIZE, deflate=None,
        bint auto_pong=True, bint stream=False,
    ):
        if role not in ("server", "client"):
            raise ValueError(f"role is 'server' or 'client', not {role!r}")
        if not 1 <= max_message_size <= WS_MESSAGE_SIZE_MAX:
            raise ValueError(f"max_message_size is 1 to {WS_MESSAGE_SIZE_MAX} bytes")
        if deflate is not None:
            self.window_bits = deflate.window_bits
            if not WINDOW_BITS_LEAST <= self.window_bits <= WS_WINDOW_BITS_MAX:
                raise ValueError(f"window_bits is {WINDOW_BITS_LEAST} to {WS_WINDOW_BITS_MAX}")
        self.is_client = role == "client"
        self.auto_pong = auto_pong
        self.answer_reason = ""
        ws_messages_init(
            &self.messages, not self.is_client, max_message_size, stream, &pool,
            &shared_deflate if self.window_bits else NULL,
        )
        buffer_init(&self.pongs, &pool, 0)

    def __dealloc__(self):
        ws_messages_free(&self.messages)
        buffer_free(&self.pongs)

    @property
    def state(self):
        if self.is_ended or (self.is_input_over and self.is_close_sent):
            return "closed"
        return "closing" if self.is_input_over or self.is_close_sent else "open"

    # ---- Receiving

    def receive(self, data):
        cdef list events = []
        cdef Py_buffer view
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            if self.is_client:
                # Nothing is masked, so nothing is changed in place.
                self.read(<uint8_t *>view.buf, view.len, events)
            else:
                self.read_masked(<const uint8_t *>view.buf, view.len, events)
        finally:
            PyBuffer_Release(&view)
        return events

    cdef int read_masked(self, const uint8_t *source, Py_ssize_t size, list events) except -1:
        cdef uint8_t[PIECE_SIZE] piece
        cdef Py_ssize_t taken
        while size > 0:
            taken = min(size, <Py_ssize_t>PIECE_SIZE)
            memcpy(piece, source, taken)
            self.read(piece, taken, events)
            source += taken
            size -= taken
        return 0

    cdef int read(self, uint8_t *source, Py_ssize_t size, list events) except -1:
        cdef uint8_t *cursor = source
        cdef WsEvent event
        cdef Text text
        cdef int kind
        while not self.is_input_over:
            kind = ws_messages_next(&self.messages, &cursor, source + size, &event)
            if kind == WS_EVENT_DATA:
                if event.opcode == WS_TEXT:
                    text = self.new_text(&event)
                    if text.final or text.data:
                        events.append(text)
                else:
                    events.append(new_binary(&event))
            elif kind == WS_EVENT_PING:
                events.append(new_ping(&event))
                if self.auto_pong and not self.is_close_sent:
                    self.queue_pong(event.data, event.size)
            elif kind == WS_EVENT_PONG:
                events.append(new_pong(&event))
            elif kind == WS_EVENT_CLOSE:
                reason = PyUnicode_DecodeUTF8(<char *>event.data, event.size, NULL)
                self.end_input(event.close_code, "")
                events.append(new_close(event.close_code, reason, False))
            elif kind < 0:
                self.end_input(<uint16_t>-kind, ERROR_REASONS[kind])
                events.append(new_close(self.answer_code, self.answer_reason, True))
            else:
                break
        return 0

    cdef Text new_text(self, const WsEvent *event):
        cdef Text text = Text.__new__(Text)
        cdef Py_ssize_t consumed
        cdef bytes joined
        text.final = event.is_message_end
        if not self.messages.is_streaming:
            text.data = PyUnicode_DecodeUTF8(<char *>event.data, event.size, NULL)
            return text
        # It is valid, but may be cut within a character: keep what is not whole. `consumed` is
        # set before since some releases of 3.11 leave it alone when all is ASCII (gh-99612).
        if self.rest_size:
            joined = self.rest[:self.rest_size] + event.data[:event.size]
            consumed = PyBytes_GET_SIZE(joined)
            text.data = PyUnicode_DecodeUTF8Stateful(
                PyBytes_AS_STRING(joined), PyBytes_GET_SIZE(joined), NULL, &consumed
            )
            self.rest_size = <uint8_t>(PyBytes_GET_SIZE(joined) - consumed)
            memcpy(self.rest, PyBytes_AS_STRING(joined) + consumed, self.rest_size)
        else:
            consumed = event.size
            text.data = PyUnicode_DecodeUTF8Stateful(
                <char *>event.data, event.size, NULL, &consumed
            )
            self.rest_size = <uint8_t>(event.size - consumed)
            memcpy(self.rest, event.data + consumed, self.rest_size)
        return text

    cdef int queue_pong(self, const uint8_t *data, size_t size) except -1:
        if ws_frame_write(
            &self.pongs, WS_PONG, True, data, size, new_key() if self.is_client else NULL
        ) < 0:
            raise MemoryError
        return 0

    cdef void end_input(self, uint16_t answer_code, str answer_reason):
        self.is_input_over = True
        self.answer_code = answer_code
        self.answer_reason = answer_reason
        ws_messages_free(&self.messages)

    def receive_eof(self):
        self.is_ended = True
        if self.is_input_over:
            return []
        self.end_input(CLOSE_ABNORMAL, "the connection ended without a close")
        return [new_close(self.answer_code, self.answer_reason, True)]

    # ---- Sending

    def outgoing(self):
        if self.is_input_over and not self.is_close_sent and not self.is_ended:
            return self.close(self.answer_code, self.answer_reason)
        return self.take_pongs()

    cdef bytes take_pongs(self):
        cdef bytes due
        if self.is_ended or not buffer_size(&self.pongs):
            return b""
        due = buffer_head(&self.pongs)[:buffer_size(&self.pongs)]
        buffer_free(&self.pongs)
        return due

    def send_text(self, str text not None, bint final=True):
        cdef Py_ssize_t size
        cdef const char *data
        cdef bytes encoded
        if PyUnicode_IS_COMPACT_ASCII(text):
            data = PyUnicode_AsUTF8AndSize(text, &size)
        else:
            encoded = text.encode()       # AsUTF8 would keep a copy within the text for ever
            data = PyBytes_AS_STRING(encoded)
            size = PyBytes_GET_SIZE(encoded)
        return self.send_data(WS_TEXT, <const uint8_t *>data, size, final)

    def send_binary(self, data, bint final=True):
        cdef Py_buffer view
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            return self.send_data(WS_BINARY, <const uint8_t *>view.buf, view.len, final)
        finally:
            PyBuffer_Release(&view)

    def ping(self, data=b""):
        return self.send_control(WS_PING, data)

    def pong(self, data=b""):
        return self.send_control(WS_PONG, data)

    def close(self, int code=1000, str reason not None=""):
        cdef uint8_t payload[WS_CONTROL_SIZE_MAX]
        cdef bytes encoded = reason.encode()
        cdef Py_ssize_t size = PyBytes_GET_SIZE(encoded)
        if code != CLOSE_NO_STATUS and (
            not 0 <= code <= 0xFFFF or not ws_close_code_is_valid(<uint16_t>code)
        ):
            raise ValueError(f"{code} is not a close code that can be sent")
        if size > WS_CONTROL_SIZE_MAX - 2 or (size and code == CLOSE_NO_STATUS):
            raise ValueError("a reason has at most 123 bytes, and none without a code")
        if self.is_close_sent or self.is_ended:
            return b""
        self.is_close_sent = True
        if code == CLOSE_NO_STATUS:
            return self.frame(WS_CLOSE, True, NULL, 0)
        store_be16(payload, <uint16_t>code)
        memcpy(payload + 2, PyBytes_AS_STRING(encoded), size)
        return self.frame(WS_CLOSE, True, payload, size + 2)

    cdef int check_may_send(self) except -1:
        if self.is_close_sent or self.is_ended:
            raise LocalProtocolError(f"the connection is {self.state}")
        return 0

    cdef bytes send_control(self, uint8_t opcode, data):
        cdef Py_buffer view
        self.check_may_send()
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            if view.len > WS_CONTROL_SIZE_MAX:
                raise ValueError(f"a control frame has at most {WS_CONTROL_SIZE_MAX} bytes")
            return self.frame(opcode, True, <const uint8_t *>view.buf, view.len)
        finally:
            PyBuffer_Release(&view)

    cdef bytes send_data(
        self, uint8_t opcode, const uint8_t *payload, Py_ssize_t size, bint is_final
    ):
        cdef size_t deflated_size
        cdef bytes frame
        self.check_may_send()
        if self.sending_opcode not in (0, opcode):
            raise LocalProtocolError("a message of the other type is not finished")
        if self.sending_opcode:
            frame = self.frame(WS_CONTINUATION, is_final, payload, size)
            self.sending_opcode = 0 if is_final else opcode
            return frame
        if (
            is_final and self.window_bits >= WS_WINDOW_BITS_MIN and size >= WS_DEFLATE_SIZE_MIN
        ):
            if self.is_client:
                prepare_key()             # `deflated` is everybody's
            deflated_size = ws_deflate(
                &shared_deflate, self.window_bits, payload, size, &deflated, size - 1
            )
            if deflated_size:
                try:
                    return self.frame(
                        opcode | WS_COMPRESSED, True, buffer_head(&deflated), deflated_size
                    )
                finally:
                    buffer_free(&deflated)
        frame = self.frame(opcode, is_final, payload, size)
        self.sending_opcode = 0 if is_final else opcode
        return frame

    cdef bytes frame(
        self, uint8_t opcode, bint is_final, const uint8_t *payload, Py_ssize_t size
    ):
        # Header and payload in one piece, so that one write sends it. Pongs that are due go
        # ahead of it: they answer what came before.
        cdef int header_size = ws_header_size(size, self.is_client)
        cdef bytes frame = PyBytes_FromStringAndSize(NULL, header_size + size)
        cdef uint8_t *place = <uint8_t *>PyBytes_AS_STRING(frame)
        cdef const uint8_t *key = new_key() if self.is_client else NULL
        ws_header_encode(place, opcode, is_final, size, key)
        if size:
            memcpy(place + header_size, payload, size)
            if key != NULL:
                simd_mask(place + header_size, size, key, 0)
        if buffer_size(&self.pongs):
            return self.take_pongs() + frame
        return frame


cdef Binary new_binary(const WsEvent *event):
    cdef Binary binary = Binary.__new__(Binary)
    binary.data = event.data[:event.size]
    binary.final = event.is_message_end
    return binary


cdef Ping new_ping(const WsEvent *event):
    cdef Ping ping = Ping.__new__(Ping)
    ping.data = event.data[:event.size]
    return ping


cdef Pong new_pong(const WsEvent *event):
    cdef Pong pong = Pong.__new__(Pong)
    pong.data = event.data[:event.size]
    return pong


cdef Close new_close(int code, str reason, bint is_error):
    cdef Close close = Close.__new__(Close)
    close.code = code
    close.reason = reason
    close.is_error = is_error
    return close
