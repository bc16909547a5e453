"""What the machine gives a program: files, queues, pipes, connections it follows, a clock."""

from __future__ import annotations

import ctypes
import os
import resource
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from proxy_engine.doctor.finding import Finding, Findings, error, ok, skipped, warning

FILES_ENOUGH = 65_536
FILES_LEAST = 4_096
PIPE_PAGES = 16  # of a pipe of the usual 64 KiB
PIPES_WANTED = 256  # two for a connection that is spliced
DISK_ENOUGH = 1 << 30  # bytes
TIME_ERROR = 5  # of adjtimex(2)
TIMEX_SIZE = 512  # bytes; more than struct timex has

Read = Callable[[str], str | None]


def read(path: str) -> str | None:
    """A file of /proc; None: there is none, or it is not for us."""
    try:
        return Path(path).read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return None


def number(text: str | None) -> int | None:
    return int(text) if text is not None and text.lstrip("-").isdigit() else None


def limits(backlog: int, *, read: Read = read) -> Findings:
    """
    Args:
        backlog: what the engine asks listen(2) for; 0: it does not listen.
    """
    yield files(resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    if backlog:
        yield queue(backlog, number(read("/proc/sys/net/core/somaxconn")))
    yield pipes(number(read("/proc/sys/fs/pipe-user-pages-soft")), os.geteuid() == 0)
    yield conntrack(
        number(read("/proc/sys/net/netfilter/nf_conntrack_count")),
        number(read("/proc/sys/net/netfilter/nf_conntrack_max")),
    )


def files(hard: int) -> Finding:
    if hard == resource.RLIM_INFINITY or hard >= FILES_ENOUGH:
        return ok("limits.files", f"{'any number of' if hard < 0 else hard} open files")
    text = f"{hard} open files at most: each visitor, link and target is one"
    advice = "raise it: LimitNOFILE=1048576 in the systemd unit, or ulimit -Hn 1048576"
    return (error if hard < FILES_LEAST else warning)("limits.files", text, advice)


def queue(backlog: int, most: int | None) -> Finding:
    if most is None:
        return skipped("limits.backlog", "net.core.somaxconn can not be read here")
    if most >= backlog:
        return ok("limits.backlog", f"{backlog} connections may wait to be accepted")
    return warning(
        "limits.backlog",
        f"net.core.somaxconn is {most}, so {most} connections may wait and not {backlog}",
        f"sysctl -w net.core.somaxconn={backlog}; what comes in a rush beyond that is dropped",
    )


def pipes(pages: int | None, is_root: bool) -> Finding:
    if pages is None:
        return skipped("limits.pipes", "fs.pipe-user-pages-soft can not be read here")
    if pages == 0 or is_root or pages // PIPE_PAGES >= PIPES_WANTED:
        return ok("limits.pipes", "pipes for spliced connections are large enough")
    return warning(
        "limits.pipes",
        f"fs.pipe-user-pages-soft is {pages}: full pipes for {pages // PIPE_PAGES // 2} direct "
        "connections; more are copied, which costs CPU time",
        "sysctl -w fs.pipe-user-pages-soft=65536",
    )


def conntrack(used: int | None, most: int | None) -> Finding:
    if used is None or most is None or most == 0:
        return skipped("limits.conntrack", "the kernel follows no connections here")
    text = f"the kernel follows {used} connections of {most} at most"
    if used * 10 < most * 8:
        return ok("limits.conntrack", text)
    return (error if used >= most * 0.95 else warning)(
        "limits.conntrack",
        f"{text}: what comes beyond that is dropped",
        f"sysctl -w net.netfilter.nf_conntrack_max={most * 4}, or NOTRACK for these ports",
    )


def clock(state: int | None = None) -> Finding:
    """
    Args:
        state: what adjtimex(2) says; None: ask it.
    """
    if state is None:
        buffer = ctypes.create_string_buffer(TIMEX_SIZE)
        try:
            state = ctypes.CDLL(None, use_errno=True).adjtimex(buffer)
        except (OSError, AttributeError):
            state = -1
    if state < 0:
        return skipped("clock", "the kernel does not say whether its clock is kept")
    if state != TIME_ERROR:
        return ok("clock", "the kernel's clock is kept by the network's time")
    return warning(
        "clock",
        "nobody keeps the kernel's clock: certificates and tokens are good by the time of day",
        "run chrony or systemd-timesyncd (in a container it is the host's to do)",
    )


def disk(folder: Path) -> Finding:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        free = shutil.disk_usage(folder).free
    except OSError as problem:
        return warning("disk", f"{folder}: {problem.strerror}", "is it mounted?")
    text = f"{free >> 20} MiB free at {folder}"
    if free >= DISK_ENOUGH:
        return ok("disk", text)
    return warning("disk", text, "the request log grows: keep_requests_size limits it")


def program() -> Findings:
    """What is running."""
    import proxy_engine
    from proxy_engine_core.core import TLS_LIBRARY

    python = ".".join(map(str, sys.version_info[:3]))
    yield ok("version", f"proxy-engine {proxy_engine.__version__}, Python {python}")
    if TLS_LIBRARY:
        yield ok("version.tls", TLS_LIBRARY)
    else:
        yield warning(
            "version.tls",
            "this build has no TLS",
            "build it with OpenSSL's headers, or take a wheel: pip install proxy-engine",
        )
