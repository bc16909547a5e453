"""Hooks of an embedded server, and what an embedded client makes of their refusals."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from proxy_engine import AuthError, Client, RefusedError, Server
from proxy_engine.hooks import (
    DeviceConnect,
    Failure,
    Hook,
    HookError,
    Refuse,
    Request,
    ServerEvent,
    TunnelOpen,
    inline,
)
from tests.library.visitor import TIMEOUT, Echo, Visitor


class Gate(Hook):
    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.told = asyncio.Event()
        self.is_running = False

    async def on_server_start(self, event: ServerEvent) -> None:
        self.is_running = True

    async def on_server_stop(self, event: ServerEvent) -> None:
        self.is_running = False

    @inline
    def on_device_connect(self, event: DeviceConnect) -> None:
        if event.device == "bad":
            raise Refuse("not this one")

    def on_tunnel_open(self, event: TunnelOpen) -> None:
        if event.tunnel == "shop":
            raise Refuse("for sale")
        if event.tunnel == "full":
            raise Refuse("full", retry_after=60)

    async def on_request(self, requests: Sequence[Request]) -> None:
        self.requests += requests
        self.told.set()


async def test_a_program_gives_hooks_as_objects_and_by_name() -> None:
    gate = Gate()
    async with Server(workers=1, hooks=[gate, "metrics"]) as server, Echo() as target:
        assert gate.is_running
        assert server.counters()["hooks"] == 3  # and that of webhook_url
        token = await server.create_token("pi")
        async with Client(server.url, token=token) as client, Visitor(server.http_port) as visitor:
            await client.http("web", target)
            assert (await visitor.ask("web")).status == 200
            async with asyncio.timeout(TIMEOUT):
                await gate.told.wait()
            assert [request.tunnel for request in gate.requests] == ["web"]
            for name, reason, message, retryable in (
                ("shop", "hook_refused", 'tunnel "shop" refused: for sale (hook_refused)', False),
                ("full", "hook_later", 'tunnel "full" refused: full (hook_later)', True),
            ):
                with pytest.raises(RefusedError) as refused:
                    await client.http(name, target)
                error = refused.value
                assert (str(error), error.reason, error.retryable) == (message, reason, retryable)
            assert (await visitor.ask("web")).status == 200
    assert not gate.is_running


async def test_a_client_whose_device_is_refused_raises_the_reason() -> None:
    async with Server(workers=1, hooks=[Gate()]) as server:
        token = await server.create_token("bad")
        with pytest.raises(AuthError) as caught:
            async with Client(server.url, token=token):
                pass
    assert caught.value.reason == "hook_refused"
    assert str(caught.value) == "the server refused this device: not this one (403)"


async def test_a_hook_that_can_not_start_ends_the_start_of_the_server() -> None:
    class Broken(Hook):
        async def on_server_start(self, event: ServerEvent) -> None:
            raise OSError("no database")

    with pytest.raises(HookError, match=r"^Broken.on_server_start: OSError: no database$"):
        async with Server(workers=1, hooks=[Broken()]):
            pass


class Failures(Hook):
    def __init__(self) -> None:
        self.told: list[Failure] = []

    @inline
    def on_error(self, failure: Failure) -> None:
        self.told.append(failure)


async def test_each_server_of_a_process_hears_what_fails_in_it() -> None:
    busy = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    port = busy.sockets[0].getsockname()[1]
    first, second = Failures(), Failures()
    async with (
        Server(workers=1, hooks=[first], tcp_ports=f"{port}-{port}") as server,
        Server(workers=1, hooks=[second]),
        Client(server.url, token=await server.create_token("pi"), timeout=TIMEOUT) as client,
    ):
        with pytest.raises(RefusedError) as caught:
            await client.tcp("db", "127.0.0.1:1", port=port)
        assert caught.value.reason == "port_taken"
    busy.close()
    [failure] = first.told
    assert (failure.source, failure.where) == ("listener", "port")
    assert (failure.message, failure.fields) == ("port not opened", {"kind": "tcp", "port": port})
    assert second.told == []
