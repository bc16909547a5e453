"""The admin API as verbs use it: of a server anywhere, or of the store on this machine.

With `--admin URL` a verb asks that server, with an admin token. Without, the same table of
routes is asked here, in this process, with the store of the data dir (or MongoDB): whoever
may read that may do everything, whether the server runs or not. So each verb is written
once. What only a running server knows says so.
"""

from __future__ import annotations

import argparse
import json
import re
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn, Protocol
from urllib.parse import quote, urlencode, urlsplit

from proxy_engine.cli.parser import add_authorities, add_setting, add_store, settings
from proxy_engine.errors import EXIT_USAGE, ProxyEngineError, UsageError, error_text

if TYPE_CHECKING:
    import http.client

    from proxy_engine.settings.config import Settings

TIMEOUT = 30.0  # seconds for an answer
PAGE = 1000  # items a page
WHOLE_PATHS = ("/health", "/debug/")  # not of the API, and only a running server has them


class ApiError(ProxyEngineError):
    """What the API refused: `code` is its, the text its detail."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        if status in (400, 422):
            self.exit_code = EXIT_USAGE


class Client(Protocol):
    def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: Any = None,
    ) -> Any:
        """The answer, decoded. Raises ApiError, or ProxyEngineError if nobody answers.

        Args:
            path: below /api/v1, or of the probes and /debug/; text from outside goes through
                segment().
            query: values that are None are left out, lists are given several times.
        """

    def close(self) -> None: ...


def add_target(parser: argparse.ArgumentParser) -> None:
    """Flags that say which server a verb is about."""
    add_setting(
        parser,
        "admin_url",
        flag="--admin",
        metavar="URL",
        help="of the server's admin listener; without it, the data dir on this machine",
    )
    add_setting(
        parser, "admin_token_file", metavar="FILE", help="read its admin token from a file, - stdin"
    )
    add_setting(parser, "admin_token", metavar="TOKEN", help="its admin token (better: a file)")
    add_authorities(parser)
    add_store(parser)


@contextmanager
def connected(args: argparse.Namespace, *, create: bool = False) -> Iterator[Client]:
    """The client these flags mean.

    Args:
        create: make a data dir that is not there.
    """
    chosen = settings(args)
    client: Client = Remote(chosen) if chosen.admin_url else Local(chosen, create=create)
    try:
        yield client
    finally:
        client.close()


def items(client: Client, path: str, **query: Any) -> Iterator[Any]:
    """All items of a list, page by page."""
    cursor = None
    while True:
        page = client.call("GET", path, query={"limit": PAGE, "cursor": cursor, **query})
        yield from page["items"]
        cursor = page["next"]
        if cursor is None:
            return


def segment(text: str) -> str:
    """Text as one segment of a path."""
    return quote(text, safe="")


class Remote:
    """Over HTTP, on one connection."""

    def __init__(self, chosen: Settings) -> None:
        from proxy_engine.settings.config import secret

        self._url = chosen.admin_url
        parts = urlsplit(chosen.admin_url)
        if not parts.hostname or parts.query or parts.fragment:
            raise UsageError(f'--admin: "{chosen.admin_url}" is not http(s)://HOST:PORT')
        self._prefix = parts.path
        token = secret(chosen, "admin_token")
        if not token:
            raise UsageError(
                "which admin token? give --admin-token-file FILE or PROXY_ENGINE_ADMIN_TOKEN"
            )
        if not token.isascii() or not token.isprintable() or " " in token:
            raise UsageError("the admin token holds characters that no token has")
        self._headers = {"Authorization": f"Bearer {token}", "Accept": "application/json"}
        self._connection = self._open(parts.scheme, parts.hostname, parts.port, chosen.ca)

    @staticmethod
    def _open(scheme: str, host: str, port: int | None, ca: str) -> http.client.HTTPConnection:
        import http.client

        if scheme != "https":
            return http.client.HTTPConnection(host, port, timeout=TIMEOUT)
        import ssl

        try:
            context = ssl.create_default_context(cafile=ca or None)
        except OSError as error:
            raise UsageError(f"ca {ca}: {error_text(error)}") from None
        return http.client.HTTPSConnection(host, port, timeout=TIMEOUT, context=context)

    def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: Any = None,
    ) -> Any:
        target = self._prefix + (path if path.startswith(WHOLE_PATHS) else f"/api/v1{path}")
        pairs = _pairs(query)
        if pairs:
            target += "?" + urlencode(pairs)
        headers = dict(self._headers)
        data = None
        if body is not None:
            data = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        if method == "POST":
            headers["Idempotency-Key"] = uuid.uuid4().hex  # so that it may be sent again
        status, answer = self._exchange(method, target, data, headers)
        if status >= 400 and not (status == 503 and path == "/health"):  # which says why
            raise _refusal(status, answer)
        return _decoded(answer)

    def _exchange(
        self, method: str, target: str, data: bytes | None, headers: dict[str, str]
    ) -> tuple[int, bytes]:
        import http.client

        may_be_stale = self._connection.sock is not None
        while True:
            try:
                self._connection.request(method, target, data, headers)
                response = self._connection.getresponse()
                return response.status, response.read()
            except (OSError, http.client.HTTPException) as error:
                self._connection.close()
                # The server may have ended a connection that had nothing to do.
                if may_be_stale and not isinstance(error, TimeoutError):
                    may_be_stale = False
                    continue
                what = error_text(error) or type(error).__name__
                raise ProxyEngineError(f"{self._url}: {what}") from None

    def close(self) -> None:
        self._connection.close()


def _pairs(query: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    pairs = []
    for name, value in (query or {}).items():
        for each in value if isinstance(value, (list, tuple)) else [value]:
            if each is not None:
                text = str(each).lower() if isinstance(each, bool) else str(each)
                pairs.append((name, text))
    return pairs


def _refusal(status: int, answer: bytes) -> ApiError:
    try:
        problem = json.loads(answer)
        return ApiError(status, str(problem["code"]), str(problem["detail"]))
    except (ValueError, TypeError, KeyError):
        return ApiError(status, "", f"the server answered {status}, and not as our API does")


def _decoded(answer: bytes) -> Any:
    try:
        return json.loads(answer) if answer else None
    except ValueError:
        raise ProxyEngineError("what answered is not a proxy-engine admin API") from None


class Local:
    """The table of routes in this process, with the store the settings mean."""

    def __init__(self, chosen: Settings, *, create: bool) -> None:
        import asyncio

        from proxy_engine.api.dispatch import Dispatcher
        from proxy_engine.api.table import TABLE
        from proxy_engine.storage.opening import open_store

        self._runner = asyncio.Runner()
        self._runner.__enter__()
        try:
            self._store = self._runner.run(open_store(chosen, create=create))
        except BaseException:
            self._runner.close()
            raise
        service: Any = LocalService(chosen, self._store)
        self._routes = [(route, _matcher(route.path)) for route in TABLE]
        self._dispatcher = Dispatcher(TABLE, service)

    def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: Any = None,
    ) -> Any:
        from urllib.parse import unquote

        from proxy_engine.api.dispatch import Ask, whole

        for route, matcher in self._routes:
            match = matcher.fullmatch(f"/api/v1{path}") if route.method == method else None
            if match is None:
                continue
            ask = Ask(
                path={name: unquote(text) for name, text in match.groupdict().items()},
                query=_pairs(query),
                headers={"content-type": "application/json"},
                body=b"" if body is None else json.dumps(body).encode(),
            )

            async def work(route: Any = route, ask: Ask = ask) -> tuple[int, bytes]:
                answer = await self._dispatcher.answer(route, ask)
                return answer.status, await whole(answer)

            status, found = self._runner.run(work())
            if status >= 400:
                raise _refusal(status, found)
            return _decoded(found)
        raise AssertionError(f"no route for {method} {path}")

    def close(self) -> None:
        self._runner.run(self._store.close())
        self._runner.close()


def _matcher(path: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"{(\w+)}", r"(?P<\1>[^/]+)", path))


class LocalService:
    """What routes find in a server, as far as the store alone has it."""

    is_draining = False

    def __init__(self, chosen: Settings, store: Any) -> None:
        from proxy_engine.listeners import chosen as chosen_listeners
        from proxy_engine.listeners import public
        from proxy_engine.tunnels.routes import TunnelTable

        self.settings = chosen
        self.sources: dict[str, str] = {}
        self.started_at = time.time()
        self.store = store
        self.links = NoLinks()
        self.open_requests = None
        self.exporter = None
        listener = public(chosen_listeners(chosen))
        self.table = TunnelTable(
            domain=chosen.domain, port=listener.address.port, scheme=listener.scheme
        )

    async def access_changed(self) -> None:
        """A server that runs sees by itself that its store was written."""

    def __getattr__(self, name: str) -> Any:
        raise ProxyEngineError("only a running server knows that: give --admin URL")


class NoLinks:
    """Who is connected only a running server knows."""

    def __len__(self) -> int:
        return 0

    @property
    def registry(self) -> NoLinks:
        return self

    def online_since(self, device_id: int) -> None:
        return None

    def of_device(self, device_id: int) -> list[Any]:
        return []

    def put_tunnel(self, tunnel: Any) -> None:
        """A server that runs sees by itself that its store was written."""

    def drop_tunnel(self, tunnel: Any) -> None:
        """Likewise."""

    @property
    def pushes(self) -> NoReturn:
        raise ProxyEngineError("only a running server can tell an agent: give --admin URL")
