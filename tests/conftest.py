"""Settings every test shares."""

from __future__ import annotations

import resource
import signal

import pytest
from hypothesis import HealthCheck, settings

# No deadline: a shared machine stalls now and then, and that is no defect of ours.
settings.register_profile("default", deadline=None)
# Under the sanitizers everything is some ten times slower.
settings.register_profile(
    "sanitized", deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("default")
# Some have thousands of connections with both ends in this process; 1024 is a usual soft limit.
FILES = 8192
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
most = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
if soft != resource.RLIM_INFINITY and soft < most:
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
# A shell that starts this in the background has Ctrl-C ignored, and programs would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave soak tests out unless the command line speaks of markers itself."""
    if config.getoption("-m"):
        return
    kept = [item for item in items if item.get_closest_marker("soak") is None]
    left = [item for item in items if item.get_closest_marker("soak") is not None]
    config.hook.pytest_deselected(items=left)
    items[:] = kept
