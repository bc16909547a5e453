"""The request log: what was asked, and what became of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

import msgspec

if TYPE_CHECKING:
    from proxy_engine_core.core import LogRecord


class Request(msgspec.Struct, frozen=True, array_like=False):
    """One stored request, with the names that its numbers stand for."""

    id: int
    time_us: int
    request_id: str
    visitor: str
    method: str
    host: str
    path: str
    status: int
    reason: str
    flags: int
    bytes_in: int
    bytes_out: int
    total_us: int
    first_byte_us: int
    target_us: int  # the target's part of first_byte_us
    tunnel: str | None
    device: str | None
    state: str  # one of proxy_engine_core.log_index.STATES
    # first_byte_us is proxy_us + link_us + target_us. Of requests from before there was link_us it
    # is 0, and the link's part in target_us.
    proxy_us: int = 0
    link_us: int = 0
    trace_id: str = ""  # 32 hexadecimal digits, the other ids 16; "": none
    parent_id: str = ""  # the span that the visitor named
    span_id: str = ""  # ours; "": the target was told of the parent instead
    trace_flags: int = 0  # 1: sampled


def request_of(
    number: int, record: LogRecord, tunnel: str | None, device: str | None, state: str
) -> Request:
    """By position: a page takes a thousand of these."""
    return Request(
        number,
        record[0],
        *record[3:16],  # without route and device
        tunnel,
        device,
        state,
        record.proxy_us,
        *record[16:],
    )


U63_MAX = 2**63 - 1


class RequestQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which requests; all that is given must hold. Texts are whole, but for `path`."""

    device: str | None = None
    tunnel: str | None = None
    status: tuple[int, int] = (0, 65535)  # least and most, both included, as all ranges here
    state: str | None = None
    method: str | None = None
    host: str | None = None
    path: str | None = None  # somewhere in path or query, in any case
    visitor: str | None = None
    reason: str | None = None
    request_id: str | None = None
    trace_id: str | None = None  # 32 lower case hexadecimal digits
    since_us: int = 0
    until_us: int = U63_MAX
    total_us: tuple[int, int] = (0, U63_MAX)


class RequestPage(msgspec.Struct, frozen=True):
    """Requests found, the newest first."""

    requests: list[Request]
    next: int | None  # `before` of the page behind it; None: this is the last one


class PathCount(NamedTuple):
    """A path without its query, and how many requests had it."""

    path: str
    requests: int


class RequestSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What many requests have in common. Durations are right to 3 %."""

    count: int
    bytes_in: int
    bytes_out: int
    statuses: dict[int, int]
    states: dict[str, int]
    paths: list[PathCount]  # the most frequent
    percentiles_us: dict[str, int]  # of total_us: "50", "90", "95", "99"
    max_us: int
    is_partial: bool  # there were more than could be looked at in time: these are the newest


class Retention(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of the request log; 0: no limit."""

    count: int = 0  # the newest requests
    age: float = 0.0  # seconds
    size: int = 0  # bytes of the store's records


class RequestStore(Protocol):
    async def requests_add(self, batch: bytes) -> int:
        """Keep packed records (proxy_engine_core.log_batch); how many there were. Their ids
        follow those of the newest before."""

    async def requests_last(self, limit: int) -> list[Request]:
        """The newest, oldest of them first."""

    async def requests_after(self, request_id: int, limit: int) -> list[Request]: ...
    async def requests_search(
        self, query: RequestQuery, *, limit: int, before: int | None = None
    ) -> RequestPage:
        """The newest that match, at most `limit`, of those with an id below `before`.

        A page may be shorter, even empty, although there are more: looking through what does
        not match takes time too, and a call has to end.
        """

    async def requests_summary(self, query: RequestQuery, *, paths: int = 10) -> RequestSummary: ...
    async def requests_trim(self, retention: Retention, now: float) -> None:
        """Delete what need not be kept. A store may keep somewhat more, never less, and
        gives the space back to the system once there is much of it."""
