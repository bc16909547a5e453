"""What `Connection.receive()` tells, in the order it came."""

from typing import ClassVar, final

@final
class Text:
    """A text message, or, of a streaming connection, a part of one: whole characters."""

    __match_args__: ClassVar[tuple[str, ...]]
    __hash__: ClassVar[None]  # type: ignore[assignment]

    def __init__(self, data: str, final: bool = True) -> None: ...
    @property
    def data(self) -> str: ...
    @property
    def final(self) -> bool: ...  # False: more of this message is to come
    def __eq__(self, other: object, /) -> bool: ...

@final
class Binary:
    """A binary message, or, of a streaming connection, a part of one."""

    __match_args__: ClassVar[tuple[str, ...]]
    __hash__: ClassVar[None]  # type: ignore[assignment]

    def __init__(self, data: bytes, final: bool = True) -> None: ...
    @property
    def data(self) -> bytes: ...
    @property
    def final(self) -> bool: ...
    def __eq__(self, other: object, /) -> bool: ...

@final
class Ping:
    """A ping; its answer is in `outgoing()` already, unless auto_pong is off."""

    __match_args__: ClassVar[tuple[str, ...]]
    __hash__: ClassVar[None]  # type: ignore[assignment]

    def __init__(self, data: bytes = b"") -> None: ...
    @property
    def data(self) -> bytes: ...  # at most 125 bytes
    def __eq__(self, other: object, /) -> bool: ...

@final
class Pong:
    """An answer to our ping with the same data, or a heartbeat nobody asked for."""

    __match_args__: ClassVar[tuple[str, ...]]
    __hash__: ClassVar[None]  # type: ignore[assignment]

    def __init__(self, data: bytes = b"") -> None: ...
    @property
    def data(self) -> bytes: ...
    def __eq__(self, other: object, /) -> bool: ...

@final
class Close:
    """The last event of a connection.

    Either the peer's own close (is_error False; code 1005: it gave none), or what went
    wrong: code and reason are then what `outgoing()` tells the peer (1002 protocol error,
    1007 text that is not UTF-8, 1009 message too big, 1011 out of memory; RFC 6455 section
    7.4.1), or 1006 when the connection ended without a close.
    """

    __match_args__: ClassVar[tuple[str, ...]]
    __hash__: ClassVar[None]  # type: ignore[assignment]

    def __init__(self, code: int, reason: str = "", is_error: bool = False) -> None: ...
    @property
    def code(self) -> int: ...
    @property
    def reason(self) -> str: ...
    @property
    def is_error(self) -> bool: ...
    def __eq__(self, other: object, /) -> bool: ...
