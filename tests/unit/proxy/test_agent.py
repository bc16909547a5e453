from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from proxy_engine import handshake
from proxy_engine.agent.agent import Agent
from proxy_engine.agent.backoff import Backoff
from proxy_engine.agent.link_keeper import REGISTER_TIMEOUT
from proxy_engine.agent.reach import Reached
from proxy_engine.agent.servers import Servers, ServerUrl, parse_server
from proxy_engine.agent.targets import Targets
from proxy_engine.control import PublicTunnel, TunnelSpec
from proxy_engine.errors import UsageError
from proxy_engine.settings.allowed import Rule, parse_allowed
from proxy_engine.values import Address
from tests.unit.proxy.fake_engine import FakeEngine, fields


class Timer:
    def __init__(self, at: float, call: Callable[[], None]) -> None:
        self.at = at
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        self.call = None


class Device:
    """An agent in a world where time passes only when the test says so."""

    def __init__(
        self,
        engine: FakeEngine,
        *,
        links_max: int = 0,
        servers: tuple[str, ...] = ("http://proxy.example:8080",),
        transport: str = "tcp",
        is_configurable: bool = False,
        allowed: tuple[Rule, ...] = (),
    ) -> None:
        self.engine = engine
        self.now = 0.0
        self.timers: list[Timer] = []
        self.public: list[list[PublicTunnel]] = []
        self.links_offered = 1
        self.token = "pe_secret"
        self.addresses = ["10.0.0.1"]
        fake: Any = engine
        self.agent = Agent(
            fake,
            servers=Servers([parse_server(url) for url in servers], transport),
            token=lambda: self.token,
            targets=Targets(
                fake, {"web": Address("127.0.0.1", 3000)}, self.resolve, allowed=allowed
            ),
            tunnels=[TunnelSpec("web")],
            reach=self.reach,
            announce=self.public.append,
            call_later=self.call_later,
            links_max=links_max,
            is_configurable=is_configurable,
            backoff=lambda: Backoff(lambda low, high: high),
            monotonic=lambda: self.now,
            wall=lambda: self.now,
        )

    async def resolve(self, host: str, port: int) -> list[str]:
        if host == "127.0.0.1":
            return [host]
        if not self.addresses:
            raise OSError("name unknown")
        return self.addresses

    async def reach(self, server: ServerUrl) -> Reached:
        return Reached((await self.resolve(server.host, server.port))[0], server.port, -1)

    def call_later(self, delay: float, call: Callable[[], None]) -> Timer:
        self.timers.append(Timer(self.now + delay, call))
        return self.timers[-1]

    async def settle(self) -> None:
        await self.agent._tasks.settle()

    async def pass_time(self, seconds: float) -> None:
        end = self.now + seconds
        while True:
            await self.settle()
            due = [timer for timer in self.timers if timer.call and timer.at <= end]
            if not due:
                break
            timer = min(due, key=lambda timer: timer.at)
            call, timer.call = timer.call, None
            self.now = max(self.now, timer.at)
            assert call is not None
            call()
        self.now = end

    async def event(self, *event: Any) -> None:
        self.agent.on_event(event)
        await self.settle()

    @property
    def dial(self) -> int:
        """The number of the last dial."""
        return 100 + len(self.engine.dials)

    async def up(self, link: int = 0) -> int:
        """A dial, usually the last, becomes a link."""
        offer = handshake.Offer("raw", "", 1, handshake.WINDOW, "", 1)
        link = link or self.dial
        head = handshake.accept_response(offer, self.links_offered)
        await self.event(2, link, 0, "10.0.0.1:8080", head)
        return link

    async def say(self, link: int, **record: Any) -> None:
        await self.event(4, link, json.dumps(record).encode())

    async def registered(self, link: int, url: str = "http://web.proxy.example:8080/") -> None:
        tunnels = [{"name": "web", "kind": "http", "url": url}]
        await self.say(link, type="registered", tunnels=tunnels, refused=[])

    async def connect(self) -> int:
        link = await self.up()
        await self.registered(link)
        return link

    async def refuse(
        self, status: int, *, retry_after: int | None = None, body: bytes = b""
    ) -> None:
        head = f"HTTP/1.1 {status} No\r\n"
        if retry_after is not None:
            head += f"Retry-After: {retry_after}\r\n"
        await self.event(5, self.dial, "refused", 0, status, (head + "\r\n").encode(), body)


