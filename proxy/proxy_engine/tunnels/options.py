"""What a tunnel does with its visitors, beside leading them to a target.

Two say so: the operator, through the API (kept in the store), and the agent, when it registers
the tunnel (kept as long as it serves it). Option by option the operator's word counts, where
there is one: merged(). None is no word at all, an empty list or text the word "none of it".

Here is what can be said, how it is checked, and as what the engine is told.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import re
import secrets
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec

from proxy_engine.errors import UsageError
from proxy_engine.values import DEFAULT_PROFILE, LABEL, Profile

if TYPE_CHECKING:
    from proxy_engine_core.core import HeaderRule, RoutePolicy

NETWORKS_MAX = 64  # in one list
USERS_MAX = 32
HEADERS_MAX = 20  # in one list; the engine takes 64 for a direction
DOMAINS_MAX = 32  # of one tunnel, by each of the two
HEADER_VALUE_MAX = 1024  # characters
PASSWORD_MAX = 128  # bytes
PAGE_SIZE_MAX = 32768  # bytes
WEEK = 7 * 86400  # seconds
SALT_SIZE = 16  # bytes

_REALM = re.compile(r"[ !#-\[\]-~]{0,64}", re.ASCII)
_SALT = re.compile(r"(?:[0-9a-f]{2}){8,64}", re.ASCII)
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
_USER = re.compile(r"[!-9;-~](?:[ -9;-~]*[!-9;-~])?", re.ASCII)  # visible, without ":"
Network = Annotated[
    str, msgspec.Meta(max_length=43, description="an address or network, such as 192.0.2.0/24")
]
# HTTP would allow more, but nobody uses it, and databases take offence at "." and "$".
FieldName = Annotated[str, msgspec.Meta(pattern=r"^[0-9A-Za-z_-]{1,128}$")]
FieldValue = Annotated[str, msgspec.Meta(min_length=1, max_length=HEADER_VALUE_MAX)]
Networks = Annotated[tuple[Network, ...], msgspec.Meta(max_length=NETWORKS_MAX)]
DomainName = Annotated[
    str, msgspec.Meta(min_length=1, max_length=253, description="such as `www.example.com`")
]


class User(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who may come in. The password itself is never kept."""

    name: str
    digest: str  # digest_of(), in hex


