"""Errors meant for people: one readable line and an exit code, never a traceback."""

from __future__ import annotations

import os
from collections.abc import Iterable

EXIT_OK = 0
EXIT_FAILURE = 1
EXIT_USAGE = 2


class ProxyEngineError(Exception):
    """Something outside the program failed; the text says what, and what to do."""

    exit_code = EXIT_FAILURE


class UsageError(ProxyEngineError):
    """The command line, environment or config file is wrong."""

    exit_code = EXIT_USAGE


class StorageError(ProxyEngineError):
    """The database can not be used."""


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