def failures(device: Device) -> list[str]:
    return [str(error) for error in device.agent.failure]


@pytest.fixture
async def device(engine: FakeEngine) -> AsyncIterator[Device]:
    device = Device(engine)
    device.agent.start()
    await device.pass_time(0)
    yield device
    await device.agent.close()


def types_in_all(engine: FakeEngine) -> list[str]:
    return [record["type"] for _, record in engine.sent]


def types(engine: FakeEngine, link: int) -> list[str]:
    return [record["type"] for to, record in engine.sent if to == link]


async def test_it_dials_with_its_token_and_offers(device: Device, engine: FakeEngine) -> None:
    [(host, port, request, carrier)] = engine.dials
    assert (host, port, carrier) == ("10.0.0.1", 8080, "raw")
    assert request.startswith(b"GET /_proxy/link HTTP/1.1\r\n")
    sent = fields(request)
    assert sent["host"] == "proxy.example:8080"
    assert sent["authorization"] == "Bearer pe_secret"
    assert (sent["proxy-engine-version"], sent["proxy-engine-window"]) == ("1", "262144")
    assert len(sent["proxy-engine-instance"]) == 32
    assert engine.targets == [("web", "127.0.0.1", 3000, 0)]


async def test_it_registers_and_announces(device: Device, engine: FakeEngine) -> None:
    link = await device.up()
    [(to, record)] = engine.sent
    assert to == link
    assert record["tunnels"] == [{"name": "web"}]
    assert record["agent"].startswith("proxy-engine/")
    await device.registered(link)
    assert device.public == [[PublicTunnel("web", "http", "http://web.proxy.example:8080/")]]


async def test_an_answer_in_several_records_is_one(device: Device, engine: FakeEngine) -> None:
    link = await device.up()
    part = {"type": "registered", "tunnels": [{"name": "a", "kind": "http", "url": "http://a/"}]}
    await device.say(link, **part, more=True)
    assert device.public == []
    refused = [{"name": "b", "code": "tunnel_taken", "message": "taken"}]
    await device.say(link, type="registered", refused=refused)
    assert device.public == [[PublicTunnel("a", "http", "http://a/")]]
    await device.registered(link)
    assert [tunnel.name for tunnel in device.public[-1]] == ["web"]


async def test_it_comes_back_and_announces_only_what_changed(
    device: Device, engine: FakeEngine
) -> None:
    link = await device.connect()
    await device.event(3, link, 0, "closed", 0, 0, 1.0)
    assert len(engine.dials) == 1
    await device.pass_time(1)
    assert len(engine.dials) == 2
    link = await device.connect()
    assert len(device.public) == 1
    await device.event(3, link, 0, "closed", 0, 0, 1.0)
    await device.pass_time(2)
    await device.registered(await device.up(), url="http://other/")
    assert len(device.public) == 2


async def test_failures_are_tried_again_ever_more_slowly(
    device: Device, engine: FakeEngine
) -> None:
    times = []
    for _ in range(8):
        await device.event(5, device.dial, "connect", 111, 0, b"", b"")
        start, count = device.now, len(engine.dials)
        while len(engine.dials) == count:
            await device.pass_time(1)
        times.append(device.now - start)
    assert times == [1, 2, 4, 8, 16, 32, 60, 60]
    assert not device.agent.ended.is_set()


