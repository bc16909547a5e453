"""Checks of what listens, or is to: is the address free, or taken by who may have it."""

from __future__ import annotations

import errno
import http.client
import json
import socket
from typing import TYPE_CHECKING

from proxy_engine.doctor.finding import Finding, error, ok
from proxy_engine.errors import error_text

if TYPE_CHECKING:
    from proxy_engine.values import Address

TIMEOUT = 3.0  # seconds for an answer


def runs(admin: Address, is_tls: bool) -> bool:
    """Whether one of ours answers at this admin address."""
    if admin.port == 0:
        return False
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(admin.host, admin.host)
    client: http.client.HTTPConnection
    if is_tls:
        import ssl

        # Only to tell who it is: nothing secret is sent.
        context = ssl._create_unverified_context()
        client = http.client.HTTPSConnection(host, admin.port, timeout=TIMEOUT, context=context)
    else:
        client = http.client.HTTPConnection(host, admin.port, timeout=TIMEOUT)
    try:
        client.request("GET", "/livez")
        return json.loads(client.getresponse().read()).get("status") in ("ok", "stuck")
    except (OSError, http.client.HTTPException, ValueError, AttributeError):
        return False
    finally:
        client.close()


def port(check: str, address: Address, is_running: bool) -> Finding:
    """Whether it can be listened on."""
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as problem:
        return error(check, f"{address}: {error_text(problem)}", "an address of this machine")
    family, kind, _, _, where = found[0]
    with socket.socket(family, kind) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(where)
        except OSError as problem:
            if problem.errno == errno.EADDRINUSE and is_running:
                return ok(check, f"{address} is in use, by proxy-engine")
            if problem.errno == errno.EADDRINUSE:
                advice = f"who is it? ss -ltnp 'sport = :{address.port}'"
            elif problem.errno == errno.EACCES:
                advice = (
                    "below 1024: AmbientCapabilities=CAP_NET_BIND_SERVICE in the unit, or "
                    f"sysctl -w net.ipv4.ip_unprivileged_port_start={address.port}"
                )
            else:
                advice = "is it an address of this machine?"
            return error(check, f"{address}: {error_text(problem)}", advice)
    return ok(check, f"{address} is free")
