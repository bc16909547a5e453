"""Private access: a connection to a TCP tunnel for who has a token, by an HTTP Upgrade.

    GET /_proxy/tcp/DEVICE/TUNNEL HTTP/1.1
    Authorization: Bearer pe_...
    Connection: Upgrade
    Upgrade: proxy-engine-tcp

After the 101 the bytes are the tunnel's. Each connection is authorised by itself, so a token that
is revoked opens none any more. Pure: what the server reads and answers, and what a client sends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy_engine.handshake import Refusal, head, members

if TYPE_CHECKING:
    from proxy_engine.links.table import LinkTable
    from proxy_engine.storage import Token
    from proxy_engine.tunnels.routes import TunnelTable

PATH = "/_proxy/tcp/"
UPGRADE = "proxy-engine-tcp"

ACCEPT = head("HTTP/1.1 101 Switching Protocols", {"Connection": "Upgrade", "Upgrade": UPGRADE})


def request(*, authority: str, token: str, device: str, tunnel: str) -> bytes:
    """What a client sends."""
    fields = {
        "Host": authority,
        "Authorization": f"Bearer {token}",
        "Connection": "Upgrade",
        "Upgrade": UPGRADE,
    }
    return head(f"GET {PATH}{device}/{tunnel} HTTP/1.1", fields)


def read_request(method: str, target: str, fields: list[tuple[str, bytes]]) -> tuple[str, str]:
    """(device, tunnel) of an authorised request. Raises Refusal."""
    if method != "GET":
        raise Refusal(405, "method_not_allowed", "use GET", {"Allow": "GET"})
    if UPGRADE not in members(fields, "upgrade"):
        wanted = {"Upgrade": UPGRADE}
        raise Refusal(426, "upgrade_required", f"Upgrade must be {UPGRADE}", wanted)
    if "upgrade" not in members(fields, "connection"):
        raise Refusal(400, "bad_upgrade", "the Connection field must name upgrade")
    device, slash, tunnel = target.partition("?")[0].removeprefix(PATH).partition("/")
    if not slash:
        raise Refusal(404, "not_found", f"tunnels are joined at {PATH}DEVICE/TUNNEL")
    return device, tunnel


def authorise(token: Token, device: str, tunnel: str) -> None:
    """Whether this good token may join it, known or not. Raises Refusal."""
    if token.kind == "admin":
        allowed = not token.scopes.read_only
    elif token.is_blocked:
        raise Refusal(403, "blocked_device", "this device is blocked")
    else:
        is_own = token.device_id is not None and token.device == device
        allowed = is_own or token.scopes.allows_connect(f"{device}/{tunnel}")
    if not allowed:
        raise Refusal(403, "wrong_scope", f"the token does not allow {device}/{tunnel}")


def find(table: TunnelTable, links: LinkTable, device: str, tunnel: str) -> None:
    """Whether it can be joined now. Raises Refusal."""
    found = table.get(tunnel)
    if found is None or found.kind != "tcp":
        raise Refusal(404, "unknown_tunnel", "there is no such TCP tunnel here")
    serving = [links.get(link) for link in table.links(found)]
    names = {link.device for link in serving if link is not None}
    if not names:
        raise Refusal(503, "device_offline", "the device behind this tunnel is not connected")
    if device not in names:
        raise Refusal(404, "unknown_tunnel", "there is no such TCP tunnel here")
