"""One settings tree: flags > environment PROXY_ENGINE_* > TOML file > defaults. Those of the export
to a collector may come from the environment's OTEL_*, too (otlp.py).

Every setting has one name in three spellings: `data_dir` in the file, `--data-dir` as a
flag, PROXY_ENGINE_DATA_DIR in the environment. A file may hold the settings of several
verbs; each reads what it needs. A secret may be in a file of its own, named by the setting
with `_file` added (Docker and Kubernetes give secrets so). Unknown keys fail with a
suggestion, because a typing error that is silently ignored is worse than a program that does
not start.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from proxy_engine.errors import UsageError, error_text, suggestion
from proxy_engine.grants import PortRange
from proxy_engine.settings import otlp
from proxy_engine.settings import setting_values as parse
from proxy_engine.settings.allowed import Rule
from proxy_engine.settings.tunnel_config import TunnelConfig, shown, to_tunnels
from proxy_engine.values import (
    DEFAULT_PROFILE,
    POOL_MAX,
    PROFILES,
    TRACES,
    Address,
    HttpTarget,
    Listen,
    PortTunnel,
    Profile,
    Traces,
)

ENV_PREFIX = "PROXY_ENGINE_"
LINKS_MAX = 64  # of one run of an agent: a route of the engine can name twice as many


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Every setting of every verb, with its default."""

    # run
    listen: tuple[Listen, ...] = (Listen(Address("0.0.0.0", 8080)),)
    admin: Address = Address("127.0.0.1", 8081)
    admin_hosts: tuple[str, ...] = ()  # Host names the API answers to, besides IPs and localhost
    domain: str = "localhost"
    data_dir: Path = Path()  # default_data_dir(), set by load()
    grace: float = 30.0  # seconds that requests in flight get when the program ends
    default_tunnel: str = ""
    default_profile: Profile = DEFAULT_PROFILE  # of tunnels for which nobody has named one
    traces: Traces = "pass"  # what happens to traceparent
    trace_sample: float = 1.0  # share of the traces begun here that is recorded
    default_server_timing: bool = False  # of HTTP tunnels for which nobody has said
    trusted_proxy: tuple[str, ...] = ()  # networks whose X-Forwarded-* are believed
    keep_requests: int = 1_000_000  # of the request log; older ones are deleted; 0: no limit
    keep_requests_age: float = 0.0  # seconds; 0: no limit
    keep_requests_size: int = 0  # bytes; 0: no limit
    request_sample: float = 1.0  # share of the requests that went well that is logged
    request_redact: tuple[str, ...] = ()  # more keys of queries whose values are secret
    access_log: bool = False  # a line of the log for each request
    request_journal_max: int = 1 << 30  # bytes on disk while the store fails; 0: no journal
    mongodb_uri: str = ""  # the store instead of SQLite in data_dir
    mongodb_uri_file: str = ""
    mongodb_driver: Literal["motor", "pymongo"] = "motor"
    redis_url: str = ""  # a cache of tokens and devices that several servers share
    redis_url_file: str = ""
    redis_password: str = ""  # instead of one in the URL
    redis_password_file: str = ""
    metrics_public: bool = False  # /metrics of the admin listener asks for no token
    metrics_tunnels: int = 1000  # with series of their own; the others are counted together
    otlp_endpoint: str = ""  # of a collector; /v1/metrics and /v1/traces are added to it
    otlp_metrics_endpoint: str = ""  # instead, as it stands
    otlp_traces_endpoint: str = ""
    otlp_signals: tuple[str, ...] = otlp.SIGNALS
    otlp_headers: str = ""  # NAME=VALUE,... with each POST
    otlp_headers_file: str = ""
    otlp_interval: float = 60.0  # seconds between exports of metrics
    otlp_sampler: str = "parentbased_traceidratio"
    otlp_sample: float = 1.0  # share of the traces, for samplers that ask for one
    otlp_service_name: str = "proxy-engine"
    otlp_attributes: dict[str, str] = {}  # of the resource
    otlp_timeout: float = 10.0  # seconds for one POST
    otlp_compression: Literal["none", "gzip"] = "none"
    otlp_queue: int = 16 << 20  # bytes of log records that wait to become spans
    otlp_ca: str = ""  # authorities of the collector's certificate; "": the system's
    otlp_cert: str = ""  # what it is shown
    otlp_key: str = ""  # "": in the file of the certificate
    webhook_url: str = ""  # is told of devices that come and go
    webhook_secret: str = ""  # signs what it is told
    webhook_secret_file: str = ""
    hooks: tuple[str, ...] = ()  # names of built-in ones and entry points, or module:Class
    hook_options: dict[str, dict[str, Any]] = {}  # by these names
    hook_timeout: float = 5.0  # seconds for one call of a hook that says nothing else
    hook_interval: float = 5.0  # seconds between two on_data
    login_failures: int = 20  # an address may have in a minute; 0: any number
    links_per_agent: int = 0  # links one run of an agent may have; 0: one for each worker
    tcp_ports: tuple[PortRange, ...] = (
        PortRange(10000, 20000),
    )  # that TCP and UDP tunnels may have
    pool: int = POOL_MAX  # connect too: idle direct connections of a link at most; 0: none
    link_busy_share: int = 60  # percent of a core that makes a worker busy; 0: all links at once
    # run, TLS: certificates and keys in the same order
    tls_cert: tuple[str, ...] = ()
    tls_key: tuple[str, ...] = ()  # (): in the files of the certificates
    tls_min_version: Literal["1.2", "1.3"] = "1.3"
    tls_ticket_age: float = 43_200.0  # seconds until another key seals session tickets
    tls_client_ca: str = ""  # authorities of devices' certificates
    tls_client_crl: str = ""  # what those have revoked
    tls_client_required: Literal["no", "devices", "all"] = "no"  # who has to show one
    https_redirect: bool = False  # what comes in plain is sent to https
    admin_tls_cert: str = ""
    admin_tls_key: str = ""
    # connect
    server: tuple[str, ...] = ()  # several: the first that answers
    proxy: str = ""  # on the way there: a URL, "none", or "": by HTTP_PROXY, NO_PROXY, ...
    token: str = ""
    token_file: str = ""
    device: str = ""  # the name of this device, for a token that is for several
    http: dict[str, HttpTarget] = {}
    tcp: dict[str, PortTunnel] = {}  # by what was written in front of the target
    udp: dict[str, PortTunnel] = {}
    tunnels: tuple[TunnelConfig, ...] = ()  # with all their options
    # Options of these tunnels, each "[NAME=]VALUE"; without a name: of all HTTP tunnels.
    domains: tuple[str, ...] = ()
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    basic_auth: str = ""  # lines of USER:PASSWORD
    basic_auth_file: str = ""
    strip_prefix: tuple[str, ...] = ()
    host_header: tuple[str, ...] = ()
    profile: tuple[str, ...] = ()  # without a name: of all HTTP and TCP tunnels
    server_timing: tuple[str, ...] = ()
    request_header: tuple[str, ...] = ()
    response_header: tuple[str, ...] = ()
    proxy_protocol: tuple[str, ...] = ()  # TCP tunnels whose targets are told the visitor
    transport: str = "auto"
    allow_target: tuple[Rule, ...] = ()  # what targets may be; (): anything
    allow_remote_config: bool = False  # the server may change targets, among those
    links: int = 0  # links to the server at most; 0: as many as it offers
    agent_admin: Address | None = None  # probes, metrics and /debug/ of the agent; None: nowhere
    agent_admin_token: str = ""  # that it asks for
    agent_admin_token_file: str = ""
    ca: str = ""  # authorities of the server's certificate; "": the system's
    crl: str = ""  # what those have revoked
    pin: tuple[str, ...] = ()  # public keys, of which its certificate has to have one
    server_name: str = ""  # that its certificate has to be for; "": the URL's
    cert: str = ""  # this device's certificate
    key: str = ""  # "": in the file of the certificate
    target_ca: dict[str, str] = {}  # files, by tunnel: authorities of targets' certificates
    target_server_name: dict[str, str] = {}  # by tunnel: what they have to be for
    target_insecure: tuple[str, ...] = ()  # tunnels whose targets may have any certificate
    # the verbs that ask a server
    admin_url: str = ""  # of its admin listener; "": the data dir on this machine
    admin_token: str = ""
    admin_token_file: str = ""
    # several
    workers: int = 0  # threads of the data plane; 0: run: one for each core, connect: 1
    log_format: Literal["text", "json"] = "text"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    debug: bool = False  # run: /debug/ on the admin listener
    watchdog: float = 10.0  # run: seconds a worker may take for a turn; 0: any
    engine: dict[str, int] = {}  # options of the native engine: see DEFAULTS in core.pyi


