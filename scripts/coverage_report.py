"""What gcov counted in build/coverage, per .pyx and .pxd file: `scripts/coverage` runs it."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

PACKAGE = "proxy_engine_core/"
# Lines of gcov's that are none of ours: declarations Cython puts module start-up code on.
NOT_CODE = ("cdef extern", "cimport ", "from ", "import ", "cdef struct", "cdef enum", "ctypedef")


def counts_of(notes: list[Path]) -> dict[str, dict[int, int]]:
    """Source -> line -> how often it ran. Inline functions of a .pxd run in many objects."""
    counts: dict[str, dict[int, int]] = defaultdict(dict)
    for note in notes:
        done = subprocess.run(
            ["gcov", "--json-format", "--stdout", str(note)],
            capture_output=True, check=True, cwd=note.parent,
        )  # fmt: skip
        for line in done.stdout.splitlines():
            if not line.strip():
                continue
            for entry in json.loads(line)["files"]:
                name = entry["file"]
                if not name.endswith((".pyx", ".pxd", ".pxi", ".h")) or PACKAGE not in name:
                    continue
                name = PACKAGE + name.rpartition(PACKAGE)[2]
                if "/_testing/" in name:
                    continue
                for row in entry["lines"]:
                    number = row["line_number"]
                    before = counts[name].get(number, 0)
                    counts[name][number] = max(before, row["count"])
    return counts


def is_ours(text: str) -> bool:
    """Whether this line of a source is code that runs more than once, at import."""
    text = text.strip()
    if not text or text.startswith(("#", *NOT_CODE)):
        return False
    # A function's first line stands for Cython's own wrapper and exception handling.
    return not text.startswith(("cdef ", "def ", "cdef class")) or "=" in text.split("(")[0]


def ranges(numbers: list[int]) -> str:
    parts: list[str] = []
    start = last = -1
    for number in [*numbers, -10]:
        if number != last + 1:
            if start > 0:
                parts.append(str(start) if start == last else f"{start}-{last}")
            start = number
        last = number
    return " ".join(parts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("copy", type=Path)
    parser.add_argument("--minimum", type=float, default=0)
    parser.add_argument("--missing", action="store_true")
    arguments = parser.parse_args()
    counts = counts_of(sorted(arguments.copy.resolve().rglob("*.gcda")))
    total_ran = total = 0
    for name in sorted(counts):
        source = (arguments.copy / "engine" / name).read_text().splitlines()
        lines = {
            number: count
            for number, count in counts[name].items()
            if number <= len(source) and is_ours(source[number - 1])
        }
        if not lines:
            continue
        ran = sum(count > 0 for count in lines.values())
        total_ran += ran
        total += len(lines)
        print(f"{name.removeprefix(PACKAGE):34} {ran:5} of {len(lines):5} {ran / len(lines):7.1%}")
        missing = sorted(number for number, count in lines.items() if count == 0)
        if arguments.missing and missing:
            print("    " + ranges(missing))
    if total == 0:
        print("nothing was counted", file=sys.stderr)
        return 1
    print(f"{'total':34} {total_ran:5} of {total:5} {total_ran / total:7.1%}")
    return 0 if total_ran / total * 100 >= arguments.minimum else 1


if __name__ == "__main__":
    sys.exit(main())
