"""Pieces of Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def code(text: object) -> str:
    return f"`{text}`"


def cell(text: str) -> str:
    """Of a table: a bar would begin the next one."""
    return " ".join(text.split()).replace("|", "\\|")


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join("| " + " | ".join(map(cell, line)) + " |\n" for line in lines) + "\n"


def sentence(text: str) -> str:
    """With a capital letter and a full stop."""
    text = text.strip()
    if not text:
        return ""
    if not text.startswith(("`", "[", "https")):
        text = text[0].upper() + text[1:]
    return text if text.endswith((".", "?", ":")) else text + "."
