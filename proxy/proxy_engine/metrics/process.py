"""The process, as the conventions of Prometheus have it, read from /proc."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

from proxy_engine.metrics.text import Numbers, family

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_PROC = Path("/proc")


def _boot_time() -> float:
    for line in (_PROC / "stat").read_text().splitlines():
        if line.startswith("btime "):
            return float(line.split()[1])
    return 0.0


def families() -> list[Numbers]:
    """[] where there is no /proc."""
    if not sys.platform.startswith("linux"):
        return []
    try:
        # Behind the name, which may have blanks and brackets in it.
        fields = (_PROC / "self" / "stat").read_text().rpartition(")")[2].split()
        open_fds = len(os.listdir(_PROC / "self" / "fd"))
        boot = _boot_time()
    except OSError:
        return []
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    values = {
        "process_cpu_seconds_total": (int(fields[11]) + int(fields[12])) / _TICKS,
        "process_resident_memory_bytes": int(fields[21]) * _PAGE,
        "process_virtual_memory_bytes": int(fields[20]),
        "process_open_fds": open_fds,
        "process_max_fds": most,
        "process_start_time_seconds": boot + int(fields[19]) / _TICKS,
    }
    return [family(name, [((), value)]) for name, value in values.items()]
