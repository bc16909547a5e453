"""Sec-WebSocket-Extensions: its syntax (RFC 6455, 9.1) and permessage-deflate (RFC 7692, 7.1).

The one way we do permessage-deflate is without context takeover in both directions: a
connection then costs no memory between messages. A server may insist on that whatever the
client offered, and a client may demand it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

WINDOW_BITS_MAX = 15

_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_PARAMETER = re.compile(
    rf'[ \t]*;[ \t]*({_TOKEN})(?:[ \t]*=[ \t]*(?:({_TOKEN})|"((?:[^"\\]|\\.)*)"))?'
)
_NAME = re.compile(rf"[ \t]*({_TOKEN})")
_SEPARATOR = re.compile(r"[ \t]*(?:,|$)")


class Deflate(NamedTuple):
    """permessage-deflate as agreed on, for `Connection(deflate=...)`."""

    window_bits: int = WINDOW_BITS_MAX  # of what we compress; 8: nothing, zlib needs 9


class Extension(NamedTuple):
    name: str
    parameters: Mapping[str, str | None]  # None: no value


ANSWER = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
OFFER = f"{ANSWER}; client_max_window_bits"


def parse_extensions(values: Iterable[str]) -> list[Extension]:
    """The members of all Sec-WebSocket-Extensions fields, in order.

    Raises: ValueError if one is malformed or names a parameter twice.
    """
    found = []
    for value in values:
        at = 0
        while at < len(value):
            name = _NAME.match(value, at)
            if name is None:
                # Empty members of a list are allowed (RFC 9110, 5.6.1).
                separator = _SEPARATOR.match(value, at)
                if separator is None:
                    raise ValueError(f"malformed extension list: {value!r}")
                at = max(separator.end(), at + 1)
                continue
            at = name.end()
            parameters: dict[str, str | None] = {}
            while parameter := _PARAMETER.match(value, at):
                at = parameter.end()
                if parameter[1].lower() in parameters:
                    raise ValueError(f"a parameter is there twice: {value!r}")
                quoted = parameter[3]
                parameters[parameter[1].lower()] = (
                    parameter[2] if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
                )
            separator = _SEPARATOR.match(value, at)
            if separator is None:
                raise ValueError(f"malformed extension list: {value!r}")
            at = separator.end()
            found.append(Extension(name[1].lower(), parameters))
    return found


def accept_deflate(offers: Iterable[Extension]) -> tuple[Deflate, str] | None:
    """The first offer of permessage-deflate that a server can accept.

    Returns: What was agreed and the member for the answer's field; None: no such offer.
    """
    for offer in offers:
        if offer.name != "permessage-deflate":
            continue
        deflate = _accept(offer.parameters)
        if deflate is not None:
            answer = ANSWER
            if "server_max_window_bits" in offer.parameters:
                answer += f"; server_max_window_bits={deflate.window_bits}"
            return deflate, answer
    return None


def _accept(parameters: Mapping[str, str | None]) -> Deflate | None:
    window_bits = WINDOW_BITS_MAX
    for name, value in parameters.items():
        if name in ("server_no_context_takeover", "client_no_context_takeover"):
            if value is not None:
                return None
        elif name == "server_max_window_bits":
            window_bits = _window_bits(value)
            if window_bits == 0:
                return None
        elif name == "client_max_window_bits":
            # Only what the client is able to: we read any window.
            if value is not None and _window_bits(value) == 0:
                return None
        else:
            return None
    return Deflate(window_bits)


def check_deflate(answers: Iterable[Extension]) -> Deflate | None:
    """What a server's answer to OFFER agrees to; None: it declined.

    Raises: ValueError for an answer that our offer does not allow.
    """
    agreed = None
    for answer in answers:
        if answer.name != "permessage-deflate" or agreed is not None:
            raise ValueError(f"the extension {answer.name} was not offered")
        if "server_no_context_takeover" not in answer.parameters:
            raise ValueError("the server did not agree to server_no_context_takeover")
        for name, value in answer.parameters.items():
            if name in ("server_no_context_takeover", "client_no_context_takeover"):
                valid = value is None
            elif name in ("server_max_window_bits", "client_max_window_bits"):
                valid = _window_bits(value) != 0
            else:
                valid = False
            if not valid:
                raise ValueError(f"the parameter {name} is not one the offer allows")
        limit = answer.parameters.get("client_max_window_bits")
        agreed = Deflate(WINDOW_BITS_MAX if limit is None else int(limit))
    return agreed


def _window_bits(value: str | None) -> int:
    """8 to 15, without leading zeros; 0: anything else."""
    if value is not None and value in ("8", "9", "10", "11", "12", "13", "14", "15"):
        return int(value)
    return 0
