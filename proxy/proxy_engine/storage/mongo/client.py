"""The MongoDB client, by either driver.

motor is the declared one: pymongo behind threads. pymongo's own async client is the one that
MongoDB goes on developing. What they do not have in common is here, and nowhere else.
"""

from __future__ import annotations

from typing import Any, Literal
from urllib.parse import parse_qsl, urlsplit

from bson import DatetimeConversion
from bson.codec_options import CodecOptions
from pymongo.errors import PyMongoError

from proxy_engine.errors import StorageError

Driver = Literal["motor", "pymongo"]

DATABASE = "proxy_engine"  # unless the URI names one
# Each may be said otherwise in the URI.
OPTIONS: dict[str, Any] = {
    "appname": "proxy-engine",
    "minPoolSize": 5,
    "maxPoolSize": 20,
    # Of a whole operation: choosing a server, waiting for a connection, the retry. It stands
    # for the older timeouts of these parts, which drivers do not look at beside it.
    "timeoutMS": 5000,
    "connectTimeoutMS": 3000,
}


class Client:
    """One pool of connections. Opening it connects to nobody yet."""

    def __init__(self, uri: str, driver: Driver) -> None:
        """Raises StorageError if the URI is wrong; it never repeats the URI."""
        make: Any
        if driver == "motor":
            from motor.motor_asyncio import AsyncIOMotorClient as make
        else:
            from pymongo import AsyncMongoClient as make
        try:
            said = {name.lower() for name, _ in parse_qsl(urlsplit(uri).query)}
            options = {key: value for key, value in OPTIONS.items() if key.lower() not in said}
            self._client = make(uri, **options, tz_aware=True)
            name = self._client.get_default_database(DATABASE).name
        except (PyMongoError, ValueError) as error:
            raise StorageError(f"mongodb_uri: {error}") from None
        # Dates beyond the year 9999 are somebody else's, but must not fail a whole page.
        codec: CodecOptions[Any] = CodecOptions(
            tz_aware=True, datetime_conversion=DatetimeConversion.DATETIME_CLAMP
        )
        self.database = self._client.get_database(name, codec_options=codec)

    async def close(self) -> None:
        closing = self._client.close()
        if closing is not None:
            await closing


def place(uri: str) -> str:
    """The hosts that a URI names, without user and password, for people."""
    return urlsplit(uri).netloc.rpartition("@")[2]