def default_data_dir(environ: Mapping[str, str]) -> Path:
    base = environ.get("XDG_DATA_HOME", "")
    # The XDG specification: a relative path is invalid and to be ignored.
    root = Path(base) if base.startswith("/") else Path("~/.local/share").expanduser()
    return root / "proxy-engine"


_PARSERS: dict[str, Callable[[Any], Any]] = {
    "listen": parse.to_listen,
    "admin": parse.to_address,
    "admin_hosts": parse.to_names,
    "domain": parse.to_domain,
    "data_dir": lambda value: Path(parse.to_text(value)).expanduser(),
    "grace": parse.to_duration,
    "default_tunnel": parse.to_label,
    "default_profile": parse.to_choice(*PROFILES),
    "default_server_timing": parse.to_boolean,
    "traces": parse.to_choice(*TRACES),
    "trace_sample": parse.to_share,
    "trusted_proxy": parse.to_networks,
    "keep_requests": parse.to_integer(0, 2**53),
    "keep_requests_age": parse.to_duration,
    "keep_requests_size": parse.to_size,
    "request_sample": parse.to_share,
    "request_redact": parse.to_names,
    "access_log": parse.to_boolean,
    "request_journal_max": parse.to_size,
    "mongodb_uri": parse.to_mongodb_uri,
    "mongodb_uri_file": parse.to_text,
    "mongodb_driver": parse.to_choice("motor", "pymongo"),
    "redis_url": parse.to_redis_url,
    "redis_url_file": parse.to_text,
    "redis_password": parse.to_text,
    "redis_password_file": parse.to_text,
    "metrics_public": parse.to_boolean,
    "metrics_tunnels": parse.to_integer(0, 1_000_000),
    **otlp.PARSERS,
    "webhook_url": parse.to_web_url,
    "webhook_secret": parse.to_text,
    "webhook_secret_file": parse.to_text,
    "hooks": parse.to_words,
    "hook_options": parse.to_tables,
    "hook_timeout": parse.to_duration_within(0.1, 60),
    "hook_interval": parse.to_duration_within(1, 10),
    "login_failures": parse.to_integer(0, 1_000_000),
    "links_per_agent": parse.to_integer(0, LINKS_MAX),
    "tcp_ports": parse.to_ports,
    "pool": parse.to_integer(0, POOL_MAX),
    "link_busy_share": parse.to_integer(0, 100),
    "tls_cert": parse.to_words,
    "tls_key": parse.to_words,
    "tls_min_version": parse.to_choice("1.2", "1.3"),
    "tls_ticket_age": parse.to_duration_within(1, 30 * 86_400),
    "tls_client_ca": parse.to_text,
    "tls_client_crl": parse.to_text,
    "tls_client_required": parse.to_choice("no", "devices", "all"),
    "https_redirect": parse.to_boolean,
    "admin_tls_cert": parse.to_text,
    "admin_tls_key": parse.to_text,
    "server": parse.to_words,
    "proxy": parse.to_text,
    "allow_target": parse.to_allowed,
    "allow_remote_config": parse.to_boolean,
    "token": parse.to_text,
    "token_file": parse.to_text,
    "device": parse.to_text,
    "http": parse.to_targets,
    "tcp": parse.to_tcp,
    "udp": parse.to_udp,
    "tunnels": to_tunnels,
    "domains": parse.to_words,
    "allow": parse.to_words,
    "deny": parse.to_words,
    "basic_auth": lambda value: "\n".join(parse.to_texts(value)),
    "basic_auth_file": parse.to_text,
    "strip_prefix": parse.to_texts,
    "host_header": parse.to_texts,
    "profile": parse.to_texts,
    "server_timing": parse.to_texts,
    "request_header": parse.to_texts,
    "response_header": parse.to_texts,
    "proxy_protocol": parse.to_names,
    "transport": parse.to_choice("auto", "ws", "tcp"),
    "links": parse.to_integer(0, LINKS_MAX),
    "agent_admin": parse.to_address,
    "agent_admin_token": parse.to_text,
    "agent_admin_token_file": parse.to_text,
    "ca": parse.to_text,
    "crl": parse.to_text,
    "pin": parse.to_pins,
    "server_name": parse.to_server_name,
    "cert": parse.to_text,
    "key": parse.to_text,
    "target_ca": parse.to_files,
    "target_server_name": parse.to_server_names,
    "target_insecure": parse.to_names,
    "admin_url": parse.to_url,
    "admin_token": parse.to_text,
    "admin_token_file": parse.to_text,
    "workers": parse.to_integer(0, 64),
    "log_format": parse.to_choice("text", "json"),
    "log_level": parse.to_choice("debug", "info", "warning", "error"),
    "debug": parse.to_boolean,
    "watchdog": parse.to_duration,
    "engine": parse.to_engine_options,
}
KEYS = tuple(_PARSERS)
# Of verbs other than run.
CLIENT_KEYS = frozenset(
    {
        *("server", "proxy", "device", "token", "token_file", "http", "transport", "links"),
        *("tcp", "udp", "proxy_protocol"),
        *("allow_target", "allow_remote_config", "tunnels", "domains", "allow", "deny"),
        *("basic_auth", "basic_auth_file", "strip_prefix", "host_header", "profile"),
        *("request_header", "response_header", "server_timing"),
        *("ca", "crl", "pin", "server_name", "cert", "key"),
        *("target_ca", "target_server_name", "target_insecure"),
        *("admin_url", "admin_token", "admin_token_file"),
        *("agent_admin", "agent_admin_token", "agent_admin_token_file"),
    }
)
# Never shown; each may be in a file of its own.
SECRETS = tuple(key.removesuffix("_file") for key in KEYS if key.endswith("_file"))
assert set(KEYS) == set(Settings.__struct_fields__)


