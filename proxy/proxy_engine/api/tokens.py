"""/api/v1/tokens: who may connect, and who may use this API."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from proxy_engine import storage, tokens
from proxy_engine.api.names import Name, Named
from proxy_engine.api.paging import Page, PageQuery, page_of
from proxy_engine.api.problems import Problem
from proxy_engine.api.routes import Call, Routes
from proxy_engine.grants import ANY, UNLIMITED, Bandwidth, Limit, Limits, Scopes

routes = Routes("tokens", "Who may connect, and who may use this API.")
MISSING = {404: "there is no live token of this name"}
TAKEN = {409: "a token has this name"}
LIFE_MAX = 100 * 365 * 86400.0  # seconds
Seconds = Annotated[float, msgspec.Meta(ge=0, le=LIFE_MAX, description="seconds")]
State = Literal["live", "expired", "revoked"]


class Token(msgspec.Struct, kw_only=True):
    """A token, without its secret: nobody has that but who was given it."""

    id: int
    name: str
    kind: str
    device: str | None
    state: State
    scopes: Scopes
    limits: Limits
    created_at: float
    expires_at: float | None
    revoked_at: float | None
    last_used_at: float | None
    old_secret_until: float | None


class NewToken(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A device token is for one device, or for all that `scopes.devices` allows."""

    name: Name
    kind: Literal["device", "admin"] = "device"
    device: Annotated[
        Name | None, msgspec.Meta(description="the device's name; null: the token's")
    ] = None
    expires_in: Seconds | None = None
    scopes: Scopes = ANY
    limits: Limits = UNLIMITED


class LimitsChange(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What is null stays as it is; 0 is no limit."""

    tunnels: Limit | None = None
    connections: Limit | None = None
    requests: Limit | None = None
    bandwidth: Bandwidth | None = None


class TokenChange(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    limits: LimitsChange


class Rotation(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    overlap: Annotated[Seconds, msgspec.Meta(description="how long the old secret stays good")] = (
        tokens.OVERLAP
    )


class Secret(msgspec.Struct, kw_only=True):
    """A secret, shown only now, and the token it opens."""

    secret: str
    token: Token


@routes.get("/api/v1/tokens")
async def list_tokens(call: Call, query: PageQuery) -> Page[Token]:
    """All tokens, by name; revoked ones too."""
    page = page_of(await call.service.store.tokens(), query, lambda token: token.name)
    return Page([_token(call, token) for token in page.items], page.next)


@routes.post("/api/v1/tokens", status=201, problems=TAKEN)
async def create_token(call: Call, body: NewToken) -> Secret:
    """Make a token. The answer has its secret, for the only time."""
    secret, token = await tokens.create(
        call.service.store,
        name=body.name,
        kind=body.kind,
        device=body.device,
        now=call.now(),
        expires_in=body.expires_in,
        scopes=body.scopes,
        limits=body.limits,
    )
    await call.service.access_changed()
    call.answer_headers["Location"] = f"/api/v1/tokens/{token.name}"
    return Secret(secret=secret, token=_token(call, token))


@routes.get("/api/v1/tokens/{name}", problems={404: "there is no such token"})
async def read_token(call: Call, path: Named) -> Token:
    """One token."""
    return _token(call, await _find(call, path.name))


@routes.patch("/api/v1/tokens/{name}", problems=MISSING)
async def change_token(call: Call, path: Named, body: TokenChange) -> Token:
    """Give a live token other limits. They count at once, for links and requests under way too.

    A lower limit of tunnels or connections ends none that there are.
    """
    given = msgspec.structs.asdict(body.limits)
    token = await tokens.change(
        call.service.store,
        path.name,
        limits={name: value for name, value in given.items() if value is not None},
        now=call.now(),
    )
    if token is None:
        raise _missing()
    await call.service.access_changed()
    return _token(call, token)


@routes.post("/api/v1/tokens/{name}/rotate", problems=MISSING)
async def rotate_token(call: Call, path: Named, body: Rotation) -> Secret:
    """Give a token a new secret; the old one is good for a while.

    Links made with the old secret end with it. Rotating again ends the first secret at once.
    """
    made = await tokens.rotate(call.service.store, path.name, now=call.now(), overlap=body.overlap)
    if made is None:
        raise _missing()
    await call.service.access_changed()
    return Secret(secret=made[0], token=_token(call, made[1]))


@routes.post("/api/v1/tokens/{name}/revoke", problems=MISSING)
async def revoke_token(call: Call, path: Named) -> Token:
    """Make a token useless, for ever. Its links end at once."""
    if not await call.service.store.token_revoke(path.name, call.now()):
        raise _missing()
    await call.service.access_changed()
    return _token(call, await _find(call, path.name))


async def _find(call: Call, name: str) -> storage.Token:
    for token in await call.service.store.tokens():
        if token.name == name:
            return token
    raise _missing()


def _missing() -> Problem:
    return Problem(404, "unknown_token", "there is no live token of this name")


def _token(call: Call, token: storage.Token) -> Token:
    reason = tokens.refusal(token, call.now())
    return Token(
        id=token.id,
        name=token.name,
        kind=token.kind,
        device=token.device,
        state=_STATES[reason],
        scopes=token.scopes,
        limits=token.limits,
        created_at=token.created_at,
        expires_at=token.expires_at,
        revoked_at=token.revoked_at,
        last_used_at=token.last_used_at,
        old_secret_until=token.old_expires_at,
    )


_STATES: dict[str | None, State] = {
    None: "live",
    "expired_token": "expired",
    "revoked_token": "revoked",
}
