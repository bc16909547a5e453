"""Finished requests for hooks: packed until somebody looks at them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, overload

from proxy_engine.hooks.events import Request
from proxy_engine_core import log_batch

if TYPE_CHECKING:
    from proxy_engine_core.core import LogRecord


class Names(NamedTuple):
    """What the ids in records are called. Read from the threads of hooks too."""

    tunnel: Callable[[int], str | None]
    device: Callable[[int], str | None]
    redact: Callable[[str], str]  # a path and query as others may see it


class Requests(Sequence[Request]):
    """One in `every` of the records of a batch, unpacked when the first of them is looked at.

    Several hooks share one. Two threads may unpack it at the same moment; that is the same work
    done twice, and no harm.
    """

    def __init__(self, batch: bytes, count: int, names: Names, first: int, every: int) -> None:
        """Args:
        count: the records of the batch.
        first: records before the first that is taken.
        """
        self._batch = batch
        self._names = names
        self._first = first
        self._every = every
        self._count = max(0, -(-(count - first) // every))
        self._found: list[Request] | None = None

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Request: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Request]: ...
    def __getitem__(self, index: int | slice) -> Request | Sequence[Request]:
        return self._all()[index]

    def __iter__(self) -> Iterator[Request]:
        return iter(self._all())

    def _all(self) -> list[Request]:
        if self._found is None:
            records = log_batch.unpack(self._batch, self._first, self._every)
            self._found = [_request(record, self._names) for record in records]
        return self._found


def _request(record: LogRecord, names: Names) -> Request:
    return Request(
        at=record.time_us / 1e6,
        request_id=record.request_id,
        tunnel=names.tunnel(record.route),
        device=names.device(record.device),
        visitor=record.visitor,
        method=record.method,
        host=record.host,
        path=names.redact(record.path),
        status=record.status,
        reason=record.reason,
        bytes_in=record.bytes_in,
        bytes_out=record.bytes_out,
        seconds=record.total_us / 1e6,
        first_byte_seconds=record.first_byte_us / 1e6,
        target_seconds=record.target_us / 1e6,
        flags=record.flags,
        proxy_seconds=record.proxy_us / 1e6,
        link_seconds=record.link_us / 1e6,
        trace_id=record.trace_id,
        parent_id=record.parent_id,
        span_id=record.span_id,
        trace_flags=record.trace_flags,
    )
