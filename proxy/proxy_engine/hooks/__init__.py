"""Hooks: code of yours that the server asks and tells. docs/hooks.md is the guide."""

from proxy_engine.hooks.errors import HookError, HookTimeout, Refuse
from proxy_engine.hooks.events import (
    DeviceConnect,
    DeviceDisconnect,
    DevicePresence,
    Failure,
    Request,
    ServerEvent,
    TunnelClose,
    TunnelData,
    TunnelOpen,
    TunnelPresence,
)
from proxy_engine.hooks.hook import Hook, inline

__all__ = [
    "DeviceConnect",
    "DeviceDisconnect",
    "DevicePresence",
    "Failure",
    "Hook",
    "HookError",
    "HookTimeout",
    "Refuse",
    "Request",
    "ServerEvent",
    "TunnelClose",
    "TunnelData",
    "TunnelOpen",
    "TunnelPresence",
    "inline",
]