async def test_a_stable_link_makes_the_first_retry_quick_again(
    device: Device, engine: FakeEngine
) -> None:
    for seconds in (1, 2, 4, 8):
        await device.event(5, device.dial, "timeout", 0, 0, b"", b"")
        await device.pass_time(seconds)
    link = await device.connect()
    await device.pass_time(30)
    await device.event(3, link, 0, "closed", 0, 0, 30.0)
    count = len(engine.dials)
    await device.pass_time(1)
    assert len(engine.dials) == count + 1


async def test_a_server_that_asks_for_patience_gets_it(device: Device, engine: FakeEngine) -> None:
    await device.refuse(503, retry_after=10)
    await device.pass_time(10.9)
    assert len(engine.dials) == 1
    await device.pass_time(0.2)
    assert len(engine.dials) == 2


@pytest.mark.parametrize("status", [401, 403])
async def test_a_bad_token_ends_it_with_one_line(device: Device, status: int) -> None:
    await device.refuse(status, body=b'{"error":"revoked_token","message":"it was revoked"}')
    assert device.agent.ended.is_set()
    assert failures(device) == [f"the server refused the token: it was revoked ({status})"]


async def test_a_token_that_is_another_by_now_is_tried(device: Device, engine: FakeEngine) -> None:
    device.token = "pe_next"
    await device.refuse(401, body=b'{"error":"revoked_token","message":"it was revoked"}')
    await device.pass_time(1)
    sent = [fields(request)["authorization"] for _, _, request, _ in engine.dials]
    assert sent == ["Bearer pe_secret", "Bearer pe_next"]
    assert not device.agent.ended.is_set()
    await device.refuse(401, body=b'{"error":"revoked_token","message":"it was revoked"}')
    assert failures(device) == ["the server refused the token: it was revoked (401)"]


@pytest.mark.parametrize("status", [400, 404, 409, 426, 429, 500, 502, 503])
async def test_every_other_refusal_is_tried_again(
    device: Device, engine: FakeEngine, status: int
) -> None:
    await device.refuse(status)
    await device.pass_time(1)
    assert len(engine.dials) == 2
    assert not device.agent.ended.is_set()


async def test_a_server_of_another_kind_ends_it(device: Device) -> None:
    head = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: proxy-engine-yamux\r\n\r\n"
    await device.event(2, device.dial, 0, "10.0.0.1:8080", head)
    assert "not a proxy-engine server" in failures(device)[0]


async def test_a_name_that_is_not_found_is_tried_again(device: Device, engine: FakeEngine) -> None:
    link = await device.connect()
    device.addresses = []
    await device.event(3, link, 0, "closed", 0, 0, 1.0)
    await device.pass_time(10)
    assert len(engine.dials) == 1
    device.addresses = ["10.0.0.2"]
    await device.pass_time(60)
    assert engine.dials[-1][0] == "10.0.0.2"


async def test_when_every_tunnel_is_refused_it_says_why_and_ends(device: Device) -> None:
    refused = [{"name": "web", "code": "tunnel_taken", "message": "not yours"}]
    await device.say(await device.up(), type="registered", tunnels=[], refused=refused)
    assert failures(device) == ['tunnel "web" refused: not yours (tunnel_taken)']


async def test_when_the_servers_store_fails_it_tries_again(
    device: Device, engine: FakeEngine
) -> None:
    link = await device.up()
    refused = [{"name": "web", "code": "store_failed", "message": "later"}]
    await device.say(link, type="registered", tunnels=[], refused=refused)
    assert not device.agent.ended.is_set()
    assert engine.closed == [(link, "store_failed")]


async def test_a_register_without_an_answer_ends_the_link(
    device: Device, engine: FakeEngine
) -> None:
    link = await device.up()
    await device.pass_time(REGISTER_TIMEOUT)
    assert engine.closed == [(link, "register_timeout")]


async def test_while_the_server_drains_the_old_link_serves_until_the_new_one_is_up(
    device: Device, engine: FakeEngine
) -> None:
    old = await device.connect()
    await device.say(old, type="drain")
    await device.pass_time(1)
    assert len(engine.dials) == 2
    await device.refuse(503, retry_after=2)
    await device.pass_time(4)
    assert len(engine.dials) == 3
    new = await device.connect()
    assert engine.closed == []
    await device.event(3, old, 0, "closed", 0, 0, 9.0)
    await device.pass_time(100)
    assert len(engine.dials) == 3
    await device.event(3, new, 0, "closed", 0, 0, 9.0)
    await device.pass_time(60)
    assert len(engine.dials) == 4


