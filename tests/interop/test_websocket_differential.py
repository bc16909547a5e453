"""Our frame codec beside the sans-I/O cores of `websockets` and `wsproto`.

Streams are rows of whole frames, most of them valid, each read by all three. They
must agree on what was said before the end or the first refusal, on refusing, and on
the close code to refuse with. Where a reference is allowed to differ, and why:

| rule      | reference  | it does                                | we do, after RFC 6455       |
|-----------|------------|----------------------------------------|-----------------------------|
| LENGTH    | websockets | accepts a length that is not minimal   | refuse it, section 5.2      |
| MIDDLE    | websockets | refuses a close frame inside a message | accept it, section 5.4      |
| ORDER     | websockets | reads a close reason before the code:  | say 1002, since the code    |
|           |            | 1007 when both are bad                 | comes first                 |
| CODE_1014 | wsproto    | refuses close code 1014                | accept it: it is registered |

`websockets` leaves UTF-8 to its I/O layers; here its text is decoded frame by frame.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest
import websockets.exceptions
import wsproto.frame_protocol
from hypothesis import example, given, settings
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.frames import Frame as TheirFrame
from websockets.frames import Opcode
from websockets.protocol import CLIENT, SERVER, Protocol
from websockets.uri import parse_uri

from proxy_engine_core._testing import websocket

KEY = b"\xa1\xb2\xc3\xd4"
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


class Frame(NamedTuple):
    opcode: int
    payload: bytes = b""
    final: bool = True
    reserved: int = 0
    wrong_mask: bool = False
    length_form: int = 0  # 2 or 8: write the length in that many bytes all the same

    def is_minimal(self) -> bool:
        return len(self.payload) >= {0: 0, 2: 126, 8: 65536}[self.length_form]

    def encode(self, is_server: bool) -> bytes:
        key = KEY if is_server != self.wrong_mask else None
        size = len(self.payload)
        header = bytearray(websocket.header_encode(self.opcode, self.final, size, key))
        if self.length_form:
            mark = 126 if self.length_form == 2 else 127
            header = bytearray((header[0], mark | (header[1] & 0x80)))
            header += size.to_bytes(self.length_form, "big") + (key or b"")
        header[0] |= self.reserved << 4
        payload = websocket.mask(self.payload, key)[0] if key else self.payload
        return bytes(header) + payload


class Outcome(NamedTuple):
    # (opcode, payload); a close frame's payload is its code and its reason.
    items: list[tuple[int, bytes]]
    error: int  # 0, or the close code of the refusal


def close_payload(code: int, reason: bytes) -> bytes:
    return code.to_bytes(2, "big") + reason


def ours(stream: bytes, is_server: bool) -> Outcome:
    reader = websocket.Reader(is_server)
    items: list[tuple[int, bytes]] = []
    message = b""
    for kind, opcode, is_end, code, data in reader.feed(stream):
        if kind == websocket.EVENT_CLOSE:
            items.append((CLOSE, close_payload(code, data)))
            return Outcome(items, 0)
        if kind != websocket.EVENT_DATA:
            items.append((opcode, data))
            continue
        message += data
        if is_end:
            items.append((opcode, message))
            message = b""
    return Outcome(items, -reader.error)


def by_websockets(stream: bytes, is_server: bool) -> Outcome:
    protocol = Protocol(SERVER if is_server else CLIENT, max_size=None)
    protocol.receive_data(stream)
    items: list[tuple[int, bytes]] = []
    opcode, message = 0, b""
    for frame in protocol.events_received():
        assert isinstance(frame, TheirFrame)
        if frame.opcode in (Opcode.PING, Opcode.PONG):
            items.append((int(frame.opcode), bytes(frame.data)))
        elif frame.opcode is Opcode.CLOSE:
            assert protocol.close_rcvd is not None
            reason = protocol.close_rcvd.reason.encode()
            items.append((CLOSE, close_payload(protocol.close_rcvd.code, reason)))
        else:
            opcode = opcode if frame.opcode is Opcode.CONT else int(frame.opcode)
            message += frame.data
            if opcode == TEXT and not is_utf8(message, final=frame.fin):
                return Outcome(items, 1007)
            if frame.fin:
                items.append((opcode, message))
                message = b""
    if isinstance(protocol.parser_exc, UnicodeDecodeError):
        return Outcome(items, 1007)
    if protocol.parser_exc is not None:
        assert isinstance(protocol.parser_exc, websockets.exceptions.ProtocolError)
        return Outcome(items, 1002)
    return Outcome(items, 0)


def by_wsproto(stream: bytes, is_server: bool) -> Outcome:
    protocol = wsproto.frame_protocol.FrameProtocol(client=not is_server, extensions=[])
    protocol.receive_bytes(stream)
    items: list[tuple[int, bytes]] = []
    message = b""
    try:
        for frame in protocol.received_frames():
            data = frame.payload
            if isinstance(data, tuple):
                code, reason = data
                items.append((CLOSE, close_payload(int(code), reason.encode())))
                break
            part = data.encode() if isinstance(data, str) else bytes(data)
            if frame.opcode in (PING, PONG):
                items.append((int(frame.opcode), part))
                continue
            message += part
            if frame.message_finished:
                items.append((int(frame.opcode), message))
                message = b""
    except wsproto.frame_protocol.ParseFailed as failed:
        return Outcome(items, int(failed.code))
    return Outcome(items, 0)


def is_utf8(data: bytes, *, final: bool = True) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return not final and error.reason == "unexpected end of data"
    return True


# ---- The table of allowed differences


def first_at(frames: list[Frame], is_it: list[bool]) -> int:
    return is_it.index(True) if True in is_it else len(frames)


def inside_message(frames: list[Frame]) -> list[bool]:
    inside, found = False, []
    for frame in frames:
        found.append(inside)
        if frame.opcode < 8:
            inside = not frame.final
    return found


def is_refused_for_length(frames: list[Frame], is_server: bool) -> bool:
    at = first_at(frames, [not frame.is_minimal() for frame in frames])
    before = b"".join(frame.encode(is_server) for frame in frames[:at])
    return at < len(frames) and ours(before, is_server).error == 0


def allowed(
    mine: Outcome, theirs: Outcome, frames: list[Frame], is_server: bool, reference: str
) -> str:
    """The name of the rule that permits the difference, or ""."""
    closes = [frame.opcode == CLOSE for frame in frames]
    close_at = first_at(frames, closes)
    # What both said before one of them stopped.
    same = min(len(mine.items), len(theirs.items))
    if mine.items[:same] != theirs.items[:same]:
        return ""
    if reference == "wsproto":
        code = frames[close_at].payload[:2] if close_at < len(frames) else b""
        refused = theirs.error == 1002 and mine.error in (0, 1007)
        return "CODE_1014" if refused and code == (1014).to_bytes(2, "big") else ""
    if mine.error == 1002 and is_refused_for_length(frames, is_server):
        return "LENGTH"
    if close_at == len(frames):
        return ""
    errors = (mine.error, theirs.error)
    if errors == (0, 1002) and inside_message(frames)[close_at]:
        return "MIDDLE"
    if errors == (1002, 1007) and not is_utf8(frames[close_at].payload[2:]):
        return "ORDER"
    return ""


def compare(frames: list[Frame], is_server: bool) -> set[str]:
    """The rules that were needed; fails when none permits a difference."""
    stream = b"".join(frame.encode(is_server) for frame in frames)
    mine = ours(stream, is_server)
    needed = set()
    for reference, read in (("websockets", by_websockets), ("wsproto", by_wsproto)):
        theirs = read(stream, is_server)
        if mine != theirs:
            rule = allowed(mine, theirs, frames, is_server, reference)
            assert rule, f"{reference} says {theirs}, we say {mine} of {frames}"
            needed.add(rule)
    return needed


# ---- Streams

SIZES = st.one_of(st.integers(0, 140), st.sampled_from([65535, 65536]))
BAD_TEXT = [b"\xff", b"a\xc3", b"\xa9z", b"\xed\xa0\x80", b"\xe2\x82", b"\xac", b"\xf4\x90"]
CODES = [999, 1000, 1001, 1003, 1004, 1005, 1006, 1007, 1011, 1014, 1015, 1016, 2999, 3000]
CODES += [4999, 5000, 65535]

texts = st.one_of(st.text(max_size=20).map(str.encode), st.sampled_from(BAD_TEXT))
data_payloads = st.one_of(texts, SIZES.map(bytes))
closes = st.one_of(
    st.just(b""),
    st.just(b"\x03"),
    st.builds(close_payload, st.sampled_from(CODES), st.one_of(st.just(b""), texts)),
)
# Every argument is named: builds() would make up the ones left to their defaults.
plain = {"reserved": st.just(0), "wrong_mask": st.just(False), "length_form": st.just(0)}
data_frames = st.builds(
    Frame, st.sampled_from([0, TEXT, BINARY]), data_payloads, st.booleans(), **plain
)
control_frames = st.builds(
    Frame, st.sampled_from([PING, PONG]), st.binary(max_size=125), st.just(True), **plain
)
valid_frames = st.one_of(data_frames, control_frames)
odd_frames = st.one_of(
    st.builds(Frame, st.just(CLOSE), closes, st.just(True), **plain),
    st.builds(
        Frame,
        opcode=st.integers(0, 15),
        payload=data_payloads,
        final=st.booleans(),
        reserved=st.sampled_from([0, 0, 1, 2, 4, 7]),
        wrong_mask=st.sampled_from([False, False, True]),
        length_form=st.sampled_from([0, 0, 2, 8]),
    ).filter(lambda frame: len(frame.payload) < 65536 or frame.length_form != 2),
)
streams = st.builds(
    lambda rows, odd: rows + odd,
    st.lists(valid_frames, max_size=5),
    st.lists(st.one_of(odd_frames, valid_frames), max_size=3),
)


@settings(max_examples=600)
@given(streams, st.booleans())
@example([Frame(TEXT, b"\xc3", final=False), Frame(PING), Frame(0, b"\xa9")], True)
@example([Frame(TEXT, b"\xc3", final=False), Frame(0, b"x"), Frame(3)], True)
def test_a_stream_is_read_as_the_references_read_it(frames: list[Frame], is_server: bool) -> None:
    compare(frames, is_server)


@pytest.mark.parametrize("is_server", [True, False])
@pytest.mark.parametrize(
    ("rule", "frames"),
    [
        ("LENGTH", [Frame(BINARY, b"x", length_form=2)]),
        ("LENGTH", [Frame(BINARY, bytes(200), length_form=8)]),
        ("MIDDLE", [Frame(BINARY, b"x", final=False), Frame(CLOSE)]),
        ("ORDER", [Frame(CLOSE, close_payload(1004, b"\xff"))]),
        ("CODE_1014", [Frame(CLOSE, close_payload(1014, b""))]),
    ],
)
def test_every_allowed_difference_is_still_there(
    rule: str, frames: list[Frame], is_server: bool
) -> None:
    assert compare(frames, is_server) == {rule}


@pytest.mark.parametrize("is_server", [True, False])
@pytest.mark.parametrize("code", [*range(990, 1020), 2999, 3000, 3999, 4000, 4999, 5000, 65535])
def test_close_codes_are_judged_as_the_references_judge_them(code: int, is_server: bool) -> None:
    assert compare([Frame(CLOSE, close_payload(code, b"bye"))], is_server) <= {"CODE_1014"}


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, 100_000])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_we_read_what_the_references_write_and_write_what_they_do(opcode: int, size: int) -> None:
    payload = b"x" * size
    masked = TheirFrame(Opcode(opcode), payload).serialize(mask=True)
    assert ours(masked, is_server=True) == Outcome([(opcode, payload)], 0)
    plain = TheirFrame(Opcode(opcode), payload).serialize(mask=False)
    assert plain == Frame(opcode, payload).encode(is_server=False)
    sender = wsproto.frame_protocol.FrameProtocol(client=True, extensions=[])
    sent = sender.send_data(payload.decode() if opcode == TEXT else payload)
    assert ours(bytes(sent), is_server=True) == Outcome([(opcode, payload)], 0)
    sender = wsproto.frame_protocol.FrameProtocol(client=False, extensions=[])
    sent = sender.send_data(payload.decode() if opcode == TEXT else payload)
    assert bytes(sent) == plain


def test_our_client_request_key_is_accepted_by_the_formula_of_websockets() -> None:
    from websockets.utils import accept_key as their_accept_key

    from proxy_engine_core.websocket.handshake import accept_key, new_key, verify_accept

    key = new_key()
    assert verify_accept(key, their_accept_key(key))
    client = ClientProtocol(parse_uri("ws://example.com/"))
    assert accept_key(client.key) == their_accept_key(client.key)
