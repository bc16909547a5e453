"""Errors meant for people: one readable line and an exit code, never a traceback.

One tree, for programs too:

    ProxyEngineError
      UsageError            a setting, an argument or the order of calls is wrong
      ListenError           an address can not be listened on
      StorageError          the database can not be used
      ClosedError           used after its end, or before its beginning
      ConnectError          there is no link to the server
        AuthError           ... because of the token, or the device
        ReplacedError       ... because another run of the same device took over
      TunnelError           a tunnel is not there
        RefusedError        ... because the server refuses it
          NameTakenError    ... whose name belongs to another device
      HookError             a hook failed, or can not be loaded (proxy_engine.hooks)
        HookTimeout         ... because it took too long
        Refuse              raised by hooks: no, and why
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Literal

# Whose: "ours": this program, its settings, or this machine. "theirs": the other side's, which
# means what it says. "network": something between.
Fault = Literal["ours", "theirs", "network"]

EXIT_OK = 0
EXIT_FAILURE = 1
EXIT_USAGE = 2


class ProxyEngineError(Exception):
    """Something outside the program failed; the text says what, and what to do.

    Attributes:
        reason: a code of docs/errors.md; "" where there is none.
        tunnel: the name of the tunnel that is concerned; "" for none.
        fault: whose it is.
        retryable: the same may work later, unchanged.
    """

    exit_code = EXIT_FAILURE
    fault: Fault = "ours"
    retryable = False

    def __init__(
        self,
        message: str = "",
        *,
        reason: str = "",
        tunnel: str = "",
        fault: Fault | None = None,
        retryable: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.tunnel = tunnel
        if fault is not None:
            self.fault = fault
        if retryable is not None:
            self.retryable = retryable


class UsageError(ProxyEngineError):
    """The command line, environment or config file is wrong."""

    exit_code = EXIT_USAGE


class StorageError(ProxyEngineError):
    """The database can not be used."""

    retryable = True


class ListenError(ProxyEngineError):
    """An address can not be listened on."""


class ClosedError(ProxyEngineError):
    """A server, client or tunnel was used after its end, or before its beginning."""


class ConnectError(ProxyEngineError):
    """There is no link to the server."""

    fault: Fault = "network"
    retryable = True


class AuthError(ConnectError):
    """The server refuses the token, or this device."""

    fault: Fault = "theirs"
    retryable = False


class ReplacedError(ConnectError):
    """Another run of the same device has taken over."""

    fault: Fault = "theirs"
    retryable = False


class TunnelError(ProxyEngineError):
    """A tunnel is not there, or no more."""


class RefusedError(TunnelError):
    """The server refuses a tunnel."""

    fault: Fault = "theirs"


class NameTakenError(RefusedError):
    """The tunnel's name belongs to another device."""


def suggestion(word: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """', did you mean "x"?' or an empty string."""
    import difflib

    near = difflib.get_close_matches(word, list(known), n=1, cutoff=cutoff)
    return f', did you mean "{near[0]}"?' if near else ""


def error_text(error: Exception) -> str:
    """What went wrong, without Python's [Errno ...] around it."""
    if not isinstance(error, OSError) or error.errno is None:
        return str(error)
    if hasattr(error, "verify_message"):  # ssl.SSLCertVerificationError
        return f"its certificate is refused: {error.verify_message}"
    if hasattr(error, "reason"):  # ssl.SSLError, whose numbers are OpenSSL's
        return f"TLS failed: {(error.reason or str(error)).lower().replace('_', ' ')}"
    # Name lookups have negative numbers and texts of their own.
    return os.strerror(error.errno) if error.errno > 0 else error.strerror or str(error)
