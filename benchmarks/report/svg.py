"""Plots as SVG, by hand: bars with their spread, and lines. Pure; text in, text out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

from benchmarks.parts.samples import Spread

WIDTH, BAR, GAP = 760, 16, 10
LEFT, RIGHT = 170, 180  # room for names, and for figures
OURS_COLOUR, OTHER_COLOUR, SPREAD_COLOUR = "#1f6feb", "#9aa4b2", "#444c56"
COLOURS = (OTHER_COLOUR, OURS_COLOUR, "#d29922", "#8250df", "#2da44e", "#cf222e")
LABEL_ROOM = 40  # between two labels of x
STYLE = "font-family='system-ui,sans-serif' font-size='12' fill='#57606a'"


class Bar(NamedTuple):
    name: str
    spread: Spread
    is_ours: bool


def number(value: float) -> str:
    """Three digits that count."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def _document(width: int, height: int, title: str, parts: Sequence[str]) -> str:
    head = (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' role='img'"
        f" aria-label='{escape(title, quote=True)}' {STYLE}>"
    )
    # A ground of its own: readable on light pages and dark ones.
    ground = f"<rect width='{width}' height='{height}' rx='6' fill='#ffffff'/>"
    name = f"<text x='12' y='20' font-weight='600' fill='#24292f'>{escape(title)}</text>"
    return "\n".join([head, ground, name, *parts, "</svg>"]) + "\n"


def bars(title: str, groups: Mapping[str, Sequence[Bar]], *, is_one_scale: bool = True) -> str:
    """A group of bars under each heading, with least and most of each.

    is_one_scale: of all groups; else the longest of each group has all the room.
    """
    most_of_all = max([bar.spread.most for group in groups.values() for bar in group], default=0)
    parts, y = [], 36
    for heading, group in groups.items():
        longest = most_of_all if is_one_scale else max(bar.spread.most for bar in group)
        scale = (WIDTH - LEFT - RIGHT) / max(longest, 1e-9)
        parts.append(f"<text x='12' y='{y + 12}' fill='#24292f'>{escape(heading)}</text>")
        y += 20
        for bar in group:
            middle = y + BAR / 2
            width = bar.spread.median * scale
            colour = OURS_COLOUR if bar.is_ours else OTHER_COLOUR
            least, most = (LEFT + value * scale for value in bar.spread[1:])
            parts += [
                f"<text x='{LEFT - 8}' y='{y + 12}' text-anchor='end'>{escape(bar.name)}</text>",
                f"<rect x='{LEFT}' y='{y}' width='{width:.1f}' height='{BAR}' fill='{colour}'/>",
                f"<line x1='{least:.1f}' x2='{most:.1f}' y1='{middle}' y2='{middle}'"
                f" stroke='{SPREAD_COLOUR}'/>",
                f"<text x='{max(most, LEFT + width) + 6:.1f}' y='{y + 12}'>"
                f"{number(bar.spread.median)}</text>",
            ]
            y += BAR + 4
        y += GAP
    return _document(WIDTH, y, title, parts)


class Line(NamedTuple):
    name: str
    points: Sequence[tuple[float, float]]
    is_model: bool = False  # of the line before it: dashed, in the same colour


def lines(title: str, x_name: str, series: Sequence[Line]) -> str:
    """x on a logarithmic scale, y from zero; a model is dashed."""
    height, top, bottom, left = 320, 44, 44, 70
    xs = [x for line in series for x, _ in line.points]
    ys = [y for line in series for _, y in line.points]
    low, high = math.log10(min(xs)), math.log10(max(xs))
    most = max([*ys, 1e-9]) * 1.1

    def place(x: float, y: float) -> tuple[float, float]:
        share = (math.log10(x) - low) / (high - low or 1)
        return (
            left + share * (WIDTH - left - RIGHT),
            height - bottom - y / most * (height - top - bottom),
        )

    parts = []
    for step in range(5):
        value = most * step / 4
        _, y = place(min(xs), value)
        parts.append(
            f"<line x1='{left}' x2='{WIDTH - RIGHT}' y1='{y:.1f}' y2='{y:.1f}' stroke='#d0d7de'/>"
            f"<text x='{left - 6}' y='{y + 4:.1f}' text-anchor='end'>{number(value)}</text>"
        )
    last = -math.inf
    for x in sorted(set(xs)):
        at, _ = place(x, 0)
        if at - last < LABEL_ROOM:
            continue
        last = at
        parts.append(
            f"<text x='{at:.1f}' y='{height - bottom + 18}' text-anchor='middle'>{x:,.0f}</text>"
        )
    parts.append(f"<text x='{left}' y='{height - 8}'>{escape(x_name)}</text>")
    measured = 0
    for index, line in enumerate(series):
        measured += not line.is_model
        colour = COLOURS[(measured - 1) % len(COLOURS)]
        dashes = " stroke-dasharray='5 4'" if line.is_model else ""
        places = [place(x, y) for x, y in line.points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(
            f"<polyline points='{path}' fill='none' stroke='{colour}' stroke-width='2'{dashes}/>"
        )
        parts += [
            f"<circle cx='{x:.1f}' cy='{y:.1f}' r='3' fill='{colour}'/>"
            for x, y in places
            if not line.is_model
        ]
        y = top + 18 * index
        parts.append(
            f"<line x1='{WIDTH - RIGHT + 8}' x2='{WIDTH - RIGHT + 28}' y1='{y}' y2='{y}'"
            f" stroke='{colour}' stroke-width='2'{dashes}/>"
            f"<text x='{WIDTH - RIGHT + 34}' y='{y + 4}'>{escape(line.name)}</text>"
        )
    return _document(WIDTH, height, title, parts)
