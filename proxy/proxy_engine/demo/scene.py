"""Everything in one process and one event loop: service, server, agent, visitor."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import tempfile
from pathlib import Path

from proxy_engine.agent.composed import ComposedAgent
from proxy_engine.app import Server
from proxy_engine.cli import output
from proxy_engine.cli.signals import Signals
from proxy_engine.control import PublicTunnel
from proxy_engine.demo import checks, service
from proxy_engine.errors import EXIT_FAILURE, EXIT_OK, ProxyEngineError
from proxy_engine.settings.config import Settings
from proxy_engine.text import duration_text
from proxy_engine.values import Address, HttpTarget, Listen

CONNECT_TIMEOUT = 10.0  # seconds
TUNNEL = "web"
ANYWHERE = Address("127.0.0.1", 0)


async def play(*, stay: bool) -> int:
    """Set the scene, check it, and stay until Ctrl-C if somebody is watching."""
    signals = Signals()
    async with contextlib.AsyncExitStack() as scene:
        folder = scene.enter_context(tempfile.TemporaryDirectory(prefix="proxy-engine-demo-"))
        web, port = await service.start()
        scene.push_async_callback(web.cleanup)
        settings = Settings(listen=(Listen(ANYWHERE),), admin=ANYWHERE, data_dir=Path(folder))
        server = await scene.enter_async_context(Server(settings))
        assert server.first_run is not None
        public = await _connect(scene, server, server.first_run.device_token, port)
        results = await checks.run_checks(
            f"http://{server.address}", f"{TUNNEL}.{settings.domain}:{server.address.port}"
        )
        output.table(
            ("check", "result", "time", "what came back"),
            [
                (item.name, "ok" if item.passed else "FAILED", duration_text(item.seconds),
                 item.text)
                for item in results
            ],
        )  # fmt: skip
        passed = all(item.passed for item in results)
        _show(server, public, server.first_run.admin_token)
        if stay and passed and sys.stdout.isatty():
            print("Ctrl-C ends it.", flush=True)
            await signals.first()
        return EXIT_OK if passed else EXIT_FAILURE


async def _connect(
    scene: contextlib.AsyncExitStack, server: Server, token: str, port: int
) -> list[PublicTunnel]:
    """Start an agent whose tunnel leads to 127.0.0.1:port; its public tunnels."""
    registered: asyncio.Future[list[PublicTunnel]] = asyncio.get_running_loop().create_future()

    def announce(public: list[PublicTunnel]) -> None:
        if not registered.done():
            registered.set_result(public)

    settings = Settings(
        server=(f"http://{server.address}",),
        token=token,
        http={TUNNEL: HttpTarget(Address("127.0.0.1", port))},
    )
    agent = ComposedAgent(settings, announce=announce)
    scene.push_async_callback(agent.close)
    agent.start()
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT):
            return await registered
    except TimeoutError:
        raise ProxyEngineError(
            "; ".join(map(str, agent.agent.failure)) or "the agent could not connect to the server"
        ) from None


def _show(server: Server, public: list[PublicTunnel], admin_token: str) -> None:
    tunnel = public[0]
    name = f"{TUNNEL}.{server.settings.domain}:{server.address.port}"
    output.box(
        "try it",
        [f"In a browser:  {tunnel.url}", f"Admin API:     http://{server.admin}/api/v1/requests"],
        [
            f"curl -H 'Host: {name}' http://{server.address}/",
            f"curl -H 'Authorization: Bearer {admin_token}' http://{server.admin}/api/v1/requests",
        ],
    )
