"""Where every thread of this process is now."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, Annotated

import msgspec

from proxy_engine.diagnosis.cpu import cpu_ns, python_stack

if TYPE_CHECKING:
    from proxy_engine.diagnosis.watch import Watch


class Stack(msgspec.Struct, kw_only=True):
    """Of one thread."""

    name: Annotated[str, msgspec.Meta(description="`engine-N` is a worker")]
    is_native: bool
    cpu_us: Annotated[int | None, msgspec.Meta(description="used so far; null: not known")]
    stack: Annotated[list[str], msgspec.Meta(description="the outermost first; []: no answer")]


def all_stacks(watch: Watch, workers: int) -> list[Stack]:
    """Takes milliseconds: not on the loop."""
    found = []
    for index in range(workers):
        name = f"engine-{index}"
        found.append(Stack(name=name, is_native=True, cpu_us=None, stack=watch.stack(name)))
    frames = sys._current_frames()
    for thread in threading.enumerate():
        frame = frames.get(thread.ident or 0)
        used = cpu_ns(thread.native_id) // 1000 if thread.native_id else None
        found.append(
            Stack(name=thread.name, is_native=False, cpu_us=used, stack=python_stack(frame))
        )
    return found
