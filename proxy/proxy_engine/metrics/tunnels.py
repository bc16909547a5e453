"""The series of tunnels: so many have their own, the others are counted together.

What is together must never fall, or whoever computes rates takes it for a restart. So what a tunnel
had when it was last seen stays in it when the tunnel goes, and a tunnel never goes from the
others to those with series of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate

from proxy_engine.metrics.catalogue import TUNNELS
from proxy_engine.metrics.routes import RouteCounts
from proxy_engine.metrics.text import Buckets, Family, Numbers, bound_text, escape
from proxy_engine_core.core import ROUTE_STATS_BOUNDS_US

OTHER = "(other)"  # no tunnel has a name with brackets
NONE = "(none)"  # requests that found no tunnel
CODES = ("none", "1xx", "2xx", "3xx", "4xx", "5xx")
BOUNDS = tuple(bound / 1e6 for bound in ROUTE_STATS_BOUNDS_US)
_END = "\0"


def _template() -> str:
    """Of all lines of one tunnel, for %: families apart by _END, the name as @."""
    requests, errors, duration, received, sent, connections, open_now = (
        metric.name for metric in TUNNELS
    )
    families = [
        "".join(f'{requests}{{tunnel="@",code="{code}"}} %d\n' for code in CODES),
        "".join(
            f'{errors}{{tunnel="@",kind="{kind}"}} %d\n'
            for kind in ("refused", "failed", "aborted")
        ),
        "".join(
            f'{duration}_bucket{{tunnel="@",le="{bound_text(bound)}"}} %d\n'
            for bound in (*BOUNDS, float("inf"))
        )
        + f'{duration}_sum{{tunnel="@"}} %r\n{duration}_count{{tunnel="@"}} %d\n',
        *(f'{name}{{tunnel="@"}} %d\n' for name in (received, sent, connections, open_now)),
    ]
    return _END.join(families)


class TunnelSeries:
    def __init__(self) -> None:
        self._template = _template()
        self._own: dict[int, str] = {}  # templates, by route id
        self._names: dict[int, str] = {}
        self._others: dict[int, RouteCounts] = {}  # as they were last seen
        self._gone = _ZERO

    def families(
        self, rows: Iterable[RouteCounts], names: Mapping[int, str], most: int
    ) -> list[Family]:
        """
        Args:
            names: of the tunnels there are, by route id.
            most: how many have series of their own.
        """
        texts = [
            _text(self._own.get(route) or self._template.replace("@", name), row)
            for name, route, row in self._shown(rows, names, most)
        ]
        columns = zip(*(text.split(_END) for text in texts), strict=True)
        return [
            Family(metric, "".join(column)) for metric, column in zip(TUNNELS, columns, strict=True)
        ]

    def numbers(
        self, rows: Iterable[RouteCounts], names: Mapping[int, str], most: int
    ) -> list[Numbers | Buckets]:
        """The same as numbers."""
        shown = [(name, row) for name, _, row in self._shown(rows, names, most)]
        requests, errors, duration, received, sent, connections, open_now = TUNNELS
        kinds = ("refused", "failed", "aborted")
        return [
            Numbers(
                requests,
                [
                    ((name, code), count)
                    for name, row in shown
                    for code, count in zip(CODES, row.ended, strict=True)
                ],
            ),
            Numbers(
                errors,
                [((name, kind), getattr(row, kind)) for name, row in shown for kind in kinds],
            ),
            Buckets(
                duration,
                BOUNDS,
                [((name,), row.durations, row.duration_us / 1e6) for name, row in shown],
            ),
            Numbers(received, [((name,), row.bytes_in) for name, row in shown]),
            Numbers(sent, [((name,), row.bytes_out) for name, row in shown]),
            Numbers(connections, [((name,), row.connections) for name, row in shown]),
            Numbers(open_now, [((name,), row.open) for name, row in shown]),
        ]

    def _shown(
        self, rows: Iterable[RouteCounts], names: Mapping[int, str], most: int
    ) -> Iterator[tuple[str, int, RouteCounts]]:
        """Of each series: the tunnel's name, its route id (0: not one tunnel), the counts."""
        self._choose(names, most)
        others = {}
        for row in rows:
            if row.route in self._own:
                yield self._names[row.route], row.route, row
            elif row.route == 0:
                yield NONE, 0, row
            elif row.route in names or row.route in self._others:
                others[row.route] = row
        for route, last in self._others.items():
            if route not in others:
                self._gone = _sum((self._gone, last._replace(open=0)))
        self._others = others
        if others or self._gone is not _ZERO:
            yield OTHER, 0, _sum((self._gone, *others.values()))

    def has(self, route: int) -> bool:
        """Whether it has series of its own."""
        return route in self._own

    @property
    def without(self) -> int:
        """Tunnels that were counted together."""
        return len(self._others)

    def _choose(self, names: Mapping[int, str], most: int) -> None:
        for route in [route for route in self._own if names.get(route) != self._names[route]]:
            del self._own[route], self._names[route]
        for route in sorted(names.keys() - self._own.keys() - self._others.keys()):
            if len(self._own) >= most:
                return
            self._names[route] = names[route]
            name = escape(names[route]).replace("%", "%%")
            self._own[route] = self._template.replace("@", name)


_ZERO = RouteCounts(0, 0, 0, 0, 0, 0, 0, 0, (0,) * len(CODES), 0, (0,) * (len(BOUNDS) + 1))


def _sum(rows: Iterable[RouteCounts]) -> RouteCounts:
    columns = list(zip(*rows, strict=True))
    summed = (
        tuple(map(sum, zip(*column, strict=True))) if isinstance(column[0], tuple) else sum(column)
        for column in columns
    )
    return RouteCounts._make(summed)


def _text(template: str, row: RouteCounts) -> str:
    buckets = tuple(accumulate(row.durations))
    return template % (
        *row.ended,
        row.refused,
        row.failed,
        row.aborted,
        *buckets,
        row.duration_us / 1e6,
        buckets[-1],
        row.bytes_in,
        row.bytes_out,
        row.connections,
        row.open,
    )
