"""What an agent wants of a tunnel that it registers, beside name, kind and port: options and
custom domains. Read and checked here, with what its token allows."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from proxy_engine import control
from proxy_engine.errors import UsageError
from proxy_engine.grants import Scopes
from proxy_engine.storage import Tunnel
from proxy_engine.tunnels.options import NONE, Domain, Options, check, domain_names

Refusal = tuple[str, str]  # code, message


class Wishes(NamedTuple):
    options: Options = NONE
    domains: tuple[str, ...] = ()


NO_WISHES = Wishes()


def read(spec: control.TunnelSpec, scopes: Scopes, domain: str) -> Wishes | Refusal:
    """
    Args:
        domain: the server's.
    """
    if not spec.options and not spec.domains:
        return NO_WISHES
    try:
        options = check(msgspec.convert(spec.options, Options), spec.kind)
        domains = domain_names(spec.domains, domain)
    except (msgspec.ValidationError, UsageError) as error:
        return "bad_option", str(error)
    if domains and spec.kind != "http":
        return "bad_option", "only HTTP tunnels have domains"
    for name in domains:
        if not scopes.allows_domain(name):
            return "domain_forbidden", f"the token does not allow the domain {name}"
    return Wishes(options, domains)


def with_domains(tunnel: Tunnel, wanted: tuple[str, ...]) -> tuple[Domain, ...]:
    """The tunnel's domains when its agent wants these. The operator's stay."""
    operators = tunnel.domain_names(agents=False)
    kept = [domain for domain in tunnel.domains if not domain.is_agents]
    made = [Domain(name=name, is_agents=True) for name in wanted if name not in operators]
    return tuple(sorted([*kept, *made], key=lambda domain: domain.name))
