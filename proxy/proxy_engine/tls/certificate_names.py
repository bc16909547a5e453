"""Which device a client certificate is for.

The engine has verified the certificate and tells its names: "cn:...", "dns:...", "uri:...". One of
a device has to have a name that was bound to it, or, where none was, the device's own name as
common name or DNS name. So a stolen token is of no use without the certificate, and a stolen
certificate only to the device that it is for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from proxy_engine.errors import UsageError

NAMES_MAX = 16  # bound to one device
SIZE_MAX = 255  # characters of one
_NAME = re.compile(r"(?:cn|dns|uri):[!-~](?:[ -~]*[!-~])?", re.ASCII)


def check_names(names: Sequence[str]) -> None:
    """Whether these can be bound to a device. Raises UsageError."""
    if len(names) > NAMES_MAX:
        raise UsageError(f"a device has at most {NAMES_MAX} certificate names")
    for name in names:
        if not _NAME.fullmatch(name) or len(name) > SIZE_MAX:
            raise UsageError(f'"{name}" is not cn:NAME, dns:NAME or uri:URI')


def is_for(device: str, bound: Iterable[str], shown: Iterable[str]) -> bool:
    """Whether a certificate with the names `shown` is one of this device's."""
    wanted = {_compared(name) for name in bound} or {
        _compared(f"{kind}:{device}") for kind in ("cn", "dns")
    }
    return not wanted.isdisjoint(map(_compared, shown))


def refusal(
    device: str, bound: Sequence[str], shown: Sequence[str], *, is_required: bool
) -> tuple[str, str] | None:
    """(code, message) if the device may not have a link with this certificate, () for none.

    Args:
        is_required: of every device; one with names bound to it needs it all the same.
    """
    if not shown:
        if not bound and not is_required:
            return None
        return "certificate_required", "this device has to show a certificate (--cert, --key)"
    if is_for(device, bound, shown):
        return None
    return "wrong_certificate", f"the certificate is for {shown[0]}, not for device {device}"


def _compared(name: str) -> str:
    kind, _, rest = name.partition(":")
    return name if kind == "uri" else f"{kind}:{rest.lower()}"
