"""/api/v1/tunnels: the public names, who serves them, and what is to happen there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, UnsetType

from proxy_engine import storage
from proxy_engine.api.names import Name
from proxy_engine.api.paging import Page, PageQuery, page_of
from proxy_engine.api.problems import Problem
from proxy_engine.api.routes import Call, Routes
from proxy_engine.errors import UsageError
from proxy_engine.grants import Port
from proxy_engine.links.pushes import NotPushed
from proxy_engine.storage import DomainTaken, PortTaken
from proxy_engine.tunnels.changes import NewOptions, ShownOptions, changed, shown
from proxy_engine.tunnels.options import (
    DOMAINS_MAX,
    NONE,
    Domain,
    DomainName,
    Maintenance,
    check,
    check_maintenance,
    domain_name,
    domain_names,
)
from proxy_engine.tunnels.routes import PORT_KINDS, name_refusal
from proxy_engine.values import parse_address

routes = Routes("tunnels", "The public names, who serves them, and what is to happen there.")
MISSING = {404: "there is no such tunnel"}
CHANGED = {412: "it is not what If-Match names any more"}
# What operators change; the rest moves with the agent.
SETTLED = ("domains", "is_enabled", "maintenance", "target", "options")
TAKEN = {409: "another tunnel has this name, port or domain"}
CHANGE_TRIES = 4  # when somebody else changes it at the same moment
Domains = Annotated[list[DomainName], msgspec.Meta(max_length=DOMAINS_MAX)]


class Tunnel(msgspec.Struct, kw_only=True):
    """A public name. It belongs to the device that registered it first."""

    id: int
    name: str
    kind: str
    port: Annotated[int | None, msgspec.Meta(description="public one of a TCP or UDP tunnel")]
    url: str
    domains: Annotated[list[str], msgspec.Meta(description="custom ones, beside that of `url`")]
    agent_domains: Annotated[
        list[str], msgspec.Meta(description="those that the agent has asked for")
    ]
    device: str | None
    is_online: bool
    is_enabled: bool
    maintenance: Maintenance | None
    target: Annotated[
        str | None, msgspec.Meta(description="as an operator set it; null: the agent's own")
    ]
    options: ShownOptions
    agent_options: Annotated[
        ShownOptions, msgspec.Meta(description="they count where `options` has null")
    ]
    created_at: float
    updated_at: Annotated[float | None, msgspec.Meta(description="by an operator")]


class TunnelQuery(PageQuery, forbid_unknown_fields=True, kw_only=True):
    device: Annotated[str, msgspec.Meta(max_length=63)] | None = None
    online: bool | None = None
    enabled: bool | None = None


class TunnelPath(msgspec.Struct):
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=63)]


class DomainPath(msgspec.Struct):
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=63)]
    domain: Annotated[str, msgspec.Meta(min_length=1, max_length=253)]


class NewTunnel(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A tunnel before its device registers it."""

    name: Annotated[
        str,
        msgspec.Meta(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", description="a DNS label"),
    ]
    device: Annotated[Name, msgspec.Meta(description="whose it is")]
    kind: Literal["http", "tcp", "udp"] = "http"
    port: Annotated[
        Port | None, msgspec.Meta(description="public, of a TCP or UDP tunnel; null: private (TCP)")
    ] = None
    domains: Domains = []
    is_enabled: bool = True
    maintenance: Maintenance | None = None
    options: NewOptions = msgspec.field(default_factory=NewOptions)


class TunnelChange(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What is left out stays as it is."""

    domains: Annotated[Domains, msgspec.Meta(description="instead of all it has")] | UnsetType = (
        UNSET
    )
    is_enabled: bool | UnsetType = UNSET
    maintenance: Annotated[
        Maintenance | None, msgspec.Meta(description="null: it is over")
    ] | UnsetType = UNSET  # fmt: skip
    options: NewOptions | UnsetType = UNSET


class NewTarget(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Where the agent is to lead the tunnel, null: where it would by itself."""

    target: Annotated[str, msgspec.Meta(max_length=300, description="HOST:PORT")] | None


@routes.get("/api/v1/tunnels")
async def list_tunnels(call: Call, query: TunnelQuery) -> Page[Tunnel]:
    """All tunnels, by name."""
    service = call.service
    names = await _device_names(call)
    found = [
        tunnel
        for tunnel in await service.store.tunnels()
        if (query.device is None or names.get(tunnel.device_id) == query.device)
        and (query.online is None or bool(service.table.links(tunnel)) == query.online)
        and (query.enabled is None or tunnel.is_enabled == query.enabled)
    ]
    page = page_of(found, query, lambda tunnel: tunnel.name)
    return Page([_shown(call, tunnel, names) for tunnel in page.items], page.next)


@routes.post("/api/v1/tunnels", status=201, problems=TAKEN)
async def create_tunnel(call: Call, body: NewTunnel) -> Tunnel:
    """Make a tunnel ahead, for a device that is registered.

    It answers 503 until the device serves it; nobody else can take its name.
    """
    refusal = name_refusal(body.name, body.kind)
    if refusal is not None:
        raise UsageError(refusal[1])
    names = await _device_names(call)
    owner = next((number for number, name in names.items() if name == body.device), None)
    if owner is None:
        raise Problem(422, "unknown_device", f'there is no device named "{body.device}"')
    _check_port(call, body)
    if body.maintenance is not None:
        check_maintenance(body.maintenance)
    wanted = storage.Tunnel(
        id=0,
        name=body.name,
        kind=body.kind,
        device_id=owner,
        created_at=call.now(),
        port=body.port,
        updated_at=call.now(),
        is_enabled=body.is_enabled,
        maintenance=body.maintenance,
        options=check(changed(NONE, body.options), body.kind),
        domains=_domains(call, body.kind, (), body.domains),
    )
    try:
        tunnel = await call.service.store.tunnel_add(wanted)
    except PortTaken as error:
        raise Problem(409, "port_taken", f"another tunnel has the port {error}") from None
    except DomainTaken as error:
        raise _taken(error) from None
    call.service.links.put_tunnel(tunnel)
    call.answer_headers["Location"] = f"/api/v1/tunnels/{tunnel.name}"
    return _shown(call, tunnel, names)


@routes.get("/api/v1/tunnels/{name}", problems=MISSING, etag=True, settled=SETTLED)
async def read_tunnel(call: Call, path: TunnelPath) -> Tunnel:
    """One tunnel."""
    return _shown(call, await _find(call, path.name), await _device_names(call))


@routes.patch("/api/v1/tunnels/{name}", problems={**MISSING, **TAKEN}, etag=True, settled=SETTLED)
async def change_tunnel(call: Call, path: TunnelPath, body: TunnelChange) -> Tunnel:
    """Change options, domains, maintenance, or whether it is enabled.

    Live traffic follows at once, without a reconnect. What an operator says wins over what the
    agent wants, option by option.
    """

    def change(tunnel: storage.Tunnel) -> storage.Tunnel:
        given: dict[str, object] = {}
        if body.is_enabled is not UNSET:
            given["is_enabled"] = body.is_enabled
        if body.maintenance is not UNSET:
            if body.maintenance is not None:
                check_maintenance(body.maintenance)
            given["maintenance"] = body.maintenance
        if body.options is not UNSET:
            given["options"] = check(changed(tunnel.options, body.options), tunnel.kind)
        if body.domains is not UNSET:
            given["domains"] = _domains(call, tunnel.kind, tunnel.domains, body.domains)
        return msgspec.structs.replace(tunnel, **given)

    return await _change(call, path.name, change)


@routes.put(
    "/api/v1/tunnels/{name}/domains/{domain}", problems={**MISSING, **TAKEN, **CHANGED,
    422: "not a domain, or not one for this tunnel"},
)  # fmt: skip
async def add_domain(call: Call, path: DomainPath) -> Tunnel:
    """Give a tunnel a custom domain: `www.example.com`, or `*.example.com` for one label more."""

    def change(tunnel: storage.Tunnel) -> storage.Tunnel:
        names = [*tunnel.domain_names(agents=False), path.domain]
        domains = _domains(call, tunnel.kind, tunnel.domains, names)
        return msgspec.structs.replace(tunnel, domains=domains)

    return await _change(call, path.name, change)


@routes.delete(
    "/api/v1/tunnels/{name}/domains/{domain}", problems={404: "it has no such domain",
    409: "the agent asked for it", **CHANGED, 422: "not a domain"},
)  # fmt: skip
async def remove_domain(call: Call, path: DomainPath) -> Tunnel:
    """Take a custom domain from a tunnel."""
    name = domain_name(path.domain, call.service.table.domain)

    def change(tunnel: storage.Tunnel) -> storage.Tunnel:
        if name in tunnel.domain_names(agents=True):
            raise Problem(409, "agents_domain", f"the agent asks for {name} when it registers")
        if name not in tunnel.domain_names(agents=False):
            raise Problem(404, "unknown_domain", f'"{tunnel.name}" has no domain {name}')
        domains = tuple(domain for domain in tunnel.domains if domain.name != name)
        return msgspec.structs.replace(tunnel, domains=domains)

    return await _change(call, path.name, change)


@routes.put(
    "/api/v1/tunnels/{name}/target",
    problems={
        **MISSING,
        409: "the device is not connected, or its agent does not allow it; `code` says why",
        504: "the agent did not answer",
    },
)
async def set_target(call: Call, path: TunnelPath, body: NewTarget) -> Tunnel:
    """Have the agent lead a tunnel somewhere else.

    It has to be connected, to run with `--allow-remote-config`, and the target has to be in its
    `--allow-target`. Live traffic follows without a reconnect; the agent is told again whenever
    it registers the tunnel.
    """
    target = ""
    if body.target is not None:
        try:
            target = str(parse_address(body.target, port_min=1))
        except ValueError as error:
            raise UsageError(str(error)) from None
    tunnel = await _find(call, path.name)
    try:
        await call.service.links.pushes.set_target(tunnel, target)
    except NotPushed as error:
        status = 504 if error.code == "agent_timeout" else 409
        raise Problem(status, error.code, error.message) from None
    call.service.links.flush(tunnel)
    return await _change(
        call, path.name, lambda tunnel: msgspec.structs.replace(tunnel, target=target)
    )


@routes.delete("/api/v1/tunnels/{name}", problems=MISSING, etag=True)
async def delete_tunnel(call: Call, path: TunnelPath) -> None:
    """Delete a tunnel, its options and its domains.

    If a device serves it now, it is gone all the same, until the device registers it anew.
    """
    tunnel = await _find(call, path.name)
    if not await call.service.store.tunnel_delete(path.name):
        raise _missing(path.name)
    call.service.links.drop_tunnel(tunnel)


async def _change(
    call: Call, name: str, change: Callable[[storage.Tunnel], storage.Tunnel]
) -> Tunnel:
    """Make a change to the tunnel as it is now, whoever else changes it at the same moment."""
    for _ in range(CHANGE_TRIES):
        tunnel = await _find(call, name)
        wanted = change(tunnel)
        if wanted == tunnel:
            return _shown(call, tunnel, await _device_names(call))
        wanted = msgspec.structs.replace(wanted, updated_at=call.now())
        try:
            made = await call.service.store.tunnel_update(wanted)
        except DomainTaken as error:
            raise _taken(error) from None
        if made is not None:
            call.service.links.put_tunnel(made)
            return _shown(call, made, await _device_names(call))
        if "if-match" in call.headers:
            break
    raise Problem(412, "changed_meanwhile", "somebody else has changed it at the same moment")


async def _find(call: Call, name: str) -> storage.Tunnel:
    tunnel = await call.service.store.tunnel(name)
    if tunnel is None:
        raise _missing(name)
    return tunnel


def _missing(name: str) -> Problem:
    return Problem(404, "unknown_tunnel", "there is no tunnel of this name")


def _taken(error: DomainTaken) -> Problem:
    return Problem(409, "domain_taken", f"another tunnel has the domain {error}")


def _domains(
    call: Call, kind: str, before: tuple[Domain, ...], names: list[str]
) -> tuple[Domain, ...]:
    """All domains when the operator's are these. One that the agent has becomes the operator's."""
    wanted = domain_names(names, call.service.table.domain)
    if wanted and kind != "http":
        raise UsageError("only HTTP tunnels have domains")
    agents = [domain for domain in before if domain.is_agents and domain.name not in wanted]
    made = [Domain(name=name) for name in wanted]
    return tuple(sorted([*agents, *made], key=lambda domain: domain.name))


def _check_port(call: Call, body: NewTunnel) -> None:
    if body.port is None:
        if body.kind == "udp":
            raise UsageError("a UDP tunnel has a public port")
        return
    if body.kind not in PORT_KINDS:
        raise UsageError("only TCP and UDP tunnels have a port")
    ranges = call.service.settings.tcp_ports
    if not any(first <= body.port <= last for first, last in ranges):
        given = ", ".join(map(str, ranges)) or "none"
        raise UsageError(f"port {body.port} is none that this server gives out ({given})")


async def _device_names(call: Call) -> dict[int, str]:
    return {device.id: device.name for device in await call.service.store.devices()}


def _shown(call: Call, tunnel: storage.Tunnel, names: dict[int, str]) -> Tunnel:
    table = call.service.table
    return Tunnel(
        id=tunnel.id,
        name=tunnel.name,
        kind=tunnel.kind,
        port=tunnel.port,
        url=table.url(tunnel, names.get(tunnel.device_id, "?")),
        domains=list(tunnel.domain_names(agents=False)),
        agent_domains=list(tunnel.domain_names(agents=True)),
        device=names.get(tunnel.device_id),
        is_online=bool(table.links(tunnel)),
        is_enabled=tunnel.is_enabled,
        maintenance=tunnel.maintenance,
        target=tunnel.target or None,
        options=shown(tunnel.options),
        agent_options=shown(table.agent_options(tunnel.name)),
        created_at=tunnel.created_at,
        updated_at=tunnel.updated_at,
    )
