"""What the dispatcher does around a handler, on a table of its own."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Annotated, Any

import msgspec
import pytest

from proxy_engine.api.dispatch import BODY_MAX, Answer, Ask, Dispatcher, whole
from proxy_engine.api.idempotency import KEEP, Idempotency
from proxy_engine.api.openapi import document, statuses
from proxy_engine.api.paging import Page, PageQuery, page_of
from proxy_engine.api.problems import Problem
from proxy_engine.api.routes import Call, Routes, Stream
from proxy_engine.errors import StorageError, UsageError
from proxy_engine.grants import Scopes
from proxy_engine.storage import AuditRecord, NameTaken, Token

routes = Routes("things", "Things.")
things: dict[str, int] = {}
raised: list[Exception] = []


def token(*, read_only: bool = False) -> Token:
    return Token(
        id=1, name="t", kind="admin", digest=b"", device_id=None, device=None, is_blocked=False,
        created_at=0.0, expires_at=None, revoked_at=None, last_used_at=None,
        scopes=Scopes(read_only=read_only),
    )  # fmt: skip


class Records:
    """A store that keeps no audit records; test_api_access.py has a real one."""

    async def audit_begin(self, record: AuditRecord) -> int:
        return 1

    async def audit_end(self, record_id: int, outcome: str) -> None:
        assert outcome


class Name(msgspec.Struct):
    name: Annotated[str, msgspec.Meta(max_length=9)]


class Thing(msgspec.Struct):
    name: str
    size: int


class NewThing(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    size: Annotated[int, msgspec.Meta(ge=0, le=10)] = 1


class Filter(PageQuery, forbid_unknown_fields=True, kw_only=True):
    kind: tuple[str, ...] = ()
    big: bool = False


@routes.get("/things")
async def list_things(call: Call, query: Filter) -> Page[Thing]:
    """All."""
    found = [Thing(name, size) for name, size in things.items() if size > 5 or not query.big]
    return page_of(found, query, lambda thing: thing.name)


@routes.post("/things", status=201, problems={409: "taken"})
async def add_thing(call: Call, body: NewThing) -> Thing:
    """Add."""
    await asyncio.sleep(0)
    if body.name in things:
        raise NameTaken("thing", "a")
    things[body.name] = body.size
    call.answer_headers["Location"] = f"/things/{body.name}"
    return Thing(body.name, body.size)


@routes.get("/things/{name}", etag=True, problems={404: "no such thing"})
async def read_thing(call: Call, path: Name) -> Thing:
    """One."""
    if path.name not in things:
        raise Problem(404, "unknown_thing", "there is none")
    return Thing(path.name, things[path.name])


@routes.put("/things/{name}", etag=True)
async def change_thing(call: Call, path: Name, body: NewThing) -> Thing:
    """Change."""
    await asyncio.sleep(0)
    things[path.name] = body.size
    return Thing(path.name, body.size)


@routes.delete("/things/{name}")
async def delete_thing(call: Call, path: Name) -> None:
    """Delete."""
    del things[path.name]


@routes.get("/export", media_types=("text/csv",))
async def export(call: Call) -> Stream:
    """Export."""

    async def rows() -> Any:
        yield b"a\n"
        yield b"b\n"

    return Stream("text/csv", rows())


@routes.get("/fail")
async def fail(call: Call) -> Thing:
    """Fail."""
    raise raised.pop()


@pytest.fixture
def dispatcher() -> Dispatcher:
    things.clear()
    service: Any = SimpleNamespace(store=Records())
    return Dispatcher(routes, service)


JSON = {"content-type": "application/json; charset=utf-8"}


async def ask(dispatcher: Dispatcher, name: str, **fields: Any) -> tuple[int, Any]:
    answer = await answered(dispatcher, name, **fields)
    body = await whole(answer)
    return answer.status, msgspec.json.decode(body) if body else None


async def answered(
    dispatcher: Dispatcher, name: str, query: str = "", path: str = "", **fields: Any
) -> Answer:
    [route] = [route for route in routes if route.name == name]
    pairs = [(pair.partition("=")[0], pair.partition("=")[2]) for pair in query.split("&") if pair]
    given = Ask(path={"name": path} if path else {}, query=pairs, headers=JSON)
    return await dispatcher.answer(route, given._replace(**fields))


async def test_a_body_becomes_a_struct_and_a_struct_the_answer(dispatcher: Dispatcher) -> None:
    answer = await answered(dispatcher, "add_thing", body=b'{"name": "a", "size": 3}')
    assert (answer.status, answer.headers["Location"]) == (201, "/things/a")
    assert answer.body == b'{"name":"a","size":3}\n'
    assert (await ask(dispatcher, "delete_thing", path="a")) == (204, None)


@pytest.mark.parametrize(
    ("status", "code", "fields"),
    [
        (400, "bad_json", {"body": b"{"}),
        (400, "bad_json", {"body": b'{"name": "\xff"}'}),
        (400, "bad_json", {"body": b""}),
        (422, "bad_body", {"body": b"[" * 100_000}),
        (413, "too_large", {"body": b" " * (BODY_MAX + 1)}),
        (415, "not_json", {"headers": {}, "body": b"{}"}),
        (415, "not_json", {"headers": {"content-type": "text/json"}, "body": b"{}"}),
        (422, "bad_body", {"body": b"{}"}),
        (422, "bad_body", {"body": b'{"name": 5}'}),
        (422, "bad_body", {"body": b'{"name": "a", "size": 11}'}),
        (422, "bad_body", {"body": b'{"name": "a", "sise": 1}'}),
        (400, "bad_query", {"query": "x=1", "body": b'{"name": "a"}'}),
    ],
)
async def test_a_bad_body_is_refused(
    dispatcher: Dispatcher, status: int, code: str, fields: dict[str, Any]
) -> None:
    found, body = await ask(dispatcher, "add_thing", **fields)
    assert (found, body["status"], body["code"]) == (status, status, code)
    assert body["type"] == f"urn:proxy-engine:{code}"
    assert not things


async def test_what_is_wrong_is_said_with_its_place(dispatcher: Dispatcher) -> None:
    _, body = await ask(dispatcher, "add_thing", body=b'{"name": "a", "size": 11}')
    assert body["detail"] == "size: expected `int` <= 10"
    _, body = await ask(dispatcher, "add_thing", body=b'{"name": "a", "sise": 1}')
    assert body["detail"] == 'unknown name "sise", did you mean "size"?'
    _, body = await ask(dispatcher, "list_things", query="limt=5")
    assert body["detail"] == 'unknown parameter "limt", did you mean "limit"?'


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=x", "limit=1&limit=2", "z=1", "big=perhaps", "cursor=%"]
)
async def test_a_bad_query_is_400(dispatcher: Dispatcher, query: str) -> None:
    assert (await ask(dispatcher, "list_things", query=query))[0] == 400
    assert (await ask(dispatcher, "list_things", query="kind=a&kind=b&big=true"))[0] == 200


async def test_a_bad_path_is_400(dispatcher: Dispatcher) -> None:
    status, body = await ask(dispatcher, "read_thing", path="much-too-long")
    assert (status, body["code"]) == (400, "bad_path")


async def test_pages_lead_from_one_to_the_next(dispatcher: Dispatcher) -> None:
    things.update({f"t{number:02}": number for number in range(7)})
    seen: list[str] = []
    cursor: str | None = ""
    for size in (3, 3, 1):
        _, page = await ask(dispatcher, "list_things", query=f"limit=3&cursor={cursor}")
        assert len(page["items"]) == size
        seen += [thing["name"] for thing in page["items"]]
        cursor = page["next"]
        things.pop("t02", None)  # going back or away hides nothing
    assert seen == [f"t{number:02}" for number in range(7)]
    assert cursor is None
    for bad in ("AAAA", "W10", "e30", "ä"):
        assert (await ask(dispatcher, "list_things", query=f"cursor={bad}"))[0] == 400


async def test_an_etag_saves_the_body_and_guards_changes(dispatcher: Dispatcher) -> None:
    things["a"] = 1
    first = await answered(dispatcher, "read_thing", path="a")
    etag = first.headers["ETag"]
    for known in (etag, f'"x", W/{etag}', "*"):
        same = await answered(dispatcher, "read_thing", path="a", headers={"if-none-match": known})
        assert (same.status, same.body) == (304, b"")
    change = {"path": "a", "body": b'{"name": "a", "size": 2}'}
    stale = {**JSON, "if-match": '"stale"'}
    assert (await ask(dispatcher, "change_thing", headers=stale, **change))[0] == 412
    assert things["a"] == 1
    # What is wrong anyway is said first.
    assert (await ask(dispatcher, "change_thing", headers=stale, path="a", body=b"{}"))[0] == 422
    # If-None-Match is for reading.
    both = {**JSON, "if-match": etag, "if-none-match": "*"}
    done = await answered(dispatcher, "change_thing", headers=both, path="a", body=b'{"name": "a"}')
    assert (done.status, done.headers["ETag"]) == (200, etag)
    # Of two who saw the same, one comes first.
    seen = {**JSON, "if-match": etag}
    two = [ask(dispatcher, "change_thing", headers=seen, **change) for _ in range(2)]
    assert sorted(status for status, _ in await asyncio.gather(*two)) == [200, 412]


async def test_a_post_with_a_key_is_done_once(dispatcher: Dispatcher) -> None:
    key = {**JSON, "idempotency-key": "k1"}
    body = b'{"name": "a"}'
    together = [ask(dispatcher, "add_thing", headers=key, body=body) for _ in range(2)]
    assert [status for status, _ in await asyncio.gather(*together)] == [201, 409]
    assert await ask(dispatcher, "add_thing", headers=key, body=body) == (
        201,
        {"name": "a", "size": 1},
    )
    assert (await ask(dispatcher, "add_thing", headers=key, body=b'{"name": "b"}'))[0] == 422
    assert (await ask(dispatcher, "add_thing", body=body))[0] == 409  # without a key
    for text in ("ä", "a b", "", "a" * 256):
        bad = {**JSON, "idempotency-key": text}
        assert (await ask(dispatcher, "add_thing", headers=bad, body=body))[0] == 400


async def test_keys_are_forgotten_and_failures_may_be_tried_again() -> None:
    now = 0.0
    keys: Idempotency[int] = Idempotency(lambda: now)
    answers = iter([500, 200, 201, 202])

    async def work() -> int:
        return next(answers)

    def is_final(status: int) -> bool:
        return status < 500

    assert [await keys.once("me", "k", b"", work, is_final) for _ in range(3)] == [500, 200, 200]
    assert await keys.once("you", "k", b"", work, is_final) == 201
    now = KEEP + 1
    assert await keys.once("me", "k", b"", work, is_final) == 202


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (StorageError("disk"), 503, "store_failed"),
        (NameTaken("thing", "a"), 409, "name_taken"),
        (UsageError("no"), 422, "bad_value"),
        (ZeroDivisionError("secret"), 500, "internal_error"),
    ],
)
async def test_exceptions_are_problems(
    dispatcher: Dispatcher, error: Exception, status: int, code: str
) -> None:
    raised.append(error)
    answer = await answered(dispatcher, "fail")
    body = msgspec.json.decode(await whole(answer))
    assert (answer.status, body["code"]) == (status, code)
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert ("Retry-After" in answer.headers) == (status == 503)
    assert "secret" not in str(body)


async def test_a_stream_comes_in_pieces(dispatcher: Dispatcher) -> None:
    answer = await answered(dispatcher, "export")
    assert (answer.headers["Content-Type"], await whole(answer)) == ("text/csv", b"a\nb\n")


def test_the_document_says_what_the_table_does() -> None:
    paths = document([routes])["paths"]
    added = paths["/things"]["post"]
    assert {"201", "400", "409", "413", "415", "422", "401", "503"} <= set(added["responses"])
    assert added["responses"]["409"]["description"] == "taken"
    assert added["parameters"][0]["name"] == "Idempotency-Key"
    [limit] = [each for each in paths["/things"]["get"]["parameters"] if each["name"] == "limit"]
    assert limit["schema"] == {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100}
    [change] = [route for route in routes if route.name == "change_thing"]
    assert 412 in statuses(change)


async def test_a_read_only_token_may_look_and_not_change(dispatcher: Dispatcher) -> None:
    things["a"] = 1
    found: dict[str, list[int]] = {}
    for name, actor in (("reader", token(read_only=True)), ("admin", token())):
        found[name] = [
            (await ask(dispatcher, route, path="a", actor=actor))[0]
            for route in ("read_thing", "delete_thing")
        ]
    assert found == {"reader": [200, 403], "admin": [200, 204]}
