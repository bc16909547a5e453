"""Our Connection with `websockets` and `wsproto` at the other end: the opening handshake,
messages both ways with and without permessage-deflate, pings and the closing handshake.
Without a network: what one side says is handed to the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import pytest
import wsproto
import wsproto.events
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.extensions.permessage_deflate import (
    ClientPerMessageDeflateFactory,
    ServerPerMessageDeflateFactory,
)
from websockets.frames import Frame, Opcode
from websockets.http11 import Request, Response
from websockets.server import ServerProtocol
from websockets.uri import parse_uri
from wsproto.extensions import PerMessageDeflate

from proxy_engine_core.http1.python import parse_request_head
from proxy_engine_core.websocket import (
    Agreement,
    Binary,
    Close,
    Connection,
    Ping,
    Pong,
    Text,
    accept_request,
    check_response,
    new_key,
    request,
)

Message = str | bytes
HOST = "example.com"
SUBPROTOCOLS = ["chat"]


class Peer(Protocol):
    """The other library, connected to a Connection of ours."""

    ours: Connection
    agreed: Agreement

    def send(self, message: Message, parts: int) -> bytes: ...
    def ping(self, data: bytes) -> bytes: ...
    def close(self, code: int, reason: str) -> bytes: ...
    def receive(self, data: bytes) -> list[Message]:
        """Whole messages; a pong reads as its data, a close as code and reason."""

    def answers(self) -> bytes: ...


def parse_response(head: bytes) -> tuple[int, list[tuple[str, bytes]]]:
    lines = head.split(b"\r\n\r\n")[0].split(b"\r\n")
    fields = (line.split(b":", 1) for line in lines[1:])
    return int(lines[0].split()[1]), [(n.decode().lower(), v.strip()) for n, v in fields]


def accept(asked: bytes, deflate: bool) -> Agreement:
    fields = parse_request_head(asked)[2]
    return accept_request(fields, subprotocols=SUBPROTOCOLS, deflate=deflate)


def cut(message: Message, parts: int) -> list[Message]:
    size = max(1, -(-len(message) // parts))
    return [message[at : at + size] for at in range(0, len(message), size)] or [message]


class ByWebsockets:
    def __init__(self, theirs: ClientProtocol | ServerProtocol) -> None:
        self.theirs = theirs
        self.message: list[bytes] = []
        self.is_text = False

    @classmethod
    def client(cls, deflate: bool) -> ByWebsockets:
        theirs = ClientProtocol(
            parse_uri(f"ws://{HOST}/"),
            extensions=[ClientPerMessageDeflateFactory()] if deflate else None,
            subprotocols=SUBPROTOCOLS,  # type: ignore[arg-type]
        )
        theirs.send_request(theirs.connect())
        peer = cls(theirs)
        peer.agreed = accept(peer.answers(), True)
        peer.ours = Connection("server", deflate=peer.agreed.deflate)
        theirs.receive_data(peer.agreed.response)
        [response] = theirs.events_received()
        assert isinstance(response, Response) and theirs.handshake_exc is None
        assert theirs.subprotocol == "chat"
        return peer

    @classmethod
    def server(cls, deflate: bool) -> ByWebsockets:
        theirs = ServerProtocol(
            extensions=[ServerPerMessageDeflateFactory()] if deflate else None,
            subprotocols=SUBPROTOCOLS,  # type: ignore[arg-type]
        )
        peer = cls(theirs)
        key = new_key()
        theirs.receive_data(request(HOST, key=key, subprotocols=SUBPROTOCOLS, deflate=True))
        [asked] = theirs.events_received()
        assert isinstance(asked, Request)
        theirs.send_response(theirs.accept(asked))
        status, fields = parse_response(peer.answers())
        peer.agreed = check_response(
            status, fields, key=key, subprotocols=SUBPROTOCOLS, deflate=True
        )
        peer.ours = Connection("client", deflate=peer.agreed.deflate)
        return peer

    ours: Connection
    agreed: Agreement

    def answers(self) -> bytes:
        return b"".join(self.theirs.data_to_send())

    def send(self, message: Message, parts: int) -> bytes:
        pieces = [p.encode() if isinstance(p, str) else p for p in cut(message, parts)]
        first = self.theirs.send_text if isinstance(message, str) else self.theirs.send_binary
        first(pieces[0], fin=len(pieces) == 1)
        for number, piece in enumerate(pieces[1:], 2):
            self.theirs.send_continuation(piece, fin=number == len(pieces))
        return self.answers()

    def ping(self, data: bytes) -> bytes:
        self.theirs.send_ping(data)
        return self.answers()

    def close(self, code: int, reason: str) -> bytes:
        self.theirs.send_close(code, reason)
        return self.answers()

    def receive(self, data: bytes) -> list[Message]:
        self.theirs.receive_data(data)
        found: list[Message] = []
        for frame in self.theirs.events_received():
            assert isinstance(frame, Frame)
            if frame.opcode is Opcode.CLOSE:
                assert self.theirs.close_rcvd is not None
                found.append(f"{self.theirs.close_rcvd.code} {self.theirs.close_rcvd.reason}")
            elif frame.opcode is Opcode.PONG:
                found.append(bytes(frame.data))
            elif frame.opcode is not Opcode.PING:
                if frame.opcode is not Opcode.CONT:
                    self.is_text = frame.opcode is Opcode.TEXT
                self.message.append(bytes(frame.data))
                if frame.fin:
                    whole = b"".join(self.message)
                    found.append(whole.decode() if self.is_text else whole)
                    self.message.clear()
        return found


class ByWsproto:
    def __init__(self, role: wsproto.ConnectionType) -> None:
        self.theirs = wsproto.WSConnection(role)
        self.text = ""
        self.data = b""
        self.unsent = b""

    @classmethod
    def client(cls, deflate: bool) -> ByWsproto:
        peer = cls(wsproto.ConnectionType.CLIENT)
        asked = peer.theirs.send(
            wsproto.events.Request(
                host=HOST,
                target="/",
                subprotocols=SUBPROTOCOLS,
                extensions=[PerMessageDeflate()] if deflate else [],
            )
        )
        peer.agreed = accept(asked, True)
        peer.ours = Connection("server", deflate=peer.agreed.deflate)
        peer.theirs.receive_data(peer.agreed.response)
        [accepted] = peer.theirs.events()
        assert isinstance(accepted, wsproto.events.AcceptConnection)
        assert accepted.subprotocol == "chat"
        return peer

    @classmethod
    def server(cls, deflate: bool) -> ByWsproto:
        peer = cls(wsproto.ConnectionType.SERVER)
        key = new_key()
        asked = request(HOST, key=key, subprotocols=SUBPROTOCOLS, deflate=True)
        peer.theirs.receive_data(asked)
        [_] = peer.theirs.events()
        answer = peer.theirs.send(
            wsproto.events.AcceptConnection(
                subprotocol="chat", extensions=[PerMessageDeflate()] if deflate else []
            )
        )
        status, fields = parse_response(answer)
        peer.agreed = check_response(
            status, fields, key=key, subprotocols=SUBPROTOCOLS, deflate=True
        )
        peer.ours = Connection("client", deflate=peer.agreed.deflate)
        return peer

    ours: Connection
    agreed: Agreement

    def answers(self) -> bytes:
        unsent, self.unsent = self.unsent, b""
        return unsent

    def send(self, message: Message, parts: int) -> bytes:
        pieces = cut(message, parts)
        wire = b""
        for number, piece in enumerate(pieces, 1):
            finished = number == len(pieces)
            event: wsproto.events.Event
            if isinstance(piece, str):
                event = wsproto.events.TextMessage(data=piece, message_finished=finished)
            else:
                event = wsproto.events.BytesMessage(data=piece, message_finished=finished)
            wire += self.theirs.send(event)
        return wire

    def ping(self, data: bytes) -> bytes:
        return self.theirs.send(wsproto.events.Ping(payload=data))

    def close(self, code: int, reason: str) -> bytes:
        return self.theirs.send(wsproto.events.CloseConnection(code=code, reason=reason))

    def receive(self, data: bytes) -> list[Message]:
        self.theirs.receive_data(data)
        found: list[Message] = []
        for event in self.theirs.events():
            match event:
                case wsproto.events.TextMessage():
                    self.text += event.data
                    if event.message_finished:
                        found.append(self.text)
                        self.text = ""
                case wsproto.events.BytesMessage():
                    self.data += bytes(event.data)
                    if event.message_finished:
                        found.append(self.data)
                        self.data = b""
                case wsproto.events.Pong():
                    found.append(bytes(event.payload))
                case wsproto.events.Ping():
                    self.unsent += self.theirs.send(event.response())
                case wsproto.events.CloseConnection():
                    found.append(f"{event.code} {event.reason or ''}")
                    if self.theirs.state is not wsproto.connection.ConnectionState.CLOSED:
                        self.unsent += self.theirs.send(event.response())
        return found


PEERS: dict[str, Callable[[bool], Peer]] = {
    "websockets client": ByWebsockets.client,
    "websockets server": ByWebsockets.server,
    "wsproto client": ByWsproto.client,
    "wsproto server": ByWsproto.server,
}
contents = st.one_of(
    st.text(max_size=50),
    st.text("aé東😀 ", min_size=1, max_size=50).map(lambda text: text * 40),
    st.binary(max_size=50),
    st.binary(min_size=1, max_size=20).map(lambda data: data * 100),
)


@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize("name", PEERS)
@settings(max_examples=60)
@given(st.lists(st.tuples(contents, st.integers(1, 4)), max_size=5))
def test_messages_arrive_both_ways(
    name: str, deflate: bool, said: list[tuple[Message, int]]
) -> None:
    peer = PEERS[name](deflate)
    assert (peer.agreed.deflate is not None) is deflate
    assert peer.agreed.subprotocol == "chat"
    ours = peer.ours
    for message, parts in said:
        event = Text(message) if isinstance(message, str) else Binary(message)
        assert ours.receive(peer.send(message, parts)) == [event]
        if isinstance(message, str):
            wire = ours.send_text(message)
        else:
            wire = ours.send_binary(message)
        if deflate and len(message) > 300:
            assert len(wire) < len(message)
        assert peer.receive(wire) == [message]
    assert ours.receive(peer.ping(b"theirs")) == [Ping(b"theirs")]
    assert peer.receive(ours.outgoing()) == [b"theirs"]
    assert peer.receive(ours.ping(b"ours")) == []
    assert ours.receive(peer.answers()) == [Pong(b"ours")]


@pytest.mark.parametrize("name", PEERS)
def test_either_side_can_close(name: str) -> None:
    peer = PEERS[name](False)
    assert peer.receive(peer.ours.close(4001, "ours")) == ["4001 ours"]
    [answer] = peer.ours.receive(peer.answers())
    assert isinstance(answer, Close) and answer.code == 4001 and not answer.is_error
    assert peer.ours.state == "closed"

    peer = PEERS[name](False)
    assert peer.ours.receive(peer.close(4002, "theirs")) == [Close(4002, "theirs")]
    assert peer.receive(peer.ours.outgoing()) == ["4002 "]
    assert peer.ours.state == "closed"