class Loaded(NamedTuple):
    settings: Settings
    # Where each setting that is not a default came from: "--listen", "PROXY_ENGINE_LISTEN" or
    # "FILE: listen".
    sources: dict[str, str]

    def source(self, key: str) -> str:
        return self.sources.get(key, "default")


REDACTED = "[redacted]"
_SECRET_OPTION = re.compile("secret|token$|password|key$|url$|uri$|dsn$", re.IGNORECASE)


def plain(settings: Settings, key: str) -> Any:
    """A setting as it would stand in the file; secrets are not shown."""
    value = getattr(settings, key)
    if key in SECRETS:
        return REDACTED if value else ""
    if key == "hook_options":
        return {
            name: {
                option: REDACTED if _SECRET_OPTION.search(option) else item
                for option, item in options.items()
            }
            for name, options in value.items()
        }
    if key == "proxy":
        return re.sub(r"//[^/]*@", f"//{REDACTED}@", value)
    if value is None:
        return ""
    if isinstance(value, (Address, Path)):
        return str(value)
    if key == "tunnels":
        return [shown(tunnel, REDACTED) for tunnel in value]
    if isinstance(value, tuple):
        return [str(x) for x in value]
    if isinstance(value, dict):
        return {
            name: str(x) if isinstance(x, (HttpTarget, PortTunnel)) else x
            for name, x in value.items()
        }
    return value