async def test_an_old_link_that_ends_while_a_dial_is_under_way_starts_no_second_one(
    device: Device, engine: FakeEngine
) -> None:
    old = await device.connect()
    await device.say(old, type="drain")
    await device.event(3, old, 0, "closed", 0, 0, 9.0)
    await device.pass_time(60)
    assert len(engine.dials) == 2


async def test_an_agent_replaced_by_another_run_ends(device: Device, engine: FakeEngine) -> None:
    link = await device.connect()
    await device.say(link, type="error", code="replaced", message="replaced by another agent run")
    await device.event(3, link, 0, "closed", 0, 0, 1.0)
    await device.pass_time(600)
    assert len(engine.dials) == 1
    assert device.agent.ended.is_set()
    assert failures(device) == ["replaced by another agent run; is the token used twice?"]


async def test_an_agent_that_was_not_told_it_is_replaced_ends_at_its_next_try(
    device: Device, engine: FakeEngine
) -> None:
    body = b'{"error": "replaced", "message": "another agent run has taken over"}'
    await device.refuse(409, body=body)
    await device.pass_time(600)
    assert len(engine.dials) == 1
    assert failures(device) == ["another agent run has taken over; is the token used twice?"]


async def test_a_newer_link_of_its_own_does_not_end_it(device: Device, engine: FakeEngine) -> None:
    old = await device.connect()
    await device.say(old, type="drain")
    await device.pass_time(60)
    await device.connect()
    await device.say(old, type="error", code="replaced", message="by a newer link")
    await device.event(3, old, 0, "closed", 0, 0, 9.0)
    assert not device.agent.ended.is_set()


# --- several links ------------------------------------------------------------------------


async def connect_all(device: Device, links: int) -> list[int]:
    """The agent with this many links, each registered."""
    device.links_offered = links
    found = [await device.connect()]
    await device.say(found[0], type="links", wanted=links)
    await device.pass_time(3)
    for dial in range(found[0] + 1, found[0] + links):
        await device.up(dial)
        await device.registered(dial)
        found.append(dial)
    return found


async def lose(device: Device, *links: int) -> None:
    for link in links:
        await device.event(3, link, 0, "closed", 0, 0, 1.0)


async def test_an_agent_makes_as_many_links_as_the_server_wants(
    device: Device, engine: FakeEngine
) -> None:
    device.links_offered = 4
    first = await device.connect()
    for wanted, dials in ((1, 1), (2, 2), (0, 2), (4, 5), (3, 5), (99, 6), (-7, 6)):
        await device.say(first, type="links", wanted=wanted)
        await device.pass_time(5)
        for dial in range(101 + types_in_all(engine).count("register"), device.dial + 1):
            await device.up(dial)
            await device.registered(dial)
        assert len(engine.dials) == dials, wanted
    assert engine.closed == []


async def test_a_link_that_is_not_wanted_any_more_drains_and_is_left_to_end(
    device: Device, engine: FakeEngine
) -> None:
    links = await connect_all(device, 3)
    await device.say(links[1], type="links", wanted=2)
    assert [types(engine, link) for link in links] == [
        ["register"],
        ["register"],
        ["register", "drain"],
    ]
    await device.pass_time(600)
    await lose(device, links[2])
    await device.pass_time(600)
    assert len(engine.dials) == 3
    assert len(device.public) == 1


async def test_a_link_wanted_again_is_made_anew_beside_the_one_that_drains(
    device: Device, engine: FakeEngine
) -> None:
    links = await connect_all(device, 2)
    await device.say(links[0], type="links", wanted=1)
    await device.say(links[0], type="links", wanted=2)
    await device.pass_time(3)
    assert fields(engine.dials[-1][2])["proxy-engine-link"] == "2"
    await device.connect()
    await lose(device, links[1])
    await device.pass_time(600)
    assert len(engine.dials) == 3


