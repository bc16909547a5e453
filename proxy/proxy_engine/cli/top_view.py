"""Rates as lines of text, as wide and as high as the terminal is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from proxy_engine.cli.top_rates import DeviceRates, Rates, TunnelRates
from proxy_engine.text import duration_text, escape, size_text

BOLD, DIM, RED, GREEN, YELLOW, REVERSE, RESET = (
    f"\x1b[{code}m" for code in (1, 2, 31, 32, 33, 7, 0)
)
BAR = 10  # characters of a worker's bar
BAR_COLUMN = 30  # of a worker with all that is said of it
PLAIN_WIDTH, PLAIN_HEIGHT = 120, 10_000

# Keys that sort, what by, and the largest first or the smallest.
SORTS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "r": ("requests", lambda each: -each.requests),
    "b": ("bytes", lambda each: -(each.bytes_in + each.bytes_out)),
    "o": ("open", lambda each: -each.open),
    "l": ("latency", lambda each: -getattr(each, "latency_ms", {}).get("p99", 0.0)),
    "e": ("errors", lambda each: -_errors(each)),
    "n": ("name", lambda each: each.name),
}
HELP = (
    "q quit  r/b/o/l/e/n sort by requests, bytes, open, latency, errors, name  d devices  p pause"
)


def _errors(each: Any) -> float:
    return sum(getattr(each, name, 0.0) for name in ("server_errors", "aborted", "client_errors"))


def number(value: float) -> str:
    if value >= 100 or value == int(value):
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 0.1 or value == 0 else "<0.1"


def bytes_text(value: float) -> str:
    return f"{size_text(int(value))}/s"


def times(latency: dict[str, float]) -> list[str]:
    return [duration_text(latency[f"p{p}"] / 1000) if latency else "-" for p in (50, 90, 99)]


class View:
    """What is shown, and how.

    Args:
        colour: with escape sequences.
    """

    def __init__(self, where: str, *, colour: bool) -> None:
        self.where = where
        self.sort = "r"
        self.shows_devices = False
        self.is_paused = False
        self._colour = colour

    def press(self, key: str) -> bool:
        """False: that was the last one."""
        if key in ("q", "\x03", "\x04"):
            return False
        if key in SORTS:
            self.sort = key
        elif key == "d":
            self.shows_devices = not self.shows_devices
        elif key in ("p", " "):
            self.is_paused = not self.is_paused
        return True

    def lines(
        self, found: Rates | None, trouble: str, width: int, height: int, *, keys: bool = True
    ) -> list[str]:
        """
        Args:
            found: None: nothing is known yet.
            trouble: why it is not of now; "".
        """
        shown = []
        if trouble:
            shown.append(self._paint(RED, f"{trouble}; trying again"[:width]))
        if found is None:
            return [*shown, f"asking {self.where} ..."[:width]]
        shown += self._head(found, width)
        rows = found.devices if self.shows_devices else found.tunnels
        table = self._devices(found.devices) if self.shows_devices else self._tunnels(found.tunnels)
        room = max(1, height - len(shown) - 2 - keys)
        shown += ["", *self._table(table, room, width)]
        if len(rows) > room:
            shown[-1] = self._paint(DIM, f"... and {len(rows) - room + 1} more"[:width])
        if keys:
            shown += [""] * (height - len(shown) - 1)
            state = "PAUSED  " if self.is_paused else ""
            shown.append(self._paint(DIM, f"{state}{HELP}"[:width]))
        return shown[:height]

    def _paint(self, code: str, text: str) -> str:
        return f"{code}{text}{RESET}" if self._colour else text

    def _head(self, found: Rates, width: int) -> list[str]:
        good = found.status == "ok"
        latency = times(found.latency_ms)
        title = f"server {found.version}  up {duration_text(found.up_s)}  "
        rest = f"  {len(found.devices)} devices, {found.links} links  {self.where}"
        first = f"{title}{found.status}{rest}"[:width]
        if len(title) + len(found.status) < width:  # or its colour would be cut off
            first = first.replace(
                found.status, self._paint(GREEN if good else RED, found.status), 1
            )
        errors = (
            f"errors/s  4xx {number(found.client_errors)}  5xx {number(found.server_errors)}  "
            f"aborted {number(found.aborted)}  no tunnel {number(found.unrouted)}"
        )
        is_bad = found.server_errors or found.aborted
        return [
            first,
            f"requests/s {number(found.requests)}  open {found.open}  "
            f"in {bytes_text(found.bytes_in)}  out {bytes_text(found.bytes_out)}"[:width],
            f"latency  p50 {latency[0]}  p90 {latency[1]}  p99 {latency[2]}"[:width],
            self._paint(YELLOW, errors[:width]) if is_bad else errors[:width],
            *self._workers(found, width),
        ]

    def _workers(self, found: Rates, width: int) -> list[str]:
        cells = []
        for each in found.workers:
            full = min(BAR, round(each.cpu * BAR))
            bar = "#" * full + "." * (BAR - full)
            cell = f"w{each.worker} [{bar}] {each.cpu:>4.0%} {number(each.requests)}/s"
            cells.append(f"{cell:<{BAR_COLUMN}}")
        a_line = max(1, width // (BAR_COLUMN + 1))
        return [
            " ".join(cells[start : start + a_line])[:width].rstrip()
            for start in range(0, len(cells), a_line)
        ]

    def _tunnels(self, tunnels: list[TunnelRates]) -> list[list[str]]:
        rows = [["TUNNEL", "DEVICE", "REQ/S", "IN", "OUT", "OPEN", "P50", "P99", "4XX/S", "5XX/S",
                 "ABORT/S"]]  # fmt: skip
        for each in sorted(tunnels, key=lambda each: (SORTS[self.sort][1](each), each.name)):
            latency = times(each.latency_ms)
            rows.append([
                escape(each.name), escape(each.device or "(offline)"), number(each.requests),
                bytes_text(each.bytes_in), bytes_text(each.bytes_out), str(each.open),
                latency[0], latency[2], number(each.client_errors), number(each.server_errors),
                number(each.aborted),
            ])  # fmt: skip
        return rows

    def _devices(self, devices: list[DeviceRates]) -> list[list[str]]:
        head = ["DEVICE", "UP", "LINKS", "TUNNELS", "REQ/S", "IN", "OUT", "OPEN"]
        return [head] + [
            [
                escape(each.name), duration_text(each.up_s), str(each.links), str(each.tunnels),
                number(each.requests), bytes_text(each.bytes_in), bytes_text(each.bytes_out),
                str(each.open),
            ]
            for each in sorted(devices, key=lambda each: (SORTS[self.sort][1](each), each.name))
        ]  # fmt: skip

    def _table(self, rows: Sequence[Sequence[str]], room: int, width: int) -> list[str]:
        rows = rows[: room + 1]
        widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
        widths[0] = min(widths[0], 32)
        shown = []
        for row in rows:
            cells = [f"{row[0][:32]:<{widths[0]}}"]
            cells += [
                f"{cell:<{size}}" if index == 0 and rows[0][1] == "DEVICE" else f"{cell:>{size}}"
                for index, (cell, size) in enumerate(zip(row[1:], widths[1:], strict=True))
            ]
            shown.append("  ".join(cells)[:width].rstrip())
        title = f"{shown[0]:<{width}}" if self._colour else shown[0]
        return [self._paint(REVERSE, title), *shown[1:]]
