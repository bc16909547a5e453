"""The hooks of a server: those it was given, those of its settings, and webhook_url."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

import proxy_engine
from proxy_engine.errors import UsageError
from proxy_engine.hook_feed import HookFeed
from proxy_engine.hooks import loading
from proxy_engine.hooks.builtin.webhook import DEVICE_EVENTS, Webhook
from proxy_engine.hooks.errors import HookError
from proxy_engine.hooks.events import ServerEvent
from proxy_engine.hooks.manager import Manager
from proxy_engine.metrics.routes import route_counts
from proxy_engine.settings import config
from proxy_engine.tasks import Tasks

if TYPE_CHECKING:
    from proxy_engine.hooks.hook import Hook
    from proxy_engine.settings.config import Settings
    from proxy_engine_core.core import Engine


class _SettingWebhook(Webhook):
    """That of webhook_url, which may come and go while the server runs."""

    name = "webhook_url"

    def stats(self) -> Mapping[str, int]:
        return {}  # webhooks_..., as ever


class ServerHooks:
    """
    Args:
        given: hooks of the program that embeds the server; they come before those of the settings.
        redact: a path and query as hooks may see it.
    Raises: UsageError for settings that can not be followed, HookError for what is no hook.
    """

    def __init__(
        self, settings: Settings, given: Sequence[Hook], redact: Callable[[str], str]
    ) -> None:
        self.settings = settings
        self._given = tuple(given)
        self._loaded = loading.load(settings.hooks, settings.hook_options)
        self.webhook = _SettingWebhook(
            settings.webhook_url, config.secret(settings, "webhook_secret"), events=DEVICE_EVENTS
        )
        self.manager = Manager(self._all(), timeout=lambda: self.settings.hook_timeout)
        self.feed = HookFeed(self.manager, redact=redact)
        self._engine: Engine | None = None
        self._event: ServerEvent | None = None  # of the start
        self._tasks = Tasks()

    def _all(self) -> list[Hook]:
        return [*self._given, *self._loaded.values(), self.webhook]

    def origins(self) -> dict[int, str]:
        """Where each hook came from, by its id(): "built in", "entry point" or "module" of the
        setting `hooks`, "webhook_url", or "program"."""
        found = {id(hook): "program" for hook in self._given}
        for key, hook in self._loaded.items():
            found[id(hook)] = loading.origin(key.partition(" ")[0])
        return found | {id(self.webhook): "webhook_url"}

    async def start(self, *, url: str, admin: str, domain: str) -> None:
        """Raises HookError if one can not."""
        self._event = ServerEvent(
            at=time.time(), url=url, admin=admin, domain=domain, version=proxy_engine.__version__
        )
        await self.manager.start(self._event)

    def watch(self, engine: Engine) -> None:
        """Tell on_data what its tunnels move, from now on."""
        self._engine = engine
        self._tasks.spawn(self._watch())

    async def close(self) -> None:
        await self._tasks.close()
        self._tell_data()
        if self._event is not None:
            await self.manager.close(_now(self._event))

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self.settings.hook_interval)
            self._tell_data()

    def _tell_data(self) -> None:
        if self._engine is not None and self.manager.wants("on_data"):
            counts = route_counts(self._engine.route_stats())
            self.feed.data({each.route: (each.bytes_in, each.bytes_out) for each in counts})

    # Other settings while the server runs

    def prepare(self, settings: Settings) -> dict[str, Hook]:
        """What use() takes. Raises UsageError; then nothing has changed."""
        found = loading.load(settings.hooks, settings.hook_options, self._loaded)
        try:
            self.manager.check(list(found.values()))
        except HookError as error:
            raise UsageError(str(error)) from None
        return found

    def use(self, settings: Settings, loaded: dict[str, Hook]) -> None:
        """Hooks that stay are not asked; others are stopped and started in the background."""
        self.settings = settings
        self.webhook.url = settings.webhook_url
        if settings.webhook_secret_file != "-":  # standard input was read at the start
            self.webhook.secret = config.secret(settings, "webhook_secret")  # may be new
        if list(loaded) != list(self._loaded):
            self._loaded = loaded
            assert self._event is not None
            self._tasks.spawn(self.manager.replace(self._all(), _now(self._event)))


def check(settings: Settings) -> None:
    """Whether a server could use these hooks. Raises UsageError."""
    try:
        Manager(list(loading.load(settings.hooks, settings.hook_options).values()))
    except HookError as error:
        raise UsageError(str(error)) from None


def _now(event: ServerEvent) -> ServerEvent:
    return msgspec.structs.replace(event, at=time.time())
