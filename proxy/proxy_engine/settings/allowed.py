"""Which targets an agent may connect to: a list of networks and ports, checked on addresses.

Names are resolved first, so a name that begins to point elsewhere opens nothing new; so are the
symbolic links in the path of a socket of this machine.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from typing import NamedTuple

from proxy_engine.values import UNIX

PORTS = (1, 65535)


class Allowed(NamedTuple):
    network: ipaddress.IPv4Network | ipaddress.IPv6Network
    first_port: int
    last_port: int

    def __str__(self) -> str:
        if (self.first_port, self.last_port) == PORTS:
            return str(self.network)
        ports = str(self.first_port)
        if self.last_port != self.first_port:
            ports += f"-{self.last_port}"
        network = str(self.network)
        return f"[{network}]:{ports}" if ":" in network else f"{network}:{ports}"


class AllowedSocket(NamedTuple):
    """One socket, or with a "/" at its end all below a folder."""

    name: str

    def __str__(self) -> str:
        return UNIX + self.name


Rule = Allowed | AllowedSocket


def parse_allowed(text: str) -> Rule:
    """ "10.0.0.0/8", "127.0.0.1:5432", "192.168.1.0/24:8000-8100", "[fd00::/8]:443",
    "unix:/run/app.sock", "unix:/run/app/", "unix:@app".

    Raises ValueError.
    """
    if text.startswith(UNIX):
        name = text.removeprefix(UNIX)
        is_folder = name.endswith("/")
        if not name.startswith(("/", "@")) or name == "@":
            raise ValueError(f'"{text}" is not unix:/PATH, unix:/FOLDER/ or unix:@NAME')
        if name.startswith("@"):
            return AllowedSocket(name)
        return AllowedSocket(os.path.realpath(name).rstrip("/") + "/" * is_folder)
    network, ports = text, ""
    if text.startswith("["):
        network, bracket, ports = text[1:].partition("]")
        if not bracket or (ports and not ports.startswith(":")):
            raise ValueError(f'"{text}" is not a network and ports such as [fd00::/8]:443')
        ports = ports[1:]
    elif text.count(":") == 1:
        network, _, ports = text.partition(":")
        if not ports:
            raise ValueError(f'"{text}" names no ports')
    try:
        parsed = ipaddress.ip_network(network)
    except ValueError as error:
        raise ValueError(f'"{text}": {error}') from None
    first, dash, last = ports.partition("-")
    low, high = (first, last) if dash else (first, first)
    if not ports:
        return Allowed(parsed, *PORTS)
    if not all(port.isascii() and port.isdigit() and len(port) < 6 for port in (low, high)):
        raise ValueError(f'"{text}": ports are such as 443 or 8000-8100')
    if not PORTS[0] <= int(low) <= int(high) <= PORTS[1]:
        raise ValueError(f'"{text}": ports are {PORTS[0]} to {PORTS[1]}, the lower one first')
    return Allowed(parsed, int(low), int(high))


def is_allowed(address: str, port: int, allowed: Sequence[Rule]) -> bool:
    """Whether an IP literal, or unix:/PATH without symbolic links, is in the list; an empty list
    allows everything."""
    if not allowed:
        return True
    if address.startswith(UNIX):
        name = address.removeprefix(UNIX)
        return any(_is_socket_allowed(name, rule) for rule in allowed)
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    return any(
        isinstance(rule, Allowed)
        and rule.first_port <= port <= rule.last_port
        and ip.version == rule.network.version
        and ip in rule.network
        for rule in allowed
    )


def _is_socket_allowed(name: str, rule: Rule) -> bool:
    if not isinstance(rule, AllowedSocket):
        return False
    return name == rule.name or (rule.name.endswith("/") and name.startswith(rule.name))
