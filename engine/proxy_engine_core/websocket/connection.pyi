"""One WebSocket connection after its handshake, without any I/O: bytes in, events and bytes out."""

from typing import Final, Literal, final

from proxy_engine_core.websocket.events import Binary, Close, Ping, Pong, Text
from proxy_engine_core.websocket.extensions import Deflate

Event = Text | Binary | Ping | Pong | Close
Readable = bytes | bytearray | memoryview  # any contiguous buffer of bytes will do

MAX_MESSAGE_SIZE: Final[int]  # bytes; the default limit

class LocalProtocolError(Exception):
    """What was asked for would break the protocol on our side; nothing was sent."""

@final
class Connection:
    """A WebSocket connection (RFC 6455) as a state machine.

    Args:
        role: Which end this is.
        max_message_size: Bytes of a message, on the wire and decompressed; 1 to 2**30. A
            larger one fails the connection with 1009, before it is read.
        deflate: What the handshake agreed on: compress messages where that makes them
            smaller, and read compressed ones (RFC 7692). None: compressed messages are a
            protocol error.
        auto_pong: Answer pings by itself.
        stream: Give Text and Binary events for the parts of a message as they come in,
            `final` with the last; compressed messages still come whole.
    Raises: ValueError.
    Threads: One call at a time.
    """

    def __init__(
        self,
        role: Literal["server", "client"],
        *,
        max_message_size: int = ...,
        deflate: Deflate | None = None,
        auto_pong: bool = True,
        stream: bool = False,
    ) -> None: ...
    @property
    def state(self) -> str:
        """open; closing: one side has said Close; closed: the server should now close the
        transport, the client wait a little for it to do so (section 7.1.1)."""

    def receive(self, data: Readable) -> list[Event]:
        """What these bytes of the peer tell. Then send outgoing().

        Never raises for what the peer did: that is a Close event with is_error. Nothing is
        read behind a Close; the input is not kept and not changed.
        """

    def receive_eof(self) -> list[Event]:
        """The transport has ended: a Close event with 1006, or nothing if the peer said Close."""

    def outgoing(self) -> bytes:
        """What the protocol itself wants to say: pongs (unless bytes you took since carry them
        already), and the answer to a Close or to an error, after which nothing else can be
        sent. Empty most of the time."""

    def send_text(self, text: str, final: bool = True) -> bytes:
        """The bytes of a text message.

        Args:
            final: False: more of this message follows in further calls. Such a message is
                not compressed.
        Raises: LocalProtocolError after our Close, or amid a message of the other type;
            UnicodeEncodeError for lone surrogates.
        """

    def send_binary(self, data: Readable, final: bool = True) -> bytes:
        """The bytes of a binary message; as send_text()."""

    def ping(self, data: Readable = b"") -> bytes:
        """The bytes of a ping with at most 125 bytes of data. Raises ValueError if there are
        more, LocalProtocolError after our Close."""

    def pong(self, data: Readable = b"") -> bytes:
        """The bytes of a pong; only needed with auto_pong off. Raises as ping()."""

    def close(self, code: int = 1000, reason: str = "") -> bytes:
        """The bytes that begin or answer the closing handshake; empty if ours was sent.

        Args:
            code: What an endpoint may send (section 7.4), or 1005 to give none.
            reason: At most 123 bytes of UTF-8.
        Raises: ValueError.
        """