async def test_a_link_that_comes_up_when_it_is_not_wanted_any_more_drains(
    device: Device, engine: FakeEngine
) -> None:
    device.links_offered = 2
    first = await device.connect()
    await device.say(first, type="links", wanted=2)
    await device.pass_time(3)
    assert len(engine.dials) == 2
    await device.say(first, type="links", wanted=1)
    late = await device.connect()
    assert types(engine, late) == ["register", "drain"]
    await lose(device, late)
    await device.pass_time(600)
    assert len(engine.dials) == 2


async def test_the_other_links_are_dialled_once_the_first_is_registered(
    device: Device, engine: FakeEngine
) -> None:
    device.links_offered = 3
    first = await device.up()
    await device.say(first, type="links", wanted=3)
    await device.pass_time(5)
    assert len(engine.dials) == 1
    await device.registered(first)
    await device.pass_time(3)
    sent = [fields(request) for _, _, request, _ in engine.dials]
    assert [each["proxy-engine-link"] for each in sent] == ["1", "2", "3"]
    assert len({each["proxy-engine-instance"] for each in sent}) == 1
    for dial in (102, 103):
        await device.up(dial)
        await device.registered(dial)
    assert [types(engine, link) for link in (101, 102, 103)] == [["register"]] * 3
    assert len(device.public) == 1
    await device.pass_time(600)
    assert len(engine.dials) == 3


async def test_a_server_that_offers_nothing_gets_one_link(
    device: Device, engine: FakeEngine
) -> None:
    head = handshake.accept_response(handshake.Offer("raw", "", 1, 1 << 20, "", 1), 4)
    head = head.replace(b"Proxy-Engine-Links: 4\r\n", b"")
    await device.event(2, device.dial, 0, "10.0.0.1:8080", head)
    await device.registered(device.dial)
    await device.say(device.dial, type="links", wanted=4)
    await device.pass_time(600)
    assert len(engine.dials) == 1


@pytest.mark.parametrize(("offered", "wanted"), [(4, 2), (1, 1), (4000, 2)])
async def test_it_takes_no_more_links_than_it_was_told(
    engine: FakeEngine, offered: int, wanted: int
) -> None:
    device = Device(engine, links_max=2)
    device.links_offered = offered
    device.agent.start()
    await device.pass_time(0)
    await device.say(await device.connect(), type="links", wanted=offered)
    await device.pass_time(600)
    assert len(engine.dials) == wanted
    await device.agent.close()


async def test_an_absurd_offer_is_cut(device: Device, engine: FakeEngine) -> None:
    device.links_offered = 4_000_000
    await device.say(await device.connect(), type="links", wanted=4_000_000)
    await device.pass_time(3)
    assert len(engine.dials) == 64


async def test_one_lost_link_is_dialled_again_while_the_others_serve(
    device: Device, engine: FakeEngine
) -> None:
    links = await connect_all(device, 3)
    await lose(device, links[1])
    await device.pass_time(60)
    assert fields(engine.dials[-1][2])["proxy-engine-link"] == "2"
    assert len(engine.dials) == 4
    for seconds in (60, 60):  # ... again and again, but the others are left alone
        await device.event(5, device.dial, "connect", 111, 0, b"", b"")
        await device.pass_time(seconds)
    assert len(engine.dials) == 6
    await device.connect()
    await device.pass_time(600)
    assert len(engine.dials) == 6
    assert len(device.public) == 1


