"""What data hooks cost a transfer: bytes through a TCP tunnel, with five hooks and without.

    python -m benchmarks.load.hooks [--megabytes 2000] [--rounds 5]

Hooks only run in Python's threads; the workers that move bytes count them anyway. So the event
loop's CPU time is all there is to see, and it is shown beside that of the workers. Rounds with
and without hooks take turns, so that both see the same machine.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import statistics
import threading
import time
from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.parts.results import emit
from proxy_engine import Client, Server
from proxy_engine.hooks import Hook, TunnelData, inline

BLOCK = bytes(1 << 20)


class Counter(Hook):
    """The cheapest there is that does something."""

    def __init__(self) -> None:
        self.bytes = 0

    @inline
    def on_data(self, data: Sequence[TunnelData]) -> None:
        self.bytes += sum(each.bytes_in + each.bytes_out for each in data)


class Round(NamedTuple):
    loop: float  # CPU seconds of the event loop for a gigabyte
    workers: float  # ... of the server's workers
    told: int  # bytes that the hooks were told of


def _sink(listener: socket.socket, size: int) -> None:
    with listener.accept()[0] as connection:
        buffer, left = bytearray(1 << 20), size
        while left > 0:
            left -= connection.recv_into(buffer)
        connection.sendall(b".")


def _send(port: int, megabytes: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        for _ in range(megabytes):
            connection.sendall(BLOCK)
        assert connection.recv(1) == b"."


async def transfer(megabytes: int, hooks: Sequence[Counter]) -> Round:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sink = threading.Thread(target=_sink, args=(listener, megabytes << 20), daemon=True)
        sink.start()
        target = f"127.0.0.1:{listener.getsockname()[1]}"
        async with Server(workers=1, hooks=hooks, hook_interval=1) as server:
            token = await server.create_token("pi")
            async with Client(server.url, token=token) as client:
                tunnel = await client.tcp("bulk", target)
                assert tunnel.port is not None
                loop, workers = time.thread_time(), server.counters()["cpu_us"]
                await asyncio.to_thread(_send, tunnel.port, megabytes)
                loop = time.thread_time() - loop
                workers = server.counters()["cpu_us"] - workers
    sink.join()
    gigabytes = (megabytes << 20) / 1e9
    told = hooks[0].bytes if hooks else 0
    return Round(loop / gigabytes, workers / 1e6 / gigabytes, told)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", metavar="FILE", help="add samples to this file")
    args = parser.parse_args()
    found: dict[int, list[Round]] = {0: [], 5: []}
    for _ in range(args.rounds):
        for count, rounds in found.items():
            hooks = [Counter() for _ in range(count)]
            rounds.append(asyncio.run(transfer(args.megabytes, hooks)))
            assert not hooks or rounds[-1].told >= args.megabytes << 20
    for count, rounds in found.items():
        figures = [{"loop_s_a_gb": e.loop, "workers_s_a_gb": e.workers} for e in rounds]
        emit(args.json, "hooks", f"{count} hooks", figures)
        loop = statistics.median(each.loop for each in rounds)
        workers = statistics.median(each.workers for each in rounds)
        print(
            f"{count} hooks: event loop {loop * 1e3:.2f} ms/GB, workers {workers * 1e3:.0f} ms/GB"
        )
    without, with_hooks = (statistics.median(each.loop for each in found[n]) for n in (0, 5))
    workers = statistics.median(each.workers for each in found[0])
    share = (with_hooks - without) / workers
    print(f"five data hooks: {100 * share:+.2f} % of the workers' CPU")
    emit(args.json, "hooks", "what five hooks add", [{"share_of_workers": share}])


if __name__ == "__main__":
    main()
