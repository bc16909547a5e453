"""/api/v1/config: the settings the server runs with, and reading them again."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from proxy_engine.api.routes import Call, Routes
from proxy_engine.reload import LIVE
from proxy_engine.settings import config

routes = Routes("config", "The settings the server runs with.")


class Setting(msgspec.Struct, kw_only=True):
    """One setting, as it would stand in the configuration file. Secrets are not shown."""

    name: str
    value: Any
    source: Annotated[
        str, msgspec.Meta(description="`default`, a flag, a variable, or a file and its key")
    ]
    is_live: Annotated[bool, msgspec.Meta(description="can change without a restart")]


class Settings(msgspec.Struct, kw_only=True):
    """All settings of the server."""

    settings: list[Setting]


class Reload(msgspec.Struct, kw_only=True):
    """What reading the settings again has done."""

    changed: Annotated[list[str], msgspec.Meta(description="in use from now on")]
    needs_restart: Annotated[
        list[str], msgspec.Meta(description="differ from what the server runs with")
    ]


@routes.get("/api/v1/config", etag=True)
async def read_config(call: Call) -> Settings:
    """The settings, and where each came from."""
    service = call.service
    return Settings(
        settings=[
            Setting(
                name=key,
                value=config.plain(service.settings, key),
                source=service.sources.get(key, "default"),
                is_live=key in LIVE,
            )
            for key in config.KEYS
            if key not in config.CLIENT_KEYS
        ]
    )


@routes.post("/api/v1/config/reload", problems={422: "a setting is wrong; nothing has changed"})
async def reload_config(call: Call) -> Reload:
    """Read the settings again.

    The same as SIGHUP: everything is checked first, and if anything is wrong nothing changes.
    """
    done = call.service.reload()
    return Reload(changed=done.changed, needs_restart=done.needs_restart)
