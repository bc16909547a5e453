"""WebSocket, RFC 6455 and 7692, without I/O: the handshake, then bytes in and events out.

docs/websocket.md has an example of ten lines.
"""

from proxy_engine_core.websocket.connection import (
    MAX_MESSAGE_SIZE,
    Connection,
    LocalProtocolError,
)
from proxy_engine_core.websocket.events import Binary, Close, Ping, Pong, Text
from proxy_engine_core.websocket.extensions import Deflate
from proxy_engine_core.websocket.handshake import (
    Agreement,
    HandshakeError,
    accept_request,
    check_response,
    new_key,
    refusal,
    request,
)

__all__ = [
    "MAX_MESSAGE_SIZE",
    "Agreement",
    "Binary",
    "Close",
    "Connection",
    "Deflate",
    "HandshakeError",
    "LocalProtocolError",
    "Ping",
    "Pong",
    "Text",
    "accept_request",
    "check_response",
    "new_key",
    "refusal",
    "request",
]
