"""A file for somebody else: what is installed, set, counted and found, without what is secret.

Three nets, one behind the other: settings are shown as `config show` does, what may hold a secret
by its nature (header values, parts of URLs) is left out, and at last every text that goes in is
searched for each secret that these settings know, and for anything that looks like a token.
"""

from __future__ import annotations

import contextlib
import io
import os
import platform
import re
import sys
import tarfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import msgspec

from proxy_engine.doctor.machine import read
from proxy_engine.errors import ProxyEngineError, UsageError
from proxy_engine.settings import config, otlp
from proxy_engine.text import scrub

if TYPE_CHECKING:
    from proxy_engine.settings.config import Loaded, Settings

LOG_LINES = 5000  # the last ones
SECRET_LEAST = 4  # characters; shorter ones would take words apart
REDACTED = config.REDACTED
HEADERS = frozenset({"request_header", "response_header"})
_USERINFO = re.compile(r"//[^/@\s\"']*@")

# Of this process and machine, as text. Nothing here knows of users or other programs.
KERNEL = (
    "/proc/self/limits", "/proc/self/cgroup", "/proc/meminfo", "/proc/loadavg", "/proc/version",
    "/proc/net/sockstat", "/proc/net/sockstat6", "/proc/net/netstat", "/proc/net/snmp",
    "/proc/sys/net/core/somaxconn", "/proc/sys/net/core/rmem_max", "/proc/sys/net/core/wmem_max",
    "/proc/sys/net/ipv4/ip_local_port_range", "/proc/sys/net/ipv4/tcp_rmem",
    "/proc/sys/net/ipv4/tcp_wmem", "/proc/sys/net/ipv4/tcp_congestion_control",
    "/proc/sys/net/ipv4/tcp_max_syn_backlog", "/proc/sys/fs/file-max", "/proc/sys/fs/file-nr",
    "/proc/sys/fs/pipe-user-pages-soft", "/proc/sys/fs/pipe-max-size",
    "/proc/sys/net/netfilter/nf_conntrack_count", "/proc/sys/net/netfilter/nf_conntrack_max",
)  # fmt: skip
RUNNING_CONFIG = "running-config.json"
# Of a running server: name in the bundle, and path.
ASKED = (
    ("health.json", "/health"),
    ("stats.json", "/stats"),
    (RUNNING_CONFIG, "/config"),
    ("engine.json", "/debug/engine?streams=200"),
    ("slow.json", "/debug/slow"),
    ("stacks.json", "/debug/stacks"),
)


def secrets_of(settings: Settings) -> set[str]:
    """Every secret that these settings know, and parts of it that are secret by themselves."""
    found: set[str] = set()
    for name in config.SECRETS:
        if getattr(settings, f"{name}_file") == "-":
            continue  # it has been read, by somebody else
        try:
            found.add(config.secret(settings, name))
        except UsageError:
            continue
    with contextlib.suppress(UsageError, ValueError):
        if settings.otlp_headers_file != "-":
            found |= {*otlp.headers(config.secret(settings, "otlp_headers")).values()}
    found |= set(settings.basic_auth.splitlines())
    for file in filter(None, (settings.basic_auth_file,)):
        found |= set((read(file) or "").splitlines())
    for text in list(found):
        found |= _parts(text)
    for url in (settings.webhook_url, settings.proxy, *settings.server):
        found |= _url_secrets(url)
    for tunnel in settings.tunnels:
        for option in ("basic_auth", "request_headers", "response_headers"):
            found |= {
                part for text in _strings(getattr(tunnel, option, None)) for part in _parts(text)
            }
    for text in (*settings.request_header, *settings.response_header):
        found.add(text.partition(":")[2].strip())
    return {text for text in found if len(text) >= SECRET_LEAST}


def _parts(text: str) -> set[str]:
    """USER:PASSWORD, a URL with a password, a header with a value: as a whole and in parts."""
    _, separator, password = text.partition(":")
    found = {text.strip()}
    if "://" in text:
        found |= _url_secrets(text)
    elif separator:
        found |= {password.strip()}
    return found


def _url_secrets(url: str) -> set[str]:
    try:
        parts = urlsplit(url)
    except ValueError:
        return set()
    found = {parts.password or "", parts.query} | {
        pair.partition("=")[2] for pair in parts.query.split("&")
    }
    if parts.scheme in ("http", "https") and len(parts.path) > 8:
        found.add(parts.path.lstrip("/"))  # webhooks have their secret there
    return found | {unquote(each) for each in found}


