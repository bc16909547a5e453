"""reference/hooks: every event with its fields, every built-in hook with its options, from the
code."""

from __future__ import annotations

from docs.site.markdown import code, sentence, table
from proxy_engine.failures import KINDS
from proxy_engine.hooks import loading, reference
from proxy_engine.hooks.manager import overridden

ABOUT = """\
# Events and options of hooks

Made of the code; `proxy-engine hook events` and `proxy-engine hook available` say the same. How
hooks are written, loaded and called: [Hooks](../hooks.md).

"""
STRATEGIES = {
    "awaited": "The server waits for it; an error at the start ends the start.",
    "asked": "Asked: in order, and the first that raises `Refuse` ends it.",
    "told": "Told: nobody waits for it, errors are collected.",
}


def page() -> str:
    parts = [ABOUT, "## Events\n\n"]
    for event in reference.events():
        shown = f"Sequence[{event.payload}]" if event.is_batch else event.payload
        parts.append(
            f"### {event.name}\n\n{sentence(event.text)}\n\n"
            f"- {STRATEGIES[event.strategy]}\n"
            f"- With {code(shown)}: {sentence(event.payload_text)}\n\n"
        )
        rows = [(code(x.name), code(x.type), x.text) for x in event.fields]
        parts.append(table(("field", "type", ""), rows))
    parts.append("## What `on_error` is told\n\n")
    rows = [(code(source), code(where), text) for (source, where), text in KINDS.items()]
    parts.append(table(("source", "where", ""), rows))
    parts.append("## Options of every hook\n\n")
    parts.append(_options(reference.general_options()))
    parts.append("## Built-in hooks\n\n")
    for name in sorted(loading.BUILT_IN):
        kind = loading.class_of(name)
        events = ", ".join(map(code, overridden(kind, name)))
        parts.append(f"### {name}\n\n{sentence(reference.about(kind))}\n\nEvents: {events}.\n\n")
        own = reference.options(kind)
        parts.append(_options(own) if own else "It has no options of its own.\n\n")
    return "".join(parts)


def _options(options: list[reference.Option]) -> str:
    rows = [
        (code(x.name), code(x.type), code(x.default) if x.default else "has to be given", x.text)
        for x in options
    ]
    return table(("option", "type", "default", ""), rows)
