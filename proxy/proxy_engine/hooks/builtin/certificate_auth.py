"""Which client certificates are for which devices, by rule instead of device by device."""

from __future__ import annotations

from collections.abc import Sequence

from proxy_engine.hooks.builtin.patterns import matches, texts
from proxy_engine.hooks.errors import Refuse
from proxy_engine.hooks.events import DeviceConnect
from proxy_engine.hooks.hook import Hook, inline


class CertificateAuth(Hook):
    """A device has to show a certificate with a name that fits.

    Args:
        names: patterns of names, "cn:...", "dns:..." or "uri:..."; {device} and {token} stand for
            those of the device. URIs are compared as they are, other names in any case.
        devices: patterns of the devices this is for; others need none.
    Raises: ValueError for a name of another kind.
    """

    def __init__(
        self,
        *,
        names: Sequence[str] = ("cn:{device}", "dns:{device}"),
        devices: Sequence[str] = ("*",),
    ) -> None:
        self._names = texts("names", names)
        self._devices = texts("devices", devices)
        for name in self._names:
            if not name.startswith(("cn:", "dns:", "uri:")):
                raise ValueError(f'"{name}" is not cn:NAME, dns:NAME or uri:URI')

    @inline
    def on_device_connect(self, event: DeviceConnect) -> None:
        if not matches(event.device, self._devices):
            return
        if not event.certificate:
            raise Refuse("this device has to show a certificate (--cert, --key)")
        wanted = [
            _compared(_filled(name, device=event.device, token=event.token)) for name in self._names
        ]
        if not any(matches(_compared(name), wanted) for name in event.certificate):
            raise Refuse(f"the certificate is for {event.certificate[0]}")


def _filled(pattern: str, **names: str) -> str:
    # A name is no pattern, whatever is in it.
    for key, name in names.items():
        literal = "".join(f"[{sign}]" if sign in "*?[" else sign for sign in name)
        pattern = pattern.replace(f"{{{key}}}", literal)
    return pattern


def _compared(name: str) -> str:
    return name if name.startswith("uri:") else name.lower()
