"""`scripts/bench`: measure, hold, report. `python -m benchmarks --help` in a tree that is built."""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import gate, micro_run
from benchmarks.load import run as load_run
from benchmarks.load.stage import Options
from benchmarks.load.table import tables
from benchmarks.parts import peers, results
from benchmarks.parts.processes import BenchmarkError
from benchmarks.report import write
from benchmarks.scenarios import BY_NAME, LOAD, PEER_SCENARIOS, Program, Scenario

EXIT_FAILED = 1
RAW = "median [least-most] of rounds; raw samples"
PEERS_BY, LOAD_BY = 4.0, 15.0  # minutes of `all --quick` by when nothing more is begun
PACES = {"smoke": (1, 1.0, 0.02), "quick": (3, 2.0, 0.25), "full": (7, 4.0, 1.0)}


def say(line: str) -> None:
    print(f"{datetime.now():%H:%M:%S} {line}", file=sys.stderr, flush=True)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    verbs.add_parser("micro", help="parsers, rings, codecs and instructions a request, a minute")
    load = verbs.add_parser("load", help="real processes under load, beside references")
    peer = verbs.add_parser("peers", help="other people's tunnels in the same run")
    peer.add_argument("--install", action="store_true", help="from their registries, first")
    whole = verbs.add_parser("all", help="micro, load, peers and report: one command, unattended")
    report = verbs.add_parser("report", help="write docs/performance.md from results")
    holds = verbs.add_parser("gate", help="hold the targets of benchmarks/targets.toml")
    for verb in (load, peer, whole):
        pace = verb.add_mutually_exclusive_group()
        pace.add_argument("--quick", action="store_true", help="a quarter of an hour [default]")
        pace.add_argument("--full", action="store_true", help="every scenario, two hours")
        pace.add_argument("--smoke", action="store_true", help="does it still run? no figures")
        verb.add_argument("--resume", action="store_true",
                          help="go on with the newest result of this commit and pace")  # fmt: skip
        verb.add_argument("--congestion", metavar="NAME",
                          help="the system's congestion control meanwhile (root)")  # fmt: skip
    for verb in (load, peer):
        verb.add_argument("--only", metavar="A,B", help="scenarios; `load --list` names them")
        verb.add_argument("--subjects", metavar="A,B", help="only these of each scenario")
        verb.add_argument("--rounds", type=int)
        verb.add_argument("--seconds", type=float, help="of a sample")
        verb.add_argument("--out", type=Path, help="the result [benchmarks/results/local/...]")
    load.add_argument("--list", action="store_true", help="the scenarios, and end")
    load.add_argument("--against", metavar="DIR", help="another checkout, built: before and after")
    load.add_argument("--floor", metavar="FILE", help="C source of the floor program")
    holds.add_argument("--seconds", type=float, default=420.0, help="retries end by then [420]")
    holds.add_argument("--only", metavar="A,B", help="targets whose names begin so")
    holds.add_argument("--root", metavar="DIR", type=Path, help="another tree's engine, built")
    holds.add_argument("--record", action="store_true", help="write benchmarks/baseline.json")
    report.add_argument("results", nargs="*", type=Path, help="[the newest of each verb]")
    report.add_argument("--out", type=Path, help="[docs/performance.md]")
    whole.add_argument("--out", type=Path, help="of the report [docs/performance.md]")
    return top


def chosen_scenarios(
    names: str | None, table: Sequence[Scenario | Program], is_full: bool
) -> list[Scenario | Program]:
    """Raises: BenchmarkError for a name that is none."""
    if names is None:
        return [each for each in table if is_full or each.in_quick]
    unknown = [name for name in names.split(",") if name not in BY_NAME]
    if unknown:
        raise BenchmarkError(f"no scenario {', '.join(unknown)}: scripts/bench load --list")
    return [BY_NAME[name] for name in names.split(",")]


def head(verb: str, pace: str) -> dict[str, Any]:
    started = datetime.now(UTC).isoformat(timespec="seconds")
    return {
        "verb": verb,
        "pace": pace,
        "started": started,
        "machine": results.machine(),
        "versions": results.versions(),
    }


def result_path(verb: str) -> Path:
    return results.RESULTS / f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{verb}-{results.commit()}.json"


def pace_of(chosen: argparse.Namespace) -> str:
    return "full" if chosen.full else "smoke" if chosen.smoke else "quick"


