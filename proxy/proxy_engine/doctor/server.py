"""Checks for the machine of a server."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from proxy_engine import listeners, reload
from proxy_engine.agent.reach import is_loopback
from proxy_engine.doctor import listening, machine, names
from proxy_engine.doctor.certificates import certificates
from proxy_engine.doctor.finding import Finding, Findings, error, ok, skipped, warning
from proxy_engine.errors import ProxyEngineError, StorageError, UsageError, error_text
from proxy_engine.otlp.service import urls as otlp_urls
from proxy_engine.runner import usable_cores
from proxy_engine.settings.config import secret
from proxy_engine.storage.opening import open_store
from proxy_engine.storage.sqlite import database_path
from proxy_engine.storage.sqlite.look import tokens_in
from proxy_engine_core.core import DEFAULTS

if TYPE_CHECKING:
    from proxy_engine.settings.config import Settings

TIMEOUT = 3.0  # seconds for anything on the network


def check(settings: Settings) -> Findings:
    """Everything; nothing is changed, and nothing is left behind."""
    yield from machine.program()
    yield from configuration(settings)
    is_running = listening.runs(settings.admin, bool(settings.admin_tls_cert))
    yield from ports(settings, is_running)
    yield from machine.limits(settings.engine.get("backlog", DEFAULTS["backlog"]))
    yield machine.clock()
    yield from names.lead_here(settings.domain)
    yield store(settings)
    yield machine.disk(settings.data_dir)
    yield from redis(settings)
    yield from collector(settings)
    yield from certificates(settings, time.time())


def configuration(settings: Settings) -> Findings:
    try:
        reload.check(settings)
        yield ok("config", "the settings fit together")
    except UsageError as problem:
        yield error("config", str(problem), "proxy-engine config show --sources says where from")
        return
    cores = usable_cores()
    if settings.workers > cores:
        yield warning(
            "config.workers",
            f"{settings.workers} workers on {cores} cores",
            "more threads than cores only wait for each other: leave `workers` out",
        )
    if not is_loopback(settings.admin.host) and not settings.admin_tls_cert:
        yield warning(
            "config.admin",
            f"the admin listener is at {settings.admin} and speaks plain HTTP",
            "admin tokens pass it: bind it to 127.0.0.1, or give admin_tls_cert",
        )
    if settings.debug:
        yield warning("config.debug", "/debug/ is on", "turn it off when it is not needed any more")


def ports(settings: Settings, is_running: bool) -> Findings:
    with contextlib.suppress(UsageError):
        for each in listeners.chosen(settings):
            yield listening.port("ports.listen", each.address, is_running)
    yield listening.port("ports.admin", settings.admin, is_running)
    yield ephemeral(settings, machine.read("/proc/sys/net/ipv4/ip_local_port_range"))


def ephemeral(settings: Settings, text: str | None) -> Finding:
    """Ports of tunnels among those that the kernel gives to connections going out."""
    words = (text or "").split()
    if len(words) != 2:
        return skipped("ports.tunnels", "the kernel does not say which ports go out")
    first, last = map(int, words)
    taken = [
        f"{each.first}-{each.last}"
        for each in settings.tcp_ports
        if each.first <= last and each.last >= first
    ]
    if not taken:
        return ok("ports.tunnels", "no connection that goes out takes a port of tunnels")
    return warning(
        "ports.tunnels",
        f"tcp_ports {', '.join(taken)}: connections that go out get ports of {first}-{last} too",
        f"sysctl -w net.ipv4.ip_local_reserved_ports={','.join(taken)}",
    )


def store(settings: Settings) -> Finding:
    try:
        uri = secret(settings, "mongodb_uri")
    except UsageError as problem:
        return error("store", str(problem), "is the file there, and readable for this user?")
    if uri:
        return asyncio.run(_mongo(settings))
    path = database_path(settings.data_dir)
    if not path.exists():
        return _new_store(settings)
    try:
        tokens = tokens_in(path)
    except StorageError as problem:
        return error("store", str(problem), "another user's, or damaged?")
    if not os.access(path, os.W_OK) or not os.access(path.parent, os.W_OK):
        return error("store", f"{path} can not be written", f"chown it to user {os.geteuid()}")
    return ok("store", f"{path} can be read, {tokens} tokens")


def _new_store(settings: Settings) -> Finding:
    folder = settings.data_dir
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if os.access(folder, os.W_OK | os.X_OK):
        return ok("store", f"{settings.data_dir} is made by the first start")
    return error("store", f"{folder} can not be written", "another data_dir, or another user")


async def _mongo(settings: Settings) -> Finding:
    try:
        async with asyncio.timeout(TIMEOUT * 3):
            opened = await open_store(settings, create=False)
            await opened.close()
    except TimeoutError:
        return error("store", "MongoDB does not answer", "its address, a firewall?")
    except ProxyEngineError as problem:
        return error("store", str(problem), "docs/mongodb.md says what it needs")
    return ok("store", "MongoDB answers")


def redis(settings: Settings) -> Findings:
    try:
        url = secret(settings, "redis_url")
    except UsageError as problem:
        yield error("redis", str(problem), "is the file there, and readable for this user?")
        return
    if not url:
        return
    parts = urlsplit(url)
    where = f"{parts.hostname}:{parts.port or 6379}"
    try:
        socket.create_connection((parts.hostname or "", parts.port or 6379), TIMEOUT).close()
        yield ok("redis", f"{where} can be reached")
    except OSError as problem:
        yield warning(
            "redis",
            f"{where}: {error_text(problem)}",
            "the server works without it, and asks the store instead: docs/redis.md",
        )


def collector(settings: Settings) -> Findings:
    """Of OpenTelemetry."""
    parts = [urlsplit(url) for url in otlp_urls(settings).values()]
    ports = {"http": 80, "https": 443}
    for host, port in sorted({(x.hostname or "", x.port or ports[x.scheme]) for x in parts}):
        where = f"{host}:{port}"
        try:
            socket.create_connection((host, port), TIMEOUT).close()
            yield ok("otlp", f"{where} can be reached")
        except OSError as problem:
            yield warning(
                "otlp",
                f"{where}: {error_text(problem)}",
                "the server works without it, metrics and spans are lost: docs/otlp.md",
            )
