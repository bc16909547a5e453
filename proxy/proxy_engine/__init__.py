"""proxy-engine: a self-hosted tunnel proxy. The control plane; bytes move in proxy_engine_core.

    async with Server() as server, Client(server.url, token=await server.create_token()) as client:
        tunnel = await client.http("web", "127.0.0.1:3000")

docs/library.md tells more.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from proxy_engine.errors import (
        AuthError,
        ClosedError,
        ConnectError,
        ListenError,
        NameTakenError,
        ProxyEngineError,
        RefusedError,
        ReplacedError,
        StorageError,
        TunnelError,
        UsageError,
    )
    from proxy_engine.library.client import Client
    from proxy_engine.library.options import ClientEvent
    from proxy_engine.library.server import Server, TunnelInfo
    from proxy_engine.library.tunnel import Tunnel
    from proxy_engine.settings.config import Settings

    __version__: str

# Where each name is. Lazy: the command line needs few of them, and one costs a quarter of a second.
_PLACES = {
    "Client": "library.client",
    "ClientEvent": "library.options",
    "Server": "library.server",
    "TunnelInfo": "library.server",
    "Tunnel": "library.tunnel",
    "Settings": "settings.config",
    **dict.fromkeys(
        (
            "AuthError",
            "ClosedError",
            "ConnectError",
            "ListenError",
            "NameTakenError",
            "ProxyEngineError",
            "RefusedError",
            "ReplacedError",
            "StorageError",
            "TunnelError",
            "UsageError",
        ),
        "errors",
    ),
}

__all__ = [
    "AuthError",
    "Client",
    "ClientEvent",
    "ClosedError",
    "ConnectError",
    "ListenError",
    "NameTakenError",
    "ProxyEngineError",
    "RefusedError",
    "ReplacedError",
    "Server",
    "Settings",
    "StorageError",
    "Tunnel",
    "TunnelError",
    "TunnelInfo",
    "UsageError",
]


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        from importlib import import_module

        return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
    # importlib.metadata costs more than the rest of the command line's start.
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import PackageNotFoundError, version

    try:
        found = version("proxy-engine")
    except PackageNotFoundError:  # run from a source tree
        found = "0.1.0"
    globals()["__version__"] = found  # each look reads the disk
    return found


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