def load(chosen: argparse.Namespace, verb: str, deadline: float = float("inf")) -> int:
    pace = pace_of(chosen)
    rounds, seconds, scale = PACES[pace]
    table: Sequence[Scenario | Program] = LOAD if verb == "load" else PEER_SCENARIOS
    scenarios = chosen_scenarios(getattr(chosen, "only", None), table, pace == "full")
    if getattr(chosen, "list", False):
        for each in LOAD:
            marks = "quick" if each.in_quick else "full"
            print(f"{each.name:20}{marks:8}{each.what}")
        return 0
    if getattr(chosen, "install", False):
        peers.install(say)
    options = Options(
        rounds=getattr(chosen, "rounds", None) or rounds,
        seconds=getattr(chosen, "seconds", None) or seconds,
        scale=scale,
        floor=getattr(chosen, "floor", None),
        against=getattr(chosen, "against", None),
        congestion=chosen.congestion,
        say=say,
    )
    subjects = getattr(chosen, "subjects", None)
    path = getattr(chosen, "out", None) or result_path(verb)
    result, outcome, before = head(verb, pace), load_run.Outcome(), 0
    if chosen.resume and (found := results.newest(verb, pace)) is not None:
        path = found
        result, outcome.samples = results.read(path)
        before = result["took_seconds"]
        # What failed or came too late is tried again; subjects that are not there stay away.
        outcome.skipped = {k: v for k, v in result["skipped"].items() if ": " in k}
        say(f"going on with {path}")
    started = time.monotonic()
    result["settings"] = {
        "rounds": options.rounds, "seconds": options.seconds, "scale": scale,
        "congestion": options.congestion,
    }  # fmt: skip

    def keep(*, is_complete: bool = False) -> None:
        """After every scenario: whoever is interrupted loses the one that runs."""
        result.update(
            took_seconds=round(before + time.monotonic() - started),
            complete=is_complete,
            skipped=outcome.skipped,
            failed=outcome.failed,
        )
        if pace != "smoke" and outcome.samples:
            results.write(path, result, outcome.samples)

    outcome.keep = keep
    try:
        load_run.run(
            scenarios, options, subjects=subjects.split(",") if subjects else None,
            is_quick=pace != "full", deadline=deadline, outcome=outcome,
        )  # fmt: skip
    except KeyboardInterrupt:
        raise BenchmarkError(
            f"interrupted; {len({each.scenario for each in outcome.samples})} scenarios are in"
            f" {path}: --resume goes on"
            if path.exists()
            else "interrupted: nothing was measured yet"
        ) from None
    keep(is_complete=True)
    if outcome.samples:
        print(tables(outcome.samples))
    for name, why in outcome.skipped.items():
        print(f"skipped: {name}: {why}")
    for name, why in outcome.failed.items():
        print(f"FAILED: {name}: {why}", file=sys.stderr)
    if path.exists():
        print(f"\n{RAW}: {path}")
    return EXIT_FAILED if outcome.failed else 0


def micro() -> int:
    result = head("micro", "full")
    started = time.monotonic()
    code, samples = micro_run.run(say)
    samples += micro_run.counts(say)
    result |= {"took_seconds": round(time.monotonic() - started)}
    if samples:
        print(tables(samples))
        path = result_path("micro")
        results.write(path, result, samples)
        print(f"\n{RAW}: {path}")
    return code


def everything(chosen: argparse.Namespace) -> int:
    """A quick run takes a quarter of an hour: what would begin later is skipped, and named."""
    started = time.monotonic()

    def by(minutes: float) -> float:
        return float("inf") if chosen.full else started + minutes * 60

    out, chosen.out = chosen.out, None
    codes = [micro() if not chosen.smoke else 0]
    codes += [load(chosen, "peers", by(PEERS_BY)), load(chosen, "load", by(LOAD_BY))]
    if not chosen.smoke:
        codes.append(write.main([], out))
    return max(codes)


def main() -> int:
    chosen = parser().parse_args()
    # Clients, proxies and origins inherit it: thousands of connections want as many descriptors.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        match chosen.verb:
            case "load" | "peers":
                return load(chosen, chosen.verb)
            case "micro":
                return micro()
            case "all":
                return everything(chosen)
            case "gate":
                return gate.main(chosen, say)
            case _:
                return write.main(chosen.results, chosen.out)
    except BenchmarkError as error:
        print(f"failed: {error}", file=sys.stderr)
        return EXIT_FAILED
    except BrokenPipeError:  # `| head`
        return 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_FAILED


if __name__ == "__main__":
    sys.exit(main())
