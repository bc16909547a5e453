"""How often an address may fail to log in: a bucket of failures for each.

A 256-bit token is never guessed, but guesses cost work. Of an address that has failed too often
no unknown token is looked up any more for a while; who is known already (cache/) comes
in all the same, so that one broken device does not lock out the others behind its NAT.

Pure: the time is passed in, monotonic: a wall clock that is set back would make addresses wait.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Callable

ADDRESSES_MAX = 16384  # remembered; the one that failed longest ago is forgotten first
WINDOW = 60.0  # seconds in which `most` failures are allowed


class LoginGuard:
    """
    Args:
        most: failures an address may have in a minute; 0: any number.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._full: OrderedDict[str, float] = OrderedDict()  # when an address has all back
        self.on_failure: Callable[[str], None] = lambda key: None  # told of each, by address
        self.failed = 0  # logins, since the start
        self.limited = 0  # ... not even tried

    def wait(self, peer: str, now: float) -> float:
        """Seconds until this address may try again; 0: now. Counts those that have to wait."""
        if not self.most:
            return 0.0
        excess = self._full.get(_key(peer), 0.0) - now + WINDOW / self.most - WINDOW
        if excess <= 1e-6:
            return 0.0
        self.limited += 1
        return excess

    def fail(self, peer: str, now: float) -> None:
        """This address has failed to log in."""
        self.failed += 1
        if not self.most:
            return
        key = _key(peer)
        self._fill(key, 1, now)
        self.on_failure(key)

    def failed_elsewhere(self, key: str, times: int, now: float) -> None:
        """... as another node has told on_failure()'s."""
        if self.most:
            self._fill(key, min(times, self.most), now)

    def _fill(self, key: str, times: int, now: float) -> None:
        self._full[key] = max(self._full.get(key, 0.0), now) + times * WINDOW / self.most
        self._full.move_to_end(key)
        if len(self._full) > ADDRESSES_MAX:
            self._full.popitem(last=False)


def _key(peer: str) -> str:
    """An IPv4 address, or the /64 of an IPv6 address, from "ip", "ip:port" or "[ip]:port"."""
    text = peer[1:].partition("]")[0] if peer.startswith("[") else peer
    if text.count(":") == 1:
        text = text.partition(":")[0]
    if ":" not in text:
        return text
    try:
        address = ipaddress.IPv6Address(text.partition("%")[0])
    except ValueError:
        return text
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((address, 64), strict=False))
