"""The catalogue as the tables of docs/metrics.md.

    python -m proxy_engine.metrics.document docs/metrics.md

writes them between the marks in that file.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path

from proxy_engine.metrics.catalogue import METRICS, STATS, TUNNELS, Metric

MARKS = re.compile(r"(<!-- {} -->\n)(.*?)(<!-- end -->)".replace("{}", r"(\w+)"), re.DOTALL)


def _table(metrics: Iterable[Metric]) -> str:
    rows = "".join(
        f"| `{metric.name}` | {metric.kind} | {', '.join(f'`{label}`' for label in metric.labels)} "
        f"| {metric.help} |\n"
        for metric in metrics
    )
    return f"\n| metric | kind | labels | meaning |\n|---|---|---|---|\n{rows}\n"


def _tables() -> dict[str, str]:
    counted = {source.metric for source in STATS.values()}
    others = [m for m in METRICS.values() if m not in TUNNELS and m.name not in counted]
    return {
        "tunnels": _table(TUNNELS),
        "server": _table(others),
        "counted": _table(m for m in METRICS.values() if m.name in counted),
    }


def filled(page: str) -> str:
    """The page with the tables as they should be."""
    tables = _tables()
    return MARKS.sub(lambda match: match[1] + tables[match[2]] + match[4], page)


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(filled(path.read_text()))
