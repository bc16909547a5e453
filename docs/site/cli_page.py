"""reference/cli: every verb, argument and flag, from the parser that the program itself uses."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator

from docs.site.markdown import code, sentence, table
from proxy_engine.cli import build_parser

ABOUT = """\
# Command line

Made of the program's own parser: `proxy-engine VERB --help` says the same. Exit codes: 0 done,
1 failed, 2 the command line or a setting is wrong, 130 interrupted. What
stands in brackets is the default.

"""


def verbs_of(
    parser: argparse.ArgumentParser, words: str = ""
) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Every parser that takes arguments, with the words that lead to it; aliases once."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            seen = set()
            for name, inner in action.choices.items():
                if id(inner) not in seen:
                    seen.add(id(inner))
                    yield from verbs_of(inner, f"{words} {name}".strip())
            return
    yield words, parser


def help_of(parser: argparse.ArgumentParser) -> dict[str, str]:
    """What the parser above says of each verb."""
    found: dict[str, str] = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found = {choice.dest: choice.help or "" for choice in action._choices_actions}
    return found


def arguments(parser: argparse.ArgumentParser) -> list[tuple[str, str]]:
    """Each argument as it is written, and what it is for."""
    rows = []
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction) or action.help == argparse.SUPPRESS:
            continue
        name = _name(action)
        text = (action.help or "").replace("%%", "%")
        if action.choices and not action.metavar:
            text += f" ({', '.join(map(str, action.choices))})"
        rows.append((name, text))
    return rows


def _name(action: argparse.Action) -> str:
    metavar = action.metavar or action.dest.upper()
    shown = " ".join(metavar) if isinstance(metavar, tuple) else str(metavar)
    if not action.option_strings:
        return shown
    if action.nargs == 0 or isinstance(action, argparse.BooleanOptionalAction):
        return ", ".join(action.option_strings)
    if action.choices and not action.metavar:
        shown = "|".join(map(str, action.choices))
    return f"{', '.join(action.option_strings)} {shown}"


def usage(parser: argparse.ArgumentParser) -> str:
    os.environ["COLUMNS"] = "88"  # argparse asks for the terminal's
    return parser.format_usage().removeprefix("usage: ").rstrip()


def _parents(words: str) -> Iterator[str]:
    parts = words.split()
    for length in range(1, len(parts)):
        yield " ".join(parts[:length])


def page() -> str:
    root = build_parser()
    abouts = _abouts(root)
    parts = [ABOUT, f"{root.epilog}\n\n"]
    said: set[str] = set()
    for words, parser in verbs_of(root):
        for parent in _parents(words):
            if parent not in said:
                said.add(parent)
                parts.append(f"## {parent}\n\n{sentence(abouts[parent])}\n\n")
        level = "#" * (1 + len(words.split()))
        about = parser.description or abouts[words]
        parts.append(f"{level} {words}\n\n{sentence(about)}\n\n```\n{usage(parser)}\n```\n\n")
        rows = [(code(name), text) for name, text in arguments(parser)]
        if rows:
            parts.append(table(("argument", "meaning"), rows))
        if parser.epilog:
            parts.append(f"{parser.epilog}\n\n")
    return "".join(parts)


def _abouts(parser: argparse.ArgumentParser, words: str = "") -> dict[str, str]:
    found = {f"{words} {name}".strip(): text for name, text in help_of(parser).items()}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, inner in action.choices.items():
                found |= _abouts(inner, f"{words} {name}".strip())
    return found