class BasicAuth(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """HTTP basic authentication (RFC 7617) by the proxy: no users, nobody is asked."""

    salt: str = ""  # hex, of all digests
    users: Annotated[tuple[User, ...], msgspec.Meta(max_length=USERS_MAX)] = ()
    realm: str = ""  # "": the tunnel's name


class Headers(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True,
              forbid_unknown_fields=True):  # fmt: skip
    """What happens to the header fields of a message."""

    remove: Annotated[tuple[FieldName, ...], msgspec.Meta(max_length=HEADERS_MAX)] = ()
    set: Annotated[
        dict[FieldName, FieldValue],
        msgspec.Meta(max_length=HEADERS_MAX, description="instead of all of the same name"),
    ] = {}
    add: Annotated[
        dict[FieldName, FieldValue],
        msgspec.Meta(max_length=HEADERS_MAX, description="beside those of the same name"),
    ] = {}

    def rules(self) -> list[HeaderRule]:
        """As the engine takes them."""
        return [
            *(("remove", name) for name in self.remove),
            *(("set", name, value) for name, value in self.set.items()),
            *(("add", name, value) for name, value in self.add.items()),
        ]


class Options(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True,
              forbid_unknown_fields=True):  # fmt: skip
    """Of an HTTP tunnel. Of a TCP tunnel only the two lists of networks and the profile have a
    meaning, of a UDP tunnel those lists."""

    allow: Networks | None = None
    deny: Networks | None = None
    basic_auth: BasicAuth | None = None
    request_headers: Headers | None = None
    response_headers: Headers | None = None
    strip_prefix: str | None = None
    host_header: str | None = None
    profile: Profile | None = None
    server_timing: bool | None = None


class Maintenance(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Visitors get this with the status 503, and the target gets nobody."""

    page: Annotated[
        str, msgspec.Meta(max_length=PAGE_SIZE_MAX, description="empty: an answer of our own")
    ] = ""
    kind: Annotated[Literal["html", "json", "text"], msgspec.Meta(description="of the page")] = (
        "html"
    )
    retry_after: Annotated[
        int, msgspec.Meta(ge=1, le=WEEK, description="seconds, for `Retry-After`")
    ] = 300


class Domain(msgspec.Struct, frozen=True, kw_only=True):
    """A name of the tunnel's own, beside NAME.DOMAIN."""

    name: str
    is_agents: bool = False  # it asked for it when it registered


NONE = Options()


def merged(operator: Options, agent: Options) -> Options:
    """What counts: each option as the operator has it, else as the agent."""
    given = {
        name: value
        for name in operator.__struct_fields__
        if (value := getattr(operator, name)) is not None
    }
    return msgspec.structs.replace(agent, **given)


def check(options: Options, kind: str = "http") -> Options:
    """The same in the one way it is kept: networks and names as they are compared.

    Raises: UsageError.
    """
    for_http = [name for name in _HTTP_ONLY if getattr(options, name) is not None]
    if kind != "http" and for_http:
        raise UsageError(f"{for_http[0]} is an option of HTTP tunnels")
    if kind == "udp" and options.profile is not None:
        raise UsageError("profile is an option of HTTP and TCP tunnels")
    if options.basic_auth is not None:
        _check_basic_auth(options.basic_auth)
    found = msgspec.structs.replace(
        options,
        allow=_networks("allow", options.allow),
        deny=_networks("deny", options.deny),
        strip_prefix=options.strip_prefix and (options.strip_prefix.rstrip("/") or ""),
    )
    check_policy(found, kind)
    return found


_HTTP_ONLY = (
    *("basic_auth", "request_headers", "response_headers", "strip_prefix", "host_header"),
    "server_timing",
)


def check_user(name: str) -> None:
    """Raises UsageError."""
    if len(name) > 64 or not _USER.fullmatch(name):
        raise UsageError(
            f'basic_auth: "{name}" is not a user name: visible ASCII without ":", at most 64'
        )


def check_password(password: str) -> None:
    """Raises UsageError, without the password."""
    size = len(password.encode())
    if not 1 <= size <= PASSWORD_MAX or not password.isprintable():
        raise UsageError(f"basic_auth: a password is 1 to {PASSWORD_MAX} visible bytes")


def digest_of(salt: bytes, name: str, password: str) -> str:
    """As the engine checks it: for each request, so it is a fast hash, and a password wants to
    be long and random."""
    credentials = base64.b64encode(f"{name}:{password}".encode())
    return hashlib.sha256(salt + credentials).hexdigest()


def basic_auth(users: Mapping[str, str], realm: str = "") -> BasicAuth:
    """Of names and passwords. Raises UsageError."""
    salt = secrets.token_bytes(SALT_SIZE)
    for name, password in users.items():
        check_user(name)
        check_password(password)
    made = BasicAuth(
        salt=salt.hex(),
        users=tuple(
            User(name=name, digest=digest_of(salt, name, password))
            for name, password in users.items()
        ),
        realm=realm,
    )
    _check_basic_auth(made)
    return made


def _check_basic_auth(auth: BasicAuth) -> None:
    names = [user.name for user in auth.users]
    if len(names) > USERS_MAX:
        raise UsageError(f"basic_auth: at most {USERS_MAX} users")
    for name in names:
        check_user(name)
        if names.count(name) > 1:
            raise UsageError(f'basic_auth: the user "{name}" is there twice')
    if not _REALM.fullmatch(auth.realm):
        raise UsageError("basic_auth: a realm is visible ASCII without quotes, at most 64")
    if names and not _SALT.fullmatch(auth.salt):
        raise UsageError("basic_auth: a salt is 8 to 64 bytes, in hex")
    if not all(_DIGEST.fullmatch(user.digest) for user in auth.users):
        raise UsageError("basic_auth: a digest is a SHA-256, in hex")


def check_maintenance(maintenance: Maintenance) -> None:
    """Raises UsageError."""
    if len(maintenance.page.encode()) > PAGE_SIZE_MAX:
        raise UsageError(f"a maintenance page is at most {PAGE_SIZE_MAX} bytes")


def domain_name(text: str, own: str) -> str:
    """A custom domain as routes have it: lower case, no dot at the end. "*." stands for one label.

    Args:
        own: the server's domain. NAME.OWN is where the tunnel NAME is.
    Raises: UsageError.
    """
    name = text.strip().lower().removesuffix(".")
    labels = name.removeprefix("*.").split(".")
    if len(name) > 253 or not all(LABEL.fullmatch(label) for label in labels):
        raise UsageError(f'"{text}" is not a domain such as www.example.com or *.example.com')
    if name.startswith("*.") and len(labels) < 2:
        raise UsageError(f'"{text}": a wildcard is in front of two labels or more')
    if labels[-1].isdigit():
        raise UsageError(f'"{text}" is an address, and no domain')
    tunnel, _, rest = name.partition(".")
    if rest == own and tunnel != "*":
        raise UsageError(f'"{name}" is where the tunnel "{tunnel}" is already')
    return name


def domain_names(names: Iterable[str], own: str) -> tuple[str, ...]:
    """Many, each once. Raises UsageError."""
    found = tuple(dict.fromkeys(domain_name(name, own) for name in names))
    if len(found) > DOMAINS_MAX:
        raise UsageError(f"a tunnel has at most {DOMAINS_MAX} domains")
    return found


def _networks(what: str, networks: tuple[str, ...] | None) -> tuple[str, ...] | None:
    if networks is None:
        return None
    found = []
    for text in networks:
        try:
            network = ipaddress.ip_network(text.strip(), strict=False)
        except ValueError:
            message = f'{what}: "{text}" is not an address or a network such as 192.0.2.0/24'
            raise UsageError(message) from None
        found.append(str(network))
    return tuple(dict.fromkeys(found))


def check_policy(options: Options, kind: str) -> None:
    """Raises UsageError for what the engine would not take."""
    from proxy_engine_core.core import check_policy

    try:
        check_policy(policy_of(options, name="tunnel", kind=kind), is_tcp=kind != "http")
    except ValueError as error:
        raise UsageError(str(error)) from None


def policy_of(
    options: Options,
    *,
    name: str,
    kind: str = "http",
    is_enabled: bool = True,
    maintenance: Maintenance | None = None,
    default_profile: Profile = DEFAULT_PROFILE,
    default_timing: bool = False,
) -> RoutePolicy:
    """What the engine is told; {} if there is nothing to say.

    Of TCP and UDP tunnels nobody can be shown a page: during maintenance they are as if disabled.

    Args:
        name: of the tunnel, for a realm without a name.
        default_profile, default_timing: where the options name none.
    """
    policy: RoutePolicy = {}
    if not is_enabled or (kind != "http" and maintenance is not None):
        policy["disabled"] = True
    if options.allow:
        policy["allow"] = options.allow
    if options.deny:
        policy["deny"] = options.deny
    profile = options.profile or default_profile
    if profile != "balanced" and kind != "udp":  # the engine's own default
        policy["profile"] = profile
    if kind != "http":
        return policy
    if maintenance is not None:
        policy["maintenance"] = {"retry_after": maintenance.retry_after, "kind": maintenance.kind}
        if maintenance.page:
            policy["maintenance"]["body"] = maintenance.page.encode()
    auth = options.basic_auth
    if auth is not None and auth.users:
        policy["basic_auth"] = {
            "realm": auth.realm or name,
            "salt": bytes.fromhex(auth.salt),
            "digests": [bytes.fromhex(user.digest) for user in auth.users],
        }
    if options.strip_prefix:
        policy["strip_prefix"] = options.strip_prefix
    if options.host_header:
        policy["host"] = options.host_header
    if options.request_headers is not None:
        policy["request_headers"] = options.request_headers.rules()
    if options.response_headers is not None:
        policy["response_headers"] = options.response_headers.rules()
    if default_timing if options.server_timing is None else options.server_timing:
        policy["server_timing"] = True
    return policy
