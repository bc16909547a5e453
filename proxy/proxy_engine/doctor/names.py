"""Whether names lead here."""

from __future__ import annotations

import ipaddress
import secrets
import socket
from collections.abc import Callable

from proxy_engine.doctor.finding import Findings, error, ok, skipped, warning

Resolve = Callable[[str], list[str]]


def resolve(name: str) -> list[str]:
    """Its addresses. Raises OSError."""
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except UnicodeError:
        raise OSError("it is not a name") from None
    return sorted({str(each[4][0]) for each in found})


def is_ours(address: str) -> bool:
    """Whether this machine has it: a socket may be bound to it."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def is_local(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")
    return True


def lead_here(
    domain: str, *, resolve: Resolve = resolve, is_ours: Callable[[str], bool] = is_ours
) -> Findings:
    """The domain of the server and what is below it."""
    if is_local(domain):
        yield skipped("dns", f"{domain} needs no DNS")
        return
    here = None
    for check, name, shown in (
        ("dns.domain", domain, domain),
        # A name that nobody has made, so it is the wildcard that answers.
        ("dns.wildcard", f"doctor-{secrets.token_hex(6)}.{domain}", f"*.{domain}"),
    ):
        try:
            found = resolve(name)
        except OSError as problem:
            what = (
                "agents do not find the server"
                if check == "dns.domain"
                else "visitors find no tunnel"
            )
            yield error(
                check,
                f"{shown} has no address ({problem.strerror or problem}): {what}",
                f"a DNS record: {shown} A (and AAAA) with this machine's public address",
            )
            continue
        addresses = ", ".join(found)
        if here is not None and found != here:
            yield warning(
                check,
                f"{shown} is {addresses}, and {domain} is {', '.join(here)}",
                "both usually lead to the same machine",
            )
        elif all(map(is_ours, found)):
            yield ok(check, f"{shown} is {addresses}, which is here")
        else:
            yield warning(
                check,
                f"{shown} is {addresses}, which no interface of this machine has",
                "right behind a load balancer or a NAT; else the record is old",
            )
        here = found