async def test_when_all_links_are_lost_only_the_first_is_dialled(
    device: Device, engine: FakeEngine
) -> None:
    links = await connect_all(device, 3)
    await lose(device, links[2], links[0], links[1])
    await device.pass_time(1)
    for _ in range(5):
        await device.event(5, device.dial, "connect", 111, 0, b"", b"")
        await device.pass_time(60)
    numbers = [fields(request)["proxy-engine-link"] for _, _, request, _ in engine.dials[3:]]
    assert numbers == ["1"] * 6
    first = await device.connect()
    await device.pass_time(60)
    assert len(engine.dials) == 9
    await device.say(first, type="links", wanted=3)
    await device.pass_time(60)
    numbers = [fields(request)["proxy-engine-link"] for _, _, request, _ in engine.dials[9:]]
    assert numbers == ["2", "3"]


async def test_a_draining_server_is_left_link_by_link_for_the_next_one(
    device: Device, engine: FakeEngine
) -> None:
    old = await connect_all(device, 2)
    for link in reversed(old):
        await device.say(link, type="drain")
    await device.pass_time(60)
    assert len(engine.dials) == 3
    device.links_offered = 2
    await device.say(await device.connect(), type="links", wanted=2)
    await device.pass_time(60)
    assert len(engine.dials) == 4
    await device.connect()
    assert engine.closed == []
    await lose(device, *old)
    await device.pass_time(600)
    assert len(engine.dials) == 4


async def test_one_link_that_drains_is_replaced_alone(device: Device, engine: FakeEngine) -> None:
    links = await connect_all(device, 2)
    await device.say(links[1], type="drain")
    await device.pass_time(60)
    assert fields(engine.dials[-1][2])["proxy-engine-link"] == "2"
    new = await device.connect()
    await device.say(links[1], type="error", code="replaced", message="by a newer link")
    await lose(device, links[1])
    assert not device.agent.ended.is_set()
    await device.say(new, type="error", code="replaced", message="by another run")
    assert device.agent.ended.is_set()


async def test_a_next_server_with_fewer_workers_gets_fewer_links(
    device: Device, engine: FakeEngine
) -> None:
    links = await connect_all(device, 3)
    await lose(device, *links)
    await device.pass_time(60)
    device.links_offered = 1
    await device.say(await device.connect(), type="links", wanted=1)
    await device.pass_time(600)
    assert len(engine.dials) == 4


async def test_a_link_too_many_is_not_asked_for_again(device: Device, engine: FakeEngine) -> None:
    device.links_offered = 2
    await device.say(await device.connect(), type="links", wanted=2)
    await device.pass_time(3)
    await device.refuse(409, body=b'{"error":"bad_link_number","message":"1 to 1"}')
    await device.pass_time(600)
    assert len(engine.dials) == 2
    assert not device.agent.ended.is_set()


async def test_an_agent_with_several_links_ends_once_when_it_is_replaced(
    device: Device, engine: FakeEngine
) -> None:
    links = await connect_all(device, 2)
    for link in links:
        await device.say(link, type="error", code="replaced", message="by another run")
    assert failures(device) == ["by another run; is the token used twice?"]


async def test_draining_tells_the_server_on_every_link(device: Device, engine: FakeEngine) -> None:
    links = await connect_all(device, 2)
    device.agent.drain()
    assert [types(engine, link)[-1] for link in links] == ["drain", "drain"]


async def test_unknown_records_are_answered_and_broken_ones_end_the_link(
    device: Device, engine: FakeEngine
) -> None:
    link = await device.connect()
    await device.say(link, type="future")
    assert engine.sent[-1][1]["code"] == "unknown_record"
    await device.event(4, link, b"nope")
    assert engine.closed == [(link, "bad_record")]


async def test_a_failing_target_is_looked_up_again_once_a_second(
    device: Device, engine: FakeEngine
) -> None:
    await device.connect()
    lookups = 0
    original = device.agent._targets.refresh

    async def count() -> None:
        nonlocal lookups
        lookups += 1
        await original()

    device.agent._targets.refresh = count  # type: ignore[method-assign]
    for _ in range(5):
        await device.event(6, "web", 111, "")
    assert lookups == 1
    await device.pass_time(1)
    await device.event(6, "web", 111, "")
    assert lookups == 2


