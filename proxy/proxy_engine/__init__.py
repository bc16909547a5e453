"""proxy-engine: a self-hosted tunnel proxy. The control plane; bytes move in proxy_engine_core."""

from typing import Any


def __getattr__(name: str) -> Any:
    # Lazy: importlib.metadata costs more than the rest of the command line's start.
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("proxy-engine")
    except PackageNotFoundError:  # run from a source tree
        return "0.1.0"
