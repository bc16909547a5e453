"""Which tokens may be used from where, by which devices, for which tunnels.

The server has checked the token itself; this binds it to networks and names, so that one that
was stolen is of no use elsewhere.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from proxy_engine.hooks.builtin.patterns import matches, texts
from proxy_engine.hooks.errors import Refuse
from proxy_engine.hooks.events import DeviceConnect, TunnelOpen
from proxy_engine.hooks.hook import Hook, inline

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class _Rule(msgspec.Struct, frozen=True, kw_only=True):
    tokens: tuple[str, ...]
    devices: tuple[str, ...]
    tunnels: tuple[str, ...]
    networks: tuple[Network, ...]


class TokenAuth(Hook):
    """Binds tokens to networks, devices and tunnels. The first rule whose `token` fits counts.

    Args:
        rules: tables of `token`, a pattern of names of tokens, and what those may do:
            `addresses` (networks; none: from anywhere), `devices` and `tunnels` (patterns of
            names; none: all).
        others: what becomes of tokens that no rule is for: "refuse" or "allow".
    Raises: ValueError for a rule that makes no sense.
    """

    def __init__(
        self,
        *,
        rules: Sequence[Mapping[str, Any]],
        others: Literal["refuse", "allow"] = "refuse",
    ) -> None:
        if others not in ("refuse", "allow"):
            raise ValueError(f'others is {others!r}, neither "refuse" nor "allow"')
        self._rules = [_rule(number, rule) for number, rule in enumerate(rules, 1)]
        self._others = others

    @inline
    def on_device_connect(self, event: DeviceConnect) -> None:
        rule = self._find(event.token)
        if rule is None:
            return
        if rule.networks and not _is_in(event.address, rule.networks):
            raise Refuse(f"token {event.token} may not be used from {event.address}")
        if rule.devices and not matches(event.device, rule.devices):
            raise Refuse(f"token {event.token} is not for device {event.device}")

    @inline
    def on_tunnel_open(self, event: TunnelOpen) -> None:
        rule = self._find(event.token)
        if rule is not None and rule.tunnels and not matches(event.tunnel, rule.tunnels):
            raise Refuse(f"token {event.token} is not for tunnel {event.tunnel}")

    def _find(self, token: str) -> _Rule | None:
        for rule in self._rules:
            if matches(token, rule.tokens):
                return rule
        if self._others == "refuse":
            raise Refuse(f"no rule is for token {token}")
        return None


def _rule(number: int, rule: Mapping[str, Any]) -> _Rule:
    where = f"rule {number}"
    unknown = set(rule) - {"token", "devices", "tunnels", "addresses"}
    if unknown:
        raise ValueError(f'{where} has an unknown key "{min(unknown)}"')
    if not isinstance(rule.get("token"), str):
        raise ValueError(f"{where} names no token")
    return _Rule(
        tokens=(rule["token"],),
        devices=texts(f"{where}: devices", rule.get("devices", ())),
        tunnels=texts(f"{where}: tunnels", rule.get("tunnels", ())),
        networks=tuple(
            map(ipaddress.ip_network, texts(f"{where}: addresses", rule.get("addresses", ())))
        ),
    )


def _is_in(address: str, networks: Sequence[Network]) -> bool:
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    return any(ip.version == network.version and ip in network for network in networks)
