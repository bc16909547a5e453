"""Tunnels of this process: opened, closed, refused, lost and found again."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from proxy_engine import (
    AuthError,
    Client,
    ClosedError,
    ConnectError,
    NameTakenError,
    ProxyEngineError,
    RefusedError,
    ReplacedError,
    Server,
    TunnelError,
    UsageError,
)
from tests.library.visitor import TIMEOUT, Echo, Visitor


async def test_a_tunnel_opens_serves_and_closes(
    server: Server, token: str, visitor: Visitor
) -> None:
    async with Echo() as target, Client(server.url, token=token) as client:
        assert client.is_connected
        tunnel = await client.http("web", target)
        assert tunnel.url == f"http://web.localhost:{server.http_port}/"
        assert tunnel.urls == [tunnel.url]
        assert (tunnel.kind, tunnel.target, tunnel.port) == ("http", target, None)
        assert tunnel.is_online and not tunnel.is_closed
        assert client.tunnels == {"web": tunnel}
        assert server.tunnels["web"].device == "pi"
        assert server.devices == ["pi"]
        assert (await visitor.ask("web")).body == b"hello"
        await tunnel.close()
        await tunnel.close()
        await tunnel.closed()
        assert tunnel.is_closed and not tunnel.is_online
        assert client.tunnels == {}
        assert (await visitor.ask("web")).status == 503
        assert not server.tunnels["web"].is_online
    with pytest.raises(ClosedError):
        await client.http("web", target)
    await client.closed()
    await client.close()


async def test_tunnels_come_and_go_by_the_dozen(
    server: Server, token: str, visitor: Visitor
) -> None:
    async with Echo() as target, Client(server.url, token=token) as client:
        names = [f"t{number}" for number in range(30)]
        tunnels = await asyncio.gather(*(client.http(name, target) for name in names))
        assert [tunnel.name for tunnel in tunnels] == names
        for name in names:
            assert (await visitor.ask(name)).body == b"hello"
        await asyncio.gather(*(tunnel.close() for tunnel in tunnels[::2]))
        assert sorted(client.tunnels) == sorted(names[1::2])
        for number, name in enumerate(names):
            assert (await visitor.ask(name)).status == (200 if number % 2 else 503)


async def test_tcp_and_udp(server: Server, token: str) -> None:
    async with (
        Echo(is_http=False) as target,
        Client(server.url, token=token) as client,
        await client.tcp("db", target) as tunnel,
    ):
        assert tunnel.port is not None
        assert tunnel.url == f"tcp://localhost:{tunnel.port}"
        reader, writer = await asyncio.open_connection("127.0.0.1", tunnel.port)
        writer.write(b"ping")
        assert await reader.readexactly(4) == b"ping"
        writer.close()
        private = await client.tcp("private", target, port=None)
        assert (private.port, private.url) == (None, "private:pi/private")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as service:
            service.bind(("127.0.0.1", 0))
            service.setblocking(False)
            dns = await client.udp("dns", f"127.0.0.1:{service.getsockname()[1]}")
            assert dns.port is not None
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
                asker.setblocking(False)
                loop = asyncio.get_running_loop()
                await loop.sock_sendto(asker, b"ping", ("127.0.0.1", dns.port))
                async with asyncio.timeout(TIMEOUT):
                    assert await loop.sock_recv(service, 100) == b"ping"


async def test_options_of_a_tunnel(server: Server, token: str, visitor: Visitor) -> None:
    async with Echo() as target, Client(server.url, token=token) as client:
        await client.http("web", target, basic_auth=["me:secret"], strip_prefix="/api")
        assert (await visitor.ask("web", "/api")).status == 401
        login = {"Authorization": "Basic bWU6c2VjcmV0"}
        assert (await visitor.ask("web", "/api", headers=login)).status == 200
        assert (await visitor.ask("web", "/", headers=login)).status == 404


async def test_what_makes_no_sense_is_said_before_anybody_is_asked(
    server: Server, token: str
) -> None:
    with pytest.raises(UsageError, match="which server"):
        Client([], token=token)
    with pytest.raises(UsageError, match="transport"):
        Client(server.url, token=token, transport="smoke")  # type: ignore[arg-type]
    client = Client("ftp://x", token=token)
    with pytest.raises(UsageError, match="not a URL"):
        await client.__aenter__()
    with pytest.raises(UsageError, match="which token"):
        await Client(server.url).__aenter__()
    with pytest.raises(ClosedError, match="not started"):
        await Client(server.url, token=token).http("web", "127.0.0.1:1")
    async with Client(server.url, token=token) as client:
        bad: list[tuple[Any, ...]] = [("Web", "127.0.0.1:1"), ("web", "nowhere"), ("web", 3000)]
        for name, target in bad:
            with pytest.raises(UsageError):
                await client.http(name, target)
        with pytest.raises(UsageError, match="strip_prefix"):
            await client.http("web", "127.0.0.1:1", strip_prefix="api")
        await client.http("web", "127.0.0.1:1")
        with pytest.raises(UsageError, match="already"):
            await client.http("web", "127.0.0.1:1")
        assert list(client.tunnels) == ["web"]
        with pytest.raises(ClosedError):
            await client.__aenter__()


async def test_a_wrong_token_is_their_word(server: Server) -> None:
    with pytest.raises(AuthError) as caught:
        async with Client(server.url, token="pe_" + "x" * 43):
            raise AssertionError
    error = caught.value
    assert (error.reason, error.fault, error.retryable) == ("unknown_token", "theirs", False)


async def test_nobody_there_is_worth_another_try() -> None:
    # Bound, that nobody else is given it, and not listening.
    with socket.socket() as sock, pytest.raises(ConnectError) as caught:
        sock.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{sock.getsockname()[1]}"
        await Client(url, token="pe_x", timeout=2).__aenter__()
    error = caught.value
    assert (error.reason, error.fault, error.retryable) == ("connect", "network", True)
    assert "refused" in str(error)


async def test_a_name_of_another_device_is_taken(server: Server, token: str) -> None:
    other = await server.create_token("other")
    async with Client(server.url, token=token) as client, Client(server.url, token=other) as second:
        await client.http("web", "127.0.0.1:1")
        mine = await second.http("mine", "127.0.0.1:1")
        with pytest.raises(NameTakenError) as caught:
            await second.http("web", "127.0.0.1:1")
        error = caught.value
        assert (error.tunnel, error.reason, error.retryable) == ("web", "tunnel_taken", False)
        assert second.tunnels == {"mine": mine}
        assert mine.is_online
        again = await second.http("also", "127.0.0.1:1")
        assert again.is_online


async def test_a_name_that_the_token_does_not_allow(server: Server) -> None:
    token = await server.create_token("bound", scopes=["tunnel=a-*"])
    async with Client(server.url, token=token) as client:
        with pytest.raises(RefusedError) as caught:
            await client.http("b", "127.0.0.1:1")
        assert caught.value.reason == "tunnel_forbidden"
        assert (await client.http("a-b", "127.0.0.1:1")).is_online


async def test_two_runs_of_one_device_the_second_wins(server: Server, token: str) -> None:
    async with Client(server.url, token=token) as first:
        events = first.events()
        tunnel = await first.http("web", "127.0.0.1:1")
        async with Client(server.url, token=token) as second:
            await second.http("web", "127.0.0.1:1")
            async with asyncio.timeout(TIMEOUT):
                with pytest.raises(ReplacedError):
                    await tunnel.closed()
                with pytest.raises(ReplacedError):
                    await first.closed()
            with pytest.raises(ReplacedError):
                await first.http("more", "127.0.0.1:1")
    kinds = [event.kind async for event in events]
    assert kinds == ["tunnel_opened", "tunnel_closed", "failed"]


async def test_a_revoked_token_ends_a_client(server: Server, token: str) -> None:
    async with Client(server.url, token=token) as client:
        tunnel = await client.http("web", "127.0.0.1:1")
        assert await server.revoke_token("pi")
        assert not await server.revoke_token("nobody")
        async with asyncio.timeout(TIMEOUT):
            with pytest.raises(AuthError) as caught:
                await tunnel.closed()
        assert caught.value.reason == "revoked_token"
        await tunnel.close()


async def test_a_server_that_comes_back_has_the_tunnels_again(tmp_path: Any) -> None:
    async with Echo() as target:
        async with Server(data_dir=tmp_path, workers=1) as server:
            token, port, url = await server.create_token("pi"), server.http_port, server.url
            client = Client(url, token=token)
            await client.__aenter__()
            events = client.events()
            tunnel = await client.http("web", target)
        try:
            async with asyncio.timeout(TIMEOUT):
                assert [(await anext(events)).kind for _ in range(2)] == [
                    "tunnel_opened",
                    "disconnected",
                ]
            assert not client.is_connected and not tunnel.is_online and not tunnel.is_closed
            async with (
                Server(data_dir=tmp_path, workers=1, listen=f"127.0.0.1:{port}") as server,
                Visitor(port) as visitor,
            ):
                async with asyncio.timeout(TIMEOUT):
                    assert (await anext(events)).kind == "connected"
                assert tunnel.is_online
                assert (await visitor.ask("web")).body == b"hello"
                await client.http("more", target)
                assert (await visitor.ask("more")).body == b"hello"
        finally:
            await client.close()


async def test_a_tunnel_asked_for_while_nobody_is_there(tmp_path: Any) -> None:
    async with Server(data_dir=tmp_path, workers=1) as server:
        token = await server.create_token("pi")
        client = Client(server.url, token=token, timeout=3)
        await client.__aenter__()
        events = client.events()
    async with asyncio.timeout(TIMEOUT):
        assert (await anext(events)).kind == "disconnected"
    with pytest.raises(TunnelError) as caught:
        await client.http("web", "127.0.0.1:1")
    assert (caught.value.reason, caught.value.retryable) == ("timeout", True)
    assert client.tunnels == {}
    await client.close()


async def test_an_operator_deletes_a_tunnel(server: Server, token: str) -> None:
    from tests.library.admin import call

    async with Client(server.url, token=token) as client:
        tunnel = await client.http("web", "127.0.0.1:1")
        assert await call(server, "DELETE", "/tunnels/web") == 204
        async with asyncio.timeout(TIMEOUT):
            with pytest.raises(TunnelError) as caught:
                await tunnel.closed()
        assert caught.value.reason == "deleted_tunnel"
        assert (await client.http("web", "127.0.0.1:1")).is_online


async def test_many_clients_and_servers_in_one_loop() -> None:
    async with Server(workers=1) as one, Server(workers=1) as two, Echo() as target:
        clients = []
        for server in (one, two):
            for number in range(3):
                token = await server.create_token(f"d{number}")
                client = await Client(server.url, token=token).__aenter__()
                await client.http(f"web{number}", target)
                clients.append(client)
        for server in (one, two):
            async with Visitor(server.http_port) as visitor:
                for number in range(3):
                    assert (await visitor.ask(f"web{number}")).body == b"hello"
        await asyncio.gather(*(client.close() for client in clients))
        async with asyncio.timeout(TIMEOUT):
            while one.devices or two.devices:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


async def test_every_error_is_one_of_ours() -> None:
    error = RefusedError("no", reason="x", tunnel="web")
    assert isinstance(error, ProxyEngineError)
    assert (error.fault, error.retryable) == ("theirs", False)
    assert ConnectError("x", retryable=False).retryable is False
    assert ConnectError.retryable is True


async def test_what_is_closed_meanwhile_says_so(server: Server, token: str) -> None:
    client = Client(server.url, token=token)
    entering = asyncio.ensure_future(client.__aenter__())
    await asyncio.sleep(0)
    await client.close()
    with pytest.raises(ClosedError):
        await entering
    async with Client(server.url, token=token) as client:
        opening = asyncio.ensure_future(client.http("web", "127.0.0.1:1"))
        await asyncio.sleep(0)
        await client.close()
        with pytest.raises(ClosedError):
            await opening