async def test_draining_tells_the_server_and_dials_no_more(
    device: Device, engine: FakeEngine
) -> None:
    link = await device.connect()
    device.agent.drain()
    assert types(engine, link) == ["register", "drain"]
    await device.event(3, link, 0, "closed", 0, 0, 1.0)
    await device.pass_time(100)
    assert len(engine.dials) == 1
    assert not device.agent.ended.is_set()


# --- several servers, and carriers ----------------------------------------------------------


async def begin(engine: FakeEngine, **options: Any) -> Device:
    device = Device(engine, **options)
    device.agent.start()
    await device.pass_time(0)
    return device


def dialled(engine: FakeEngine) -> list[tuple[str, str]]:
    return [(fields(request)["host"], carrier) for _, _, request, carrier in engine.dials]


async def test_the_next_server_is_tried_at_once_and_a_round_then_waits(engine: FakeEngine) -> None:
    device = await begin(engine, servers=("http://one.test", "http://two.test"))
    await device.event(5, device.dial, "connect", 111, 0, b"", b"")
    await device.pass_time(0)
    assert dialled(engine) == [("one.test", "raw"), ("two.test", "raw")]
    await device.refuse(503, retry_after=1)
    await device.pass_time(1)
    assert len(engine.dials) == 2
    await device.pass_time(2)
    assert dialled(engine)[2:] == [("one.test", "raw")]
    await device.connect()
    await device.agent.close()


async def test_a_run_stays_with_the_server_that_serves_it(engine: FakeEngine) -> None:
    device = await begin(engine, servers=("http://one.test", "http://two.test"))
    await device.event(5, device.dial, "timeout", 0, 0, b"", b"")
    await device.pass_time(0)
    device.links_offered = 2
    first = await device.connect()
    await device.say(first, type="links", wanted=2)
    await device.pass_time(2)
    await device.event(5, device.dial, "connect", 111, 0, b"", b"")
    await device.pass_time(3)
    await device.connect()
    await lose(device, *(first, device.dial))
    await device.pass_time(60)
    assert {host for host, _ in dialled(engine)[1:]} == {"two.test"}
    await device.agent.close()


async def test_auto_goes_on_to_websocket_when_raw_does_not_get_through(engine: FakeEngine) -> None:
    for failure in (("closed", 0), ("bad_response", 0), ("refused", 403), ("refused", 502)):
        engine.dials.clear()
        device = await begin(engine, transport="auto")
        reason, status = failure
        head = b"HTTP/1.1 400 x\r\n\r\n"
        await device.event(5, device.dial, reason, 0, status, head, b"<html>")
        await device.pass_time(0)
        assert [carrier for _, carrier in dialled(engine)] == ["raw", "websocket"], failure
        assert not device.agent.ended.is_set()
        await device.agent.close()


async def test_auto_goes_on_when_a_link_comes_up_and_is_of_no_use(engine: FakeEngine) -> None:
    device = await begin(engine, transport="auto")
    await lose(device, await device.up())
    await device.pass_time(0)
    assert [carrier for _, carrier in dialled(engine)] == ["raw", "websocket"]
    await device.agent.close()


async def test_a_refusal_by_the_server_itself_is_no_matter_of_the_carrier(
    engine: FakeEngine,
) -> None:
    device = await begin(engine, transport="auto")
    await device.refuse(503, body=b'{"error":"draining","message":"later"}')
    await device.pass_time(2)
    assert [carrier for _, carrier in dialled(engine)] == ["raw", "raw"]
    await device.refuse(403, body=b'{"error":"blocked_device","message":"blocked"}')
    assert failures(device) == ["the server refused the token: blocked (403)"]
    await device.agent.close()


async def test_tls_that_fails_is_tried_again_and_told_as_it_is(engine: FakeEngine) -> None:
    device = await begin(engine, servers=("https://a.example",), transport="auto")
    await device.event(5, device.dial, "tls", 0, 0, b"", b"the certificate has expired")
    await device.pass_time(1)
    # Another carrier would meet the same certificate.
    assert [carrier for _, carrier in dialled(engine)] == ["raw", "raw"]
    assert failures(device) == []
    await device.agent.close()


