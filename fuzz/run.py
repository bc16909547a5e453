"""Run a fuzz target: `python fuzz/run.py websocket --seconds 5`.

A target is a module `fuzz_<target>` beside this file with

    def one_input(data: bytes) -> None      raises, or kills the process, on a bug
    SEEDS: list[bytes]                      optional: inputs to start from
    DICTIONARY: list[bytes]                 optional: words worth inserting

With `atheris` installed, libFuzzer drives it; it sees the coverage of the target's
Python, not of the engine. Without, or with --no-atheris, a seeded mutational loop
does: no feedback, but it runs anywhere and one seed always gives the same inputs.
The loop runs in a forked child that leaves each input in shared memory first, so an
input that aborts, segfaults or hangs is reported too.

Exit status: 0 nothing found, 1 a failing input (seed and hex are printed), 2 usage.
`--replay HEX` runs one input again.
"""

from __future__ import annotations

import argparse
import importlib
import mmap
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent
INPUT_SIZE_MAX = 4096  # bytes; longer inputs only make each try slower
POOL_SIZE_MAX = 512  # inputs to mutate from; older ones are replaced at random
HANG_SECONDS = 20  # one input may take this long, sanitizers included
SLOT_HEADER = 16  # bytes: runs so far, then the size of the current input

INTERESTING = [b"\x00", b"\x01", b"\x7d", b"\x7e", b"\x7f", b"\x80", b"\xff"]
INTERESTING += [b"\x00" * 4, b"\x7f\xff\xff\xff", b"\xff" * 4, b"\xff" * 8]


class Mutator:
    """Makes inputs from a pool of earlier ones. All chance comes from one seed."""

    def __init__(self, seed: int, seeds: list[bytes], dictionary: list[bytes]) -> None:
        self.random = random.Random(seed)
        self.pool = [seed[:INPUT_SIZE_MAX] for seed in seeds] or [b""]
        self.words = dictionary + INTERESTING

    def next(self) -> bytes:
        data = bytearray(self.random.choice(self.pool))
        for _ in range(self.random.choice((1, 1, 2, 3, 5, 8))):
            self.mutate(data)
        del data[INPUT_SIZE_MAX:]
        made = bytes(data)
        # A walk away from the seeds: now and then a mutant becomes a start itself.
        if self.random.random() < 0.02:
            if len(self.pool) < POOL_SIZE_MAX:
                self.pool.append(made)
            else:
                self.pool[self.random.randrange(POOL_SIZE_MAX)] = made
        return made

    def mutate(self, data: bytearray) -> None:
        pick = self.random
        at = pick.randint(0, len(data))
        to = min(len(data), at + pick.choice((1, 2, 4, 8, 32, 128)))
        kind = pick.randrange(8)
        if kind == 0 and at < to:
            data[at] ^= 1 << pick.randrange(8)
        elif kind == 1 and at < to:
            data[at] = pick.randrange(256)
        elif kind == 2:
            del data[at:to]
        elif kind == 3:
            data[at:at] = data[at:to]
        elif kind == 4:
            data[at:at] = pick.choice(self.words)
        elif kind == 5:
            word = pick.choice(self.words)
            data[at : at + len(word)] = word
        elif kind == 6:
            data[at:at] = pick.randbytes(pick.randint(1, 16))
        else:
            other = pick.choice(self.pool)
            data[at:] = other[pick.randint(0, len(other)) :]


class Slot:
    """The current input, in memory that outlives the process that runs it."""

    def __init__(self) -> None:
        self.memory = mmap.mmap(-1, SLOT_HEADER + INPUT_SIZE_MAX)

    def write(self, runs: int, data: bytes) -> None:
        header = runs.to_bytes(8, "little") + len(data).to_bytes(8, "little")
        self.memory[: SLOT_HEADER + len(data)] = header + data

    def read(self) -> tuple[int, bytes]:
        runs = int.from_bytes(self.memory[:8], "little")
        size = int.from_bytes(self.memory[8:16], "little")
        return runs, self.memory[SLOT_HEADER : SLOT_HEADER + size]


