"""The token that a device shows: read at the start, and again for every dial, if it is in a file.

So one that was rotated counts from the next link on, without a restart. A file that is no good
then changes nothing: the last good token stays, and the log says why.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from proxy_engine import logs
from proxy_engine.errors import UsageError
from proxy_engine.settings.config import secret

if TYPE_CHECKING:
    from proxy_engine.settings.config import Settings

_log = logs.get("agent")


class DeviceToken:
    """Raises UsageError."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._complaint = ""  # as last logged
        self.value = read_token(settings)  # the last good one

    def __call__(self) -> str:
        """The one to show now."""
        try:
            self.renew()
        except UsageError as error:
            if str(error) != self._complaint:
                _log.error("token not read again, the last good one stays", error=error)
            self._complaint = str(error)
        return self.value

    def renew(self) -> None:
        """Raises UsageError; the last good one stays."""
        file = self._settings.token_file
        if not file or _is_read_once(file):
            return
        token = read_token(self._settings)
        if token != self.value:
            _log.info("another token is in its file, the next link has it", file=file)
        self.value, self._complaint = token, ""


def read_token(settings: Settings) -> str:
    """The token, wherever it is. Raises UsageError."""
    token = secret(settings, "token")
    if not token:
        if settings.token_file:
            raise UsageError(f"token file {settings.token_file}: it is empty")
        raise UsageError("which token? give --token-file FILE or PROXY_ENGINE_TOKEN")
    if not token.isascii() or not token.isprintable() or " " in token:
        raise UsageError("the token holds characters that no token has")
    return token


def _is_read_once(file: str) -> bool:
    """Standard input, and pipes such as a shell's <(...): to open one again may wait for ever."""
    if file == "-":
        return True
    try:
        mode = os.stat(file).st_mode
    except OSError:
        return False  # whoever reads it says why not
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)
