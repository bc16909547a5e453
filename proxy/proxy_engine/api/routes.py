"""The table of routes: one decorated function for each, and nothing about it anywhere else.

    routes = Routes("devices", "The machines behind the tunnels.")

    @routes.patch("/api/v1/devices/{name}", problems={404: "there is no such device"})
    async def rename_device(call: Call, path: DeviceName, body: DeviceChange) -> Device:
        '''Rename a device.

        What the docs page says beside that.
        '''

The annotations are the contract. `path`, `query` and `body`, where a function has them, are
msgspec structs that hold what was asked, checked; what it returns is the answer: a struct,
None for 204, a Stream or an Upgrade. From the table come the aiohttp routes (server.py), the
answers (dispatch.py) and the OpenAPI document (openapi.py). Nothing here knows aiohttp, so
that the command line can use the same table without a server.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Literal, NamedTuple, TypeVar, get_type_hints

import msgspec

from proxy_engine.api.context import Call

Scope = Literal["public", "read", "write"]
Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
_Handler = TypeVar("_Handler", bound=Callable[..., Awaitable[Any]])


class Stream(NamedTuple):
    """An answer that comes in pieces. Its media type is one of those its route names."""

    media_type: str
    chunks: AsyncIterator[bytes]


class Upgrade(NamedTuple):
    """An answer that is a WebSocket from here on."""

    serve: Callable[[Any], Awaitable[Any]]  # with aiohttp's request; returns its response


_STATUS = {type(None): 204, Upgrade: 101}


class Route(msgspec.Struct, frozen=True, kw_only=True):
    method: Method
    path: str  # with {names} of the fields of `path_type`
    handler: Callable[..., Awaitable[Any]]
    tag: str
    scope: Scope
    status: int  # of the answer when all went well
    summary: str
    description: str
    path_type: type[msgspec.Struct] | None
    query_type: type[msgspec.Struct] | None
    body_type: type[msgspec.Struct] | None
    result_type: Any  # a struct, None, Stream or Upgrade
    messages: Any  # what a WebSocket says, after an Upgrade
    media_types: tuple[str, ...]  # of a Stream
    problems: Mapping[int, str]  # beside those that every route has
    also: Mapping[int, str]  # statuses that answer with result_type too
    has_etag: bool
    settled: tuple[str, ...]  # fields that If-Match is about; none: all

    @property
    def name(self) -> str:
        """A unique name: the function's."""
        return self.handler.__name__


class Routes(list[Route]):
    """The routes of one topic."""

    def __init__(self, tag: str, about: str) -> None:
        super().__init__()
        self.tag = tag
        self.about = about

    def get(self, path: str, **options: Any) -> Callable[[_Handler], _Handler]:
        return self._add("GET", path, **{"scope": "read", **options})

    def post(self, path: str, **options: Any) -> Callable[[_Handler], _Handler]:
        return self._add("POST", path, **options)

    def put(self, path: str, **options: Any) -> Callable[[_Handler], _Handler]:
        return self._add("PUT", path, **options)

    def patch(self, path: str, **options: Any) -> Callable[[_Handler], _Handler]:
        return self._add("PATCH", path, **options)

    def delete(self, path: str, **options: Any) -> Callable[[_Handler], _Handler]:
        return self._add("DELETE", path, **options)

    def _add(
        self,
        method: Method,
        path: str,
        *,
        scope: Scope = "write",
        status: int = 0,
        problems: Mapping[int, str] | None = None,
        also: Mapping[int, str] | None = None,
        media_types: tuple[str, ...] = (),
        messages: Any = None,
        etag: bool = False,
        settled: tuple[str, ...] = (),
    ) -> Callable[[_Handler], _Handler]:
        """Options of a route.

        Args:
            scope: what the token has to allow; "public" needs none. "read" for GET, else "write".
            status: of the answer; usually 200, 201 for POST that makes something, 204 for None.
            problems: statuses it answers with besides those that all routes have, and when.
            also: statuses that answer with the same struct, and when.
            media_types: of the Stream it returns.
            messages: structs that are sent after the Upgrade it returns, as JSON.
            etag: the answer has an ETag, and changes of the same path heed If-Match.
            settled: fields of the answer that only a change changes; whatever the others say
                meanwhile, If-Match holds. None: all are.
        """

        def add(handler: _Handler) -> _Handler:
            hints = get_type_hints(handler, include_extras=True)
            summary, _, rest = inspect.getdoc(handler).partition("\n")  # type: ignore[union-attr]
            result_type = hints["return"]
            self.append(
                Route(
                    method=method,
                    path=path,
                    handler=handler,
                    tag=self.tag,
                    scope=scope,
                    status=status or _STATUS.get(result_type, 200),
                    summary=summary.removesuffix("."),
                    description=rest.strip(),
                    path_type=hints.get("path"),
                    query_type=hints.get("query"),
                    body_type=hints.get("body"),
                    result_type=None if result_type is type(None) else result_type,
                    media_types=media_types,
                    messages=messages,
                    problems=problems or {},
                    also=also or {},
                    has_etag=etag,
                    settled=settled,
                )
            )
            return handler

        return add


__all__ = ["Call", "Route", "Routes", "Stream", "Upgrade"]
