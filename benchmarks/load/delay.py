"""A download over a long line: 50 ms each way between agent and server, by the fault proxy.

    python benchmarks/load/delay.py [--size MIB] [--rounds N]

What counts is how soon the stream's window has grown to what the line holds: a fixed window of
256 KiB would pass 2.6 MB/s. `direct` is the same download through the same fault proxy without
us, which says what the fault proxy, a Python program, lets through at most.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

# Run as a file, this folder is on the path and the root is not.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.parts.client import Endpoint, download
from benchmarks.parts.ours import ProxyEngine
from benchmarks.parts.processes import BenchmarkError
from benchmarks.parts.results import emit
from benchmarks.parts.rounds import interleaved
from benchmarks.parts.samples import spread
from benchmarks.parts.subjects import Origin, bulk_path
from tests.e2e.faultproxy import FaultProxy

EXIT_FAILED = 1


class Distant(ProxyEngine):
    """The agent is behind the fault proxy, whose delay is there before the link."""

    line: FaultProxy | None = None
    delay = 0.0

    def link_port(self, port: int) -> int:
        self.line = FaultProxy(port)
        self.line.delay = self.delay
        self.line.__enter__()
        return self.line.port


def main() -> int:
    parser = argparse.ArgumentParser(description="A download over a long line.")
    parser.add_argument("--size", type=int, default=128, help="MiB")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--delay", type=float, default=0.05, help="seconds, each way")
    parser.add_argument("--engine", metavar="NAME=N", action="append", default=[],
                        help="an engine option of server and agent")  # fmt: skip
    parser.add_argument("--json", metavar="FILE", help="add samples to this file")
    chosen = parser.parse_args()
    size = chosen.size << 20
    engine = [word for each in chosen.engine for word in ("--engine", each)]
    subject = Distant("proxy-engine", run=engine, connect=engine)
    lines: list[FaultProxy] = []
    with tempfile.TemporaryDirectory(prefix="proxy-engine-delay-") as name:
        folder = Path(name)
        origin = Origin(folder / "origin", size, [1])
        try:
            direct = FaultProxy(origin.port)
            direct.delay = subject.delay = chosen.delay
            direct.__enter__()
            lines.append(direct)
            running = subject.start(folder / "ours", origin.port)
            assert subject.line is not None
            lines.append(subject.line)
            endpoints = {
                "direct": Endpoint(direct.port, "127.0.0.1"),
                "proxy-engine": running.endpoint,
            }

            def sample(who: str) -> dict[str, float]:
                started = time.monotonic()
                download(endpoints[who], bulk_path(1))
                seconds = time.monotonic() - started
                return {"seconds": seconds, "mb_per_second": size / 1e6 / seconds}

            samples = interleaved(list(endpoints), chosen.rounds, sample)
        except (BenchmarkError, OSError) as error:
            print(f"failed: {error or type(error).__name__}", file=sys.stderr)
            return EXIT_FAILED
        finally:
            for process in (*reversed(subject.started), origin.process):
                process.stop()
            for line in lines:
                line.__exit__(None, None, None)
    for who, rounds in samples.items():
        emit(chosen.json, "delay", who, rounds)
        rate = spread(each["mb_per_second"] for each in rounds)
        print(f"{who:14} {rate.median:.1f} MB/s [{rate.least:.1f}-{rate.most:.1f}]")
    return 0


if __name__ == "__main__":
    sys.exit(main())
