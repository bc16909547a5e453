"""Hooks of a real server: what they are asked and told, what its agents and visitors notice."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import processes
from tests.e2e.harness import wait_until
from tests.e2e.processes import Process, run
from tests.e2e.site import Site
from tests.e2e.target import Target

HOOKS = '''
import asyncio, json, pathlib, time
from proxy_engine.hooks import Hook, Refuse

class Recorder(Hook):
    """Writes down what it is told."""

    def __init__(self, path):
        self._file = open(path, "a", buffering=1)

    def _write(self, name, event):
        fields = {key: getattr(event, key) for key in event.__struct_fields__}
        self._file.write(json.dumps({"event": name, **fields}, default=repr) + "\\n")

    def on_request(self, requests):
        for request in requests:
            self._write("request", request)

    def on_data(self, data):
        for each in data:
            self._write("data", each)

    def on_server_start(self, event): self._write("server_start", event)
    def on_server_stop(self, event): self._write("server_stop", event)
    def on_device_connect(self, event): self._write("device_connect", event)
    def on_device_disconnect(self, event): self._write("device_disconnect", event)
    def on_device_online(self, event): self._write("device_online", event)
    def on_device_offline(self, event): self._write("device_offline", event)
    def on_tunnel_open(self, event): self._write("tunnel_open", event)
    def on_tunnel_close(self, event): self._write("tunnel_close", event)
    def on_tunnel_online(self, event): self._write("tunnel_online", event)
    def on_tunnel_offline(self, event): self._write("tunnel_offline", event)
    def on_error(self, failure): self._write("error", failure)

class Gate(Hook):
    order = -1

    def __init__(self, *, device="", tunnel="", unless="", later=False):
        self._device, self._tunnel, self._unless = device, tunnel, unless
        self._later = 0.2 if later else None

    async def on_device_connect(self, event):
        if event.device == self._device and not pathlib.Path(self._unless).is_file():
            raise Refuse("only on weekdays\\nand at noon", retry_after=self._later)

    async def on_tunnel_open(self, event):
        if event.tunnel == self._tunnel and not pathlib.Path(self._unless).is_file():
            raise Refuse("this name is for sale", retry_after=self._later)

class Blocks(Hook):
    timeout = 0.2
    queue = 5
    def on_request(self, requests): time.sleep(3600)
    def on_data(self, data): time.sleep(3600)

class Hangs(Hook):
    timeout = 0.2
    queue = 5
    async def on_request(self, requests): await asyncio.sleep(3600)
    async def on_device_online(self, event): raise SystemExit(7)

class Dies(Hook):
    async def on_server_start(self, event): raise OSError("no database")
'''


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "site_hooks.py").write_text(HOOKS)
    path = f"{processes.ENVIRON['PYTHONPATH']}:{tmp_path}"
    monkeypatch.setitem(processes.ENVIRON, "PYTHONPATH", path)


@pytest.fixture
def target() -> Iterator[Target]:
    with Target() as target:
        yield target


class Place:
    """A site with a file of settings."""

    def __init__(self, tmp_path: Path) -> None:
        self.path = tmp_path
        self.file = tmp_path / "a.toml"
        self.site: Site | None = None

    def settings(self, hooks: list[str], **options: Any) -> None:
        lines = [f"hooks = {json.dumps(hooks)}", 'hook_interval = "1s"']
        for name, table in options.items():
            lines.append(f'[hook_options."site_hooks:{name}"]')
            lines += [f"{key} = {json.dumps(value)}" for key, value in table.items()]
        self.file.write_text("\n".join(lines) + "\n")

    def start(self, hooks: list[str], **options: Any) -> Site:
        self.settings(hooks, **options)
        self.site = Site(self.path / "data", server_args=("--config", str(self.file)))
        return self.site

    @property
    def events(self) -> list[dict[str, Any]]:
        file = self.path / "events"
        text = file.read_text() if file.exists() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line[-1] == "\n"]

    @property
    def names(self) -> list[str]:
        return [event["event"] for event in self.events]

    def of(self, name: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == name]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    if place.site is not None:
        place.site.close()


def recorder(place: Place) -> dict[str, Any]:
    return {"Recorder": {"path": str(place.path / "events")}}


def test_a_hook_is_told_the_life_of_a_server(place: Place, target: Target) -> None:
    site = place.start(["site_hooks:Recorder"], **recorder(place))
    agent = site.connect({"web": target.port}, "--links", "1")
    answer = site.get("web", "/bytes/1000?token=secret")
    wait_until(lambda: place.of("request"))
    wait_until(lambda: place.of("data"))
    agent.signal()
    agent.exit_code()
    wait_until(lambda: place.of("device_offline"))
    site.server.signal()
    assert site.server.exit_code() == 0
    names = [name for name in place.names if name != "data"]
    # What it is asked does not wait for what it is told.
    assert names[:2] == ["server_start", "device_connect"]
    assert set(names[2:5]) == {"device_online", "tunnel_open", "tunnel_online"}
    assert names.index("device_online") < names.index("tunnel_online")
    assert sorted(names[5:]) == sorted([
        "request", "device_disconnect", "device_offline", "tunnel_close", "tunnel_offline",
        "server_stop",
    ])  # fmt: skip
    assert names[-1] == "server_stop"
    [connect] = place.of("device_connect")
    assert (connect["device"], connect["token"], connect["links"]) == ("default", "default", 0)
    assert connect["peer"].startswith(f"{connect['address']}:")
    [request] = place.of("request")
    assert request["request_id"] == answer.id
    assert (request["tunnel"], request["device"], request["status"]) == ("web", "default", 200)
    assert request["path"] == "/bytes/1000?token=[redacted]"
    data = place.of("data")
    assert sum(each["bytes_out"] for each in data) == data[-1]["total_out"]
    assert data[-1]["total_out"] == request["bytes_out"]
    assert (data[-1]["tunnel"], data[-1]["kind"]) == ("web", "http")
    [gone] = place.of("device_disconnect")
    assert gone["links"] == 0
    assert gone["bytes_in"] > 0


def connect_refused(site: Site, tunnel: str) -> Process:
    agent = Process(
        "connect", "--server", f"http://127.0.0.1:{site.port}", "--http", f"{tunnel}=127.0.0.1:1",
        PROXY_ENGINE_TOKEN=site.device_token,
    )  # fmt: skip
    site.processes.append(agent)
    return agent


def test_the_reason_of_a_refusal_is_shown_by_the_agent_in_one_line(place: Place) -> None:
    site = place.start(["site_hooks:Gate"], Gate={"device": "default"})
    agent = connect_refused(site, "web")
    assert agent.exit_code() == 1
    said = [line for line in agent.err if "error" in line]
    assert said == [
        "proxy-engine: error: the server refused this device: only on weekdays and at noon (403)"
    ]
    place.settings(["site_hooks:Gate"], Gate={"tunnel": "web"})
    site.server.signal(signal.SIGHUP)
    site.server.log("hooks changed")
    agent = connect_refused(site, "web")
    assert agent.exit_code() == 1
    said = [line for line in agent.err if "error" in line]
    assert said == [
        'proxy-engine: error: tunnel "web" refused: this name is for sale (hook_refused)'
    ]
    assert site.stats()["hook_refusals"] == 2


@pytest.mark.parametrize("what", ["device", "tunnel"])
def test_who_may_come_later_comes_later(place: Place, target: Target, what: str) -> None:
    name = {"device": "default", "tunnel": "web"}[what]
    now = place.path / "now"
    options = {what: name, "unless": str(now), "later": True}
    site = place.start(["site_hooks:Gate"], Gate=options)
    agent = Process(
        "connect", "--server", f"http://127.0.0.1:{site.port}", "--log-format", "json",
        "--http", f"web=127.0.0.1:{target.port}", PROXY_ENGINE_TOKEN=site.device_token,
    )  # fmt: skip
    site.processes.append(agent)
    why = agent.log("not connected, trying again")["reason"]
    if what == "device":
        assert why.endswith("answered 503 hook_later: only on weekdays and at noon")
    else:
        assert "hook_later" in why
    now.touch()
    agent.printed("connected")
    assert site.get("web").status == 200


def test_hooks_that_block_and_hang_hold_up_no_visitor(place: Place, target: Target) -> None:
    hooks = ["site_hooks:Blocks", "site_hooks:Hangs", "site_hooks:Recorder"]
    site = place.start(hooks, **recorder(place))
    site.connect({"web": target.port})
    for number in range(60):
        assert site.get("web", f"/{number}").status == 200
    wait_until(lambda: len(place.of("request")) == 60)

    def state() -> dict[str, Any]:
        items = site.api("/api/v1/hooks")["items"]
        assert [each["name"] for each in items] == ["Blocks", "Hangs", "Recorder", "webhook_url"]
        return {each["name"]: each for each in items}

    wait_until(lambda: state()["Blocks"]["timeouts"] > 0 and state()["Hangs"]["timeouts"] > 0)
    assert state()["Recorder"]["errors"] == 0
    wait_until(lambda: [each for each in place.of("error") if "SystemExit: 7" in each["error"]])
    # So many calls hang that no more are made; its queue fills, and the rest is dropped.
    wait_until(lambda: site.get("web").status == 200 and state()["Blocks"]["is_stuck"])
    wait_until(lambda: site.get("web").status == 200 and state()["Blocks"]["dropped"] > 0)
    assert state()["Recorder"]["dropped"] == 0
    assert site.stats()["hook_dropped"] > 0
    assert site.stats()["hook_timeouts"] > 0
    shown = run(
        "hook", "list", "--admin", f"http://127.0.0.1:{site.admin_port}",
        PROXY_ENGINE_ADMIN_TOKEN=site.admin_token,
    ).stdout.splitlines()  # fmt: skip
    head, *rows = [line.split("\t") for line in shown]
    found = {row[0]: dict(zip(head, row, strict=True)) for row in rows}
    assert found["Blocks"]["origin"] == "module site_hooks:Blocks"
    assert found["Blocks"]["state"] == "stuck"
    assert found["Blocks"]["events"] == "request data"
    assert int(found["Blocks"]["timeouts"]) > 0
    assert int(found["Blocks"]["dropped"]) > 0
    assert found["Blocks"]["queue"].endswith("/5")
    assert found["webhook_url"]["origin"] == "webhook_url"
    site.server.signal()  # what hangs does not keep the server
    assert site.server.exit_code() == 0


def test_hooks_change_while_the_server_runs(place: Place, target: Target) -> None:
    site = place.start([])
    site.connect({"web": target.port})
    assert site.stats()["hooks"] == 1  # webhook_url
    place.settings(["site_hooks:Recorder"], **recorder(place))
    site.server.signal(signal.SIGHUP)
    assert "hooks" in site.server.log("settings reloaded")["changed"]
    wait_until(lambda: place.names == ["server_start"])
    site.get("web")
    wait_until(lambda: place.of("request"))
    place.settings(["site_hooks:Nobody"])
    site.server.signal(signal.SIGHUP)
    failed = site.server.log("settings not reloaded, the last good ones stay")
    why = 'hook "site_hooks:Nobody": site_hooks has no "Nobody"'
    assert failed["error"] == why
    wait_until(lambda: place.of("error"))
    [told] = place.of("error")
    assert (told["source"], told["where"], told["repeats"]) == ("settings", "reload", 0)
    assert why in told["error"]
    place.settings([])
    site.server.signal(signal.SIGHUP)
    wait_until(lambda: place.names[-1] == "server_stop")
    assert site.stats()["hook_calls"] > 0  # of those that were taken away


@pytest.mark.parametrize(
    ("name", "code", "text"),
    [
        ("nothing", 2, 'there is no hook "nothing"; or write module:Class'),
        ("site_hooks:Dies", 1, "Dies.on_server_start: OSError: no database"),
    ],
)
def test_a_server_whose_hook_is_no_good_does_not_start(
    place: Place, name: str, code: int, text: str
) -> None:
    words = ("--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--hooks", name)
    done = run("run", *words, "--data-dir", str(place.path / "data"))
    assert (done.returncode, done.stderr.splitlines()[-1]) == (code, f"proxy-engine: error: {text}")
    if code == 2:
        assert not (place.path / "data").exists()
        place.settings([name])
        done = run("config", "validate", "--config", str(place.file))
        assert (done.returncode, done.stderr) == (2, f"proxy-engine: error: {text}\n")
