"""What an operator asks to change of a tunnel's options, as JSON, and what comes of it.

What is left out stays, null takes the operator's word back, so that the agent's counts again.
A user without a password keeps the one there is: what was read can be sent back.
"""

from __future__ import annotations

import secrets
from typing import Annotated

import msgspec
from msgspec import UNSET, UnsetType

from proxy_engine.errors import UsageError
from proxy_engine.tunnels.options import (
    PASSWORD_MAX,
    SALT_SIZE,
    USERS_MAX,
    BasicAuth,
    Headers,
    Networks,
    Options,
    User,
    check_password,
    check_user,
    digest_of,
)
from proxy_engine.values import Profile

Prefix = Annotated[
    str, msgspec.Meta(max_length=256, description="taken off paths; others are not found")
]
ServerTiming = Annotated[
    bool, msgspec.Meta(description="responses tell where the time went, in `Server-Timing`")
]
Host = Annotated[str, msgspec.Meta(max_length=260, description="the `Host` that the target sees")]


class Credentials(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    password: (
        Annotated[
            str,
            msgspec.Meta(min_length=1, max_length=PASSWORD_MAX, description="left out: as it was"),
        ]
        | None
    ) = None

    def __repr__(self) -> str:
        return f"Credentials({self.name!r})"


class NewBasicAuth(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Nobody but these users gets in; none: everybody does."""

    users: Annotated[list[Credentials], msgspec.Meta(max_length=USERS_MAX)]
    realm: Annotated[str, msgspec.Meta(max_length=64, description="empty: the tunnel's name")] = ""


class NewOptions(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What is left out stays as it is; null: what the agent wants, if anything."""

    allow: Networks | UnsetType | None = UNSET
    deny: Networks | UnsetType | None = UNSET
    basic_auth: NewBasicAuth | UnsetType | None = UNSET
    request_headers: Headers | UnsetType | None = UNSET
    response_headers: Headers | UnsetType | None = UNSET
    strip_prefix: Prefix | UnsetType | None = UNSET
    host_header: Host | UnsetType | None = UNSET
    profile: Profile | UnsetType | None = UNSET
    server_timing: ServerTiming | UnsetType | None = UNSET


class UserName(msgspec.Struct, kw_only=True):
    name: str


class ShownBasicAuth(msgspec.Struct, kw_only=True):
    """Without the passwords: nobody has them but who gave them."""

    users: list[UserName]
    realm: str


class ShownOptions(msgspec.Struct, kw_only=True):
    """Null: nothing was said."""

    allow: tuple[str, ...] | None
    deny: tuple[str, ...] | None
    basic_auth: ShownBasicAuth | None
    request_headers: Headers | None
    response_headers: Headers | None
    strip_prefix: str | None
    host_header: str | None
    profile: Profile | None
    server_timing: bool | None


def shown(options: Options) -> ShownOptions:
    auth = options.basic_auth
    return ShownOptions(
        allow=options.allow,
        deny=options.deny,
        basic_auth=None
        if auth is None
        else ShownBasicAuth(
            users=[UserName(name=user.name) for user in auth.users], realm=auth.realm
        ),
        request_headers=options.request_headers,
        response_headers=options.response_headers,
        strip_prefix=options.strip_prefix,
        host_header=options.host_header,
        profile=options.profile,
        server_timing=options.server_timing,
    )


def changed(options: Options, news: NewOptions) -> Options:
    """Raises UsageError. What it returns is to be checked as a whole."""
    given = {
        name: value
        for name in news.__struct_fields__
        if (value := getattr(news, name)) is not UNSET
    }
    if isinstance(news.basic_auth, NewBasicAuth):
        given["basic_auth"] = _basic_auth(options.basic_auth or BasicAuth(), news.basic_auth)
    return msgspec.structs.replace(options, **given)


def _basic_auth(before: BasicAuth, news: NewBasicAuth) -> BasicAuth:
    salt = before.salt or secrets.token_hex(SALT_SIZE)
    digests = {user.name: user.digest for user in before.users}
    users = []
    for each in news.users:
        check_user(each.name)
        if each.password is not None:
            check_password(each.password)
            digest = digest_of(bytes.fromhex(salt), each.name, each.password)
        elif each.name in digests:
            digest = digests[each.name]
        else:
            raise UsageError(f'basic_auth: the new user "{each.name}" needs a password')
        users.append(User(name=each.name, digest=digest))
    return BasicAuth(salt=salt, users=tuple(users), realm=news.realm)
