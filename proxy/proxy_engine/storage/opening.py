"""Which store the settings mean. Imports it only then: the command line starts fast."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy_engine.settings.config import secret

if TYPE_CHECKING:
    from proxy_engine.settings.config import Settings
    from proxy_engine.storage import Store


async def open_store(settings: Settings, *, create: bool = True) -> Store:
    """Open and, if it is new or old, make or migrate the store of these settings.

    Args:
        create: make it if it is not there. A server does; a command that looks into a data
            dir says instead that there is none.
    Raises: StorageError with one clear line.
    """
    mongodb_uri = secret(settings, "mongodb_uri")
    if mongodb_uri:
        from proxy_engine.storage.mongo import MongoStore

        return await MongoStore.open(mongodb_uri, settings.mongodb_driver)
    from proxy_engine.storage.sqlite import SqliteStore, create_data_dir, database_path

    if create:
        create_data_dir(settings.data_dir)
    return await SqliteStore.open(database_path(settings.data_dir), create=create)