def from_values(values: Mapping[str, Any], base: Settings | None = None) -> Settings:
    """The settings of a program that embeds us: values as in the file, or parsed already.

    Args:
        base: what is not among the values; None: the defaults, and no data_dir.
    Raises: UsageError.
    """
    found: dict[str, Any] = {}
    for key, value in values.items():
        if key not in _PARSERS:
            raise UsageError(f'unknown setting "{key}"{suggestion(key, KEYS)}')
        try:
            found[key] = _PARSERS[key](_as_in_file(value))
        except ValueError as error:
            raise UsageError(f"{key}: {error}") from None
    return msgspec.structs.replace(base or Settings(), **found)


def _as_in_file(value: Any) -> Any:
    if isinstance(value, (list, tuple, set, frozenset)) and not hasattr(value, "_fields"):
        return [_as_in_file(item) for item in value]
    if isinstance(value, Mapping):
        return {name: _as_in_file(item) for name, item in value.items()}
    if isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, msgspec.Struct):
        return msgspec.to_builtins(value)
    return str(value)  # a Path, an Address, a network: each is written as it is parsed


def load(
    flags: Mapping[str, Any], environ: Mapping[str, str], *, file: str | None = None
) -> Settings:
    """The settings of one invocation.

    Args:
        flags: only what was given on the command line, by setting name.
        environ: usually os.environ.
        file: --config; else PROXY_ENGINE_CONFIG; else none.
    Raises: UsageError naming the place and, for unknown keys, the nearest known one.
    """
    return load_with_sources(flags, environ, file=file).settings