def _strings(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _strings(each)
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _strings(each)


class Redactor:
    def __init__(self, secrets: Iterable[str]) -> None:
        # The longest first: one may be part of another.
        words = sorted({form for text in secrets for form in _forms(text)}, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, words))) if words else None

    def __call__(self, text: str) -> str:
        if self._known is not None:
            text = self._known.sub(REDACTED, text)
        return scrub(_USERINFO.sub(f"//{REDACTED}@", text))


def _forms(text: str) -> set[str]:
    """As it stands in a text, in JSON, and in a URL."""
    from urllib.parse import quote

    return {text, msgspec.json.encode(text).decode()[1:-1], quote(text, safe="")}


def shown_settings(loaded: Loaded) -> dict[str, Any]:
    found = {}
    for key in config.KEYS:
        value = without_secrets(key, config.plain(loaded.settings, key))
        found[key] = {"value": value, "source": loaded.source(key)}
    return found


def without_secrets(key: str, value: Any) -> Any:
    """A setting as `config show` has it, without what may be secret by its nature."""
    if key in HEADERS:
        return [f"{text.partition(':')[0]}: {REDACTED}" for text in value]
    if key == "webhook_url" and value:
        return f"{urlsplit(value).scheme}://{urlsplit(value).hostname}/{REDACTED}"
    if key == "hook_options":
        return {name: dict.fromkeys(options, REDACTED) for name, options in value.items()}
    return value


def _answer(name: str, found: Any) -> Any:
    """What a server says of its own settings is no better known here than elsewhere."""
    if name == RUNNING_CONFIG:
        for each in found["settings"]:
            each["value"] = without_secrets(each["name"], each["value"])
    return found


def versions() -> dict[str, Any]:
    import proxy_engine
    from proxy_engine_core.core import TLS_LIBRARY

    packages = {
        each.metadata["Name"]: each.version
        for each in metadata.distributions()
        if each.metadata["Name"]
    }
    return {
        "proxy_engine": proxy_engine.__version__,
        "tls": TLS_LIBRARY,
        "python": sys.version,
        "platform": platform.platform(),
        "libc": " ".join(platform.libc_ver()),
        "cores": sorted(os.sched_getaffinity(0)),
        "packages": dict(sorted(packages.items())),
        "made_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def contents(
    loaded: Loaded, findings: Any, ask: Callable[[str], Any] | None, logs: Iterable[str]
) -> dict[str, str]:
    """Names and texts of what goes in, as they are.

    Args:
        ask: a running server's API, by path; None: there is none to be asked.
        logs: files of log lines.
    """
    found = {
        "versions.json": _json(versions()),
        "config.json": _json(shown_settings(loaded)),
        "doctor.json": _json(findings),
    }
    for name, path in ASKED if ask is not None else ():
        assert ask is not None
        try:
            found[name] = _json(_answer(name, ask(path)))
        except ProxyEngineError as problem:
            found[name] = _json({"not_known": str(problem)})
    for path in KERNEL:
        text = read(path)
        if text is not None:
            found[f"kernel/{path.removeprefix('/proc/').replace('/', '.')}"] = text + "\n"
    for path in logs:
        try:
            with open(path, encoding="utf-8", errors="replace") as lines:
                found[f"logs/{Path(path).name}"] = "".join(deque(lines, LOG_LINES))
        except OSError as problem:
            raise UsageError(f"log {path}: {problem.strerror}") from None
    return found


def _json(value: Any) -> str:
    return msgspec.json.format(msgspec.json.encode(value)).decode() + "\n"


def write(file: Path, texts: Mapping[str, str], redact: Callable[[str], str]) -> None:
    """A tar.gz for its owner's eyes; all in one folder of its name. Raises OSError."""
    folder = file.name.removesuffix(".tar.gz")
    now = int(time.time())
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as raw, tarfile.open(fileobj=raw, mode="w:gz") as bundle:
        for name, text in texts.items():
            data = redact(text).encode("utf-8", "replace")
            entry = tarfile.TarInfo(f"{folder}/{redact(name)}")
            entry.size, entry.mtime, entry.mode = len(data), now, 0o600
            bundle.addfile(entry, io.BytesIO(data))
