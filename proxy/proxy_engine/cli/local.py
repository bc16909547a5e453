"""Verbs that work on the server's store themselves, whether it runs or not: it notices."""

from __future__ import annotations

import argparse
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from proxy_engine.cli.parser import settings

if TYPE_CHECKING:
    from proxy_engine.storage import Store

_T = TypeVar("_T")


def with_store(
    args: argparse.Namespace, work: Callable[[Store], Awaitable[_T]], *, create: bool = False
) -> _T:
    """What work(store) returns.

    Args:
        create: make the store if there is none.
    """
    import asyncio

    from proxy_engine.storage.opening import open_store

    async def run() -> _T:
        store = await open_store(settings(args), create=create)
        try:
            return await work(store)
        finally:
            await store.close()

    return asyncio.run(run())


def write(
    args: argparse.Namespace,
    action: str,
    subject: str,
    work: Callable[[Store], Awaitable[_T]],
    *,
    detail: str = "",
    create: bool = False,
) -> _T:
    """The same with an audit record around it."""
    from proxy_engine.audit import LOCAL, audited

    async def run(store: Store) -> _T:
        async with audited(
            store, actor=LOCAL, address="", action=action, subject=subject, detail=detail
        ):
            return await work(store)

    return with_store(args, run, create=create)


def moment_text(moment: float | None) -> str:
    """A time of the store for people, in their own zone."""
    if moment is None:
        return "-"
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(moment))