def load_with_sources(
    flags: Mapping[str, Any],
    environ: Mapping[str, str],
    *,
    file: str | None = None,
    standard: bool = False,
) -> Loaded:
    """The same, and where each came from.

    Args:
        standard: the variables of OpenTelemetry count: for the server.
    """
    file = file or environ.get(ENV_PREFIX + "CONFIG") or None
    layers: list[tuple[Callable[[str], str], Mapping[str, Any]]] = [
        (lambda key: "--" + key.replace("_", "-"), flags),
        (lambda key: ENV_PREFIX + key.upper(), _environment(environ)),
    ]
    if file is not None:
        layers.append((lambda key: f"{file}: {key}", _read_file(file)))
    if standard:
        names = {key: (name, value) for name, key, value in otlp.environment(environ)}
        values_of = {key: value for key, (_, value) in names.items()}
        layers.append((lambda key: names[key][0], values_of))
    values: dict[str, Any] = {"data_dir": default_data_dir(environ)}
    sources: dict[str, str] = {}
    ranks: dict[str, int] = {}
    for rank, (place, layer) in enumerate(layers):
        for key, raw in layer.items():
            if key in sources:
                continue
            try:
                values[key] = _PARSERS[key](raw)
            except ValueError as error:
                raise UsageError(f"{place(key)}: {error}") from None
            sources[key], ranks[key] = place(key), rank
    for name in SECRETS:
        for dropped in _one_of(name, f"{name}_file", values, ranks):
            del values[dropped], sources[dropped]
    return Loaded(Settings(**values), sources)


def _one_of(
    name: str, name_file: str, values: Mapping[str, Any], ranks: Mapping[str, int]
) -> list[str]:
    """A secret or its file: the nearer layer wins; both in one layer is a mistake."""
    if not (values.get(name) and values.get(name_file)):
        return []
    if ranks[name] == ranks[name_file]:
        raise UsageError(f"both {name} and {name_file} are given; use one")
    return [name if ranks[name] > ranks[name_file] else name_file]


def secret(settings: Settings, name: str) -> str:
    """The value of one of SECRETS, from its file if it has one ("-": standard input).

    Read when it is needed and not by load(), because a file may be there for one verb only.
    Raises: UsageError.
    """
    value: str = getattr(settings, name)
    file: str = getattr(settings, f"{name}_file")
    if file == "-":
        value = sys.stdin.readline()
    elif file:
        try:
            with open(file, encoding="utf-8") as stream:
                value = stream.readline()
        except (OSError, UnicodeDecodeError) as error:
            what = name.replace("_", " ")
            raise UsageError(f"{what} file {file}: {error_text(error)}") from None
    return value.strip()


def _environment(environ: Mapping[str, str]) -> dict[str, str]:
    layer = {}
    for name, value in environ.items():
        if not name.startswith(ENV_PREFIX):
            continue
        key = name.removeprefix(ENV_PREFIX).lower()
        if key in _PARSERS:
            layer[key] = value
            continue
        # Others set variables with our prefix too (Kubernetes does for a service of
        # this name), so only what is nearly one of ours counts as a typing error.
        if key != "config" and suggestion(key, [*KEYS, "config"], cutoff=0.8):
            known = [ENV_PREFIX + other.upper() for other in (*KEYS, "config")]
            raise UsageError(f"unknown setting {name}{suggestion(name, known)}")
    return layer


def _read_file(file: str) -> dict[str, Any]:
    try:
        with open(file, "rb") as stream:
            data = tomllib.load(stream)
    except OSError as error:
        raise UsageError(f"config file {file}: {error_text(error)}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"config file {file}: not TOML: {error}") from None
    for key in data:
        if key not in _PARSERS:
            raise UsageError(f'{file}: unknown key "{key}"{suggestion(key, KEYS)}')
    return data
