from typing import Final

ERROR_PROTOCOL: Final[int]
ERROR_UTF8: Final[int]
ERROR_TOO_BIG: Final[int]
EVENT_DATA: Final[int]
EVENT_PING: Final[int]
EVENT_PONG: Final[int]
EVENT_CLOSE: Final[int]
HAS_AVX2: Final[bool]

Header = tuple[int, int, bytes, int, int, bool, bool]
Event = tuple[int, int, bool, int, bytes]

def header_decode(data: bytes) -> Header | int: ...
def header_encode(
    opcode: int, is_final: bool, length: int, key: bytes | None = None
) -> bytes: ...
def mask(
    data: bytes, key: bytes, phase: int = 0, alignment: int = 0, wide: bool = True
) -> tuple[bytes, int]: ...
def utf8_check(parts: list[bytes]) -> tuple[bool, bool]: ...

class Reader:
    error: int
    def __init__(
        self, is_server: bool = True, text_allowed: bool = True, message_size_max: int = 0
    ) -> None: ...
    def feed(self, data: bytes) -> list[Event]: ...

def mask_rounds(size: int, rounds: int, alignment: int = 0, wide: bool = True) -> int: ...
def reader_rounds(stream: bytes, rounds: int, is_server: bool = True) -> int: ...
def utf8_rounds(text: bytes, rounds: int) -> bool: ...