async def test_a_certificate_of_another_device_ends_the_agent(engine: FakeEngine) -> None:
    device = await begin(engine)
    answer = {"error": "wrong_certificate", "message": "the certificate is for cn:a"}
    await device.refuse(403, body=json.dumps(answer).encode())
    assert failures(device) == ["the server refused this device: the certificate is for cn:a (403)"]


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("http://a.example", ("a.example", 80, "a.example")),
        ("ws://a.example:8080/", ("a.example", 8080, "a.example:8080")),
        ("http://[::1]:81", ("::1", 81, "[::1]:81")),
        ("https://a.example", ("a.example", 443, "a.example")),
        ("wss://a.example:8443", ("a.example", 8443, "a.example:8443")),
    ],
)
def test_server_urls(url: str, server: tuple[str, int, str]) -> None:
    assert parse_server(url) == (*server, url.startswith(("https", "wss")))


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("a.example:8080", "is not a URL"),
        ("ftp://a", "is not a URL"),
        ("http://", "is not a URL"),
        ("http://a/path", "only scheme, host and port"),
        ("http://a?token=x", "only scheme, host and port"),
        ("http://u:p@a", "only scheme, host and port"),
        ("http://a:x", "server"),
        ("http://a:99999", "server"),
        ("http://a:0", "no usable"),
        ("http://a b", "no usable"),
        ("", "is not a URL"),
    ],
)
def test_what_is_no_server_url(url: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_server(url)


# Another target, from the server


async def configure(device: Device, link: int, target: str, tunnel: str = "web") -> dict[str, Any]:
    """What the agent answers."""
    await device.say(link, type="configure", id=5, tunnel=tunnel, target=target)
    to, answer = device.engine.sent[-1]
    assert (to, answer["type"], answer["id"]) == (link, "configured", 5)
    return answer


async def started(device: Device) -> int:
    device.agent.start()
    await device.pass_time(0)
    return await device.connect()


async def test_the_server_may_change_a_target_and_take_it_back(engine: FakeEngine) -> None:
    device = Device(engine, is_configurable=True)
    link = await started(device)
    device.addresses = ["10.0.0.2"]
    assert "code" not in await configure(device, link, "other.example:80")
    assert engine.targets == [("web", "10.0.0.2", 80, 0)]
    await device.pass_time(61)  # looked up again, and still this one
    assert engine.targets == [("web", "10.0.0.2", 80, 0)]
    assert "code" not in await configure(device, link, "")
    assert engine.targets == [("web", "127.0.0.1", 3000, 0)]
    await device.agent.close()


@pytest.mark.parametrize(
    ("target", "tunnel", "code"),
    [
        ("10.9.9.9:80", "web", "target_forbidden"),
        ("10.0.0.1:81", "web", "target_forbidden"),
        ("10.0.0.1", "web", "bad_target"),
        ("10.0.0.1:80", "api", "unknown_target"),
        ("nowhere.example:80", "web", "target_not_found"),
    ],
)
async def test_it_takes_only_what_is_allowed(
    engine: FakeEngine, target: str, tunnel: str, code: str
) -> None:
    allowed = (parse_allowed("10.0.0.0/24:80"), parse_allowed("127.0.0.0/8"))
    device = Device(engine, is_configurable=True, allowed=allowed)
    link = await started(device)
    device.addresses = [target.partition(":")[0]] if target.startswith("10.") else []
    assert (await configure(device, link, target, tunnel))["code"] == code
    assert engine.targets == [("web", "127.0.0.1", 3000, 0)]
    await device.agent.close()


async def test_without_permission_nothing_is_changed(device: Device, engine: FakeEngine) -> None:
    link = await device.connect()
    assert (await configure(device, link, "10.0.0.1:80"))["code"] == "config_forbidden"
    assert engine.targets == [("web", "127.0.0.1", 3000, 0)]