def run_inputs(
    one_input: Callable[[bytes], None], mutator: Mutator, slot: Slot, seconds: float
) -> int:
    """The child's work: the seeds as they are, then mutants until the time is over."""
    deadline = time.monotonic() + seconds
    waiting = list(reversed(mutator.pool))
    runs = 0
    while waiting or time.monotonic() < deadline:
        data = waiting.pop() if waiting else mutator.next()
        runs += 1
        slot.write(runs, data)
        try:
            one_input(data)
        except Exception:  # whatever it is, it is the finding
            traceback.print_exc()
            return 1
    return 0


def wait_for(child: int, slot: Slot) -> str:
    """Why the child failed; "" if it did not."""
    seen, since = -1, time.monotonic()
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            break
        runs, _ = slot.read()
        if runs != seen:
            seen, since = runs, time.monotonic()
        elif time.monotonic() - since > HANG_SECONDS:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return f"hung for {HANG_SECONDS} s"
        time.sleep(0.02)
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"exit status {code}" if code else ""


def fuzz(target: ModuleType, seconds: float, seed: int) -> int:
    mutator = Mutator(seed, getattr(target, "SEEDS", []), getattr(target, "DICTIONARY", []))
    slot = Slot()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        # os._exit: the child must not run the parent's exit handlers.
        status = 1
        try:
            status = run_inputs(target.one_input, mutator, slot, seconds)
        finally:
            sys.stderr.flush()
            os._exit(status)
    failure = wait_for(child, slot)
    runs, data = slot.read()
    if failure:
        print(f"FAILED {target.__name__}: {failure} after {runs} inputs, seed {seed}")
        print(f"input {data.hex() or '(empty)'}")
        return 1
    print(f"ok {target.__name__}: {runs} inputs in {seconds:g} s, seed {seed}")
    return 0


def fuzz_with_atheris(atheris: ModuleType, name: str, seconds: float, seed: int) -> None:
    """Hand over to libFuzzer, which never returns and prints its own findings."""
    with atheris.instrument_imports(include=[name]):
        target = importlib.import_module(name)
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-"))
    corpus = folder / "corpus"
    corpus.mkdir()
    for index, data in enumerate(getattr(target, "SEEDS", [])):
        (corpus / f"{index:03}").write_bytes(data)
    words = getattr(target, "DICTIONARY", [])
    escaped = ("".join(f"\\x{byte:02x}" for byte in word) for word in words if word)
    (folder / "dictionary").write_text("".join(f'"{word}"\n' for word in escaped))
    arguments = [
        sys.argv[0],
        f"-max_total_time={max(1, round(seconds))}",
        f"-seed={seed & 0x7FFFFFFF or 1}",
        f"-max_len={INPUT_SIZE_MAX}",
        f"-timeout={HANG_SECONDS}",
        f"-artifact_prefix={folder}/",
        f"-dict={folder / 'dictionary'}",
        # Coverage sees the target's Python and not the engine, so it would take a
        # short input for as good as a long one, and throw the seeds away.
        "-len_control=0",
        "-reduce_inputs=0",
        "-keep_seed=1",
        str(corpus),
    ]
    atheris.Setup(arguments, target.one_input)
    atheris.Fuzz()


def main() -> int:
    parser = argparse.ArgumentParser(description="Run one fuzz target.")
    parser.add_argument("target", help="NAME of a fuzz_NAME.py beside this file")
    parser.add_argument("--seconds", type=float, default=10, help="how long (default 10)")
    parser.add_argument("--seed", type=int, help="repeat a run (default: a new one)")
    parser.add_argument("--replay", metavar="HEX", help="run this one input and stop")
    parser.add_argument("--no-atheris", action="store_true", help="use the built-in loop")
    arguments = parser.parse_args()
    if not (Path(__file__).parent / f"fuzz_{arguments.target}.py").exists():
        parser.error(f"there is no fuzz_{arguments.target}.py")
    sys.path[:0] = [str(ROOT / "engine"), str(ROOT / "proxy")]
    name = f"fuzz_{arguments.target}"
    seed = arguments.seed if arguments.seed is not None else random.SystemRandom().getrandbits(32)
    if arguments.replay is not None:
        importlib.import_module(name).one_input(bytes.fromhex(arguments.replay))
        return 0
    if not arguments.no_atheris:
        try:
            atheris = importlib.import_module("atheris")
        except ImportError:
            pass
        else:
            fuzz_with_atheris(atheris, name, arguments.seconds, seed)
    return fuzz(importlib.import_module(name), arguments.seconds, seed)


if __name__ == "__main__":
    sys.exit(main())
