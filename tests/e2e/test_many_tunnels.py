"""More than a thousand tunnels of one agent: registered, listed, used, and had again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.harness import RecordingTarget, wait_until
from tests.e2e.processes import Process, run
from tests.e2e.site import Site, rss_kib
from tests.e2e.test_tcp import connect, echo, take

HTTP_TUNNELS = 1000
TCP_TUNNELS = 300
ALL = HTTP_TUNNELS + TCP_TUNNELS
PATIENCE = 60.0


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path / "data", server_args=["--tcp-ports", "20000-29999"])
    try:
        yield site
    finally:
        site.close()


def start(
    site: Site, config: Path, http: dict[str, int], tcp: dict[str, int], token: str
) -> Process:
    lines = ["[http]", *(f'{name} = "127.0.0.1:{port}"' for name, port in http.items())]
    lines += ["[tcp]", *(f'"{name}:0" = "127.0.0.1:{port}"' for name, port in tcp.items())]
    config.write_text("\n".join(lines) + "\n")
    agent = Process(
        "connect", "--server", f"http://127.0.0.1:{site.port}", "--transport", "tcp", "--config",
        str(config), "--log-format", "json", PROXY_ENGINE_TOKEN=token,
    )  # fmt: skip
    site.processes.append(agent)
    return agent


def public(agent: Process) -> dict[str, str]:
    wait_until(lambda: agent.has_printed('"connected"'), timeout=PATIENCE)
    return {each["name"]: each["url"] for each in agent.printed("connected")["tunnels"]}


def listed(site: Site) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    path = "/api/v1/tunnels?limit=200"
    while True:
        page = site.api(path)
        found += page["items"]
        if not page.get("next"):
            return found
        path = f"/api/v1/tunnels?limit=200&cursor={page['next']}"


def check_some(site: Site, urls: dict[str, str]) -> None:
    for number in (0, HTTP_TUNNELS // 2, HTTP_TUNNELS - 1):
        assert site.get(f"t{number}").status == 200
    for number in (0, TCP_TUNNELS // 2, TCP_TUNNELS - 1):
        with connect(int(urls[f"p{number}"].rpartition(":")[2])) as sock:
            sock.sendall(b"ping")
            assert take(sock, 4) == b"ping"


def test_1300_tunnels_of_one_agent(site: Site, tmp_path: Path, target: RecordingTarget) -> None:
    http = {f"t{number}": target.port for number in range(HTTP_TUNNELS)}
    before = rss_kib(site.server.popen.pid)
    began = time.monotonic()
    with echo() as port:
        tcp = {f"p{number}": port for number in range(TCP_TUNNELS)}
        agent = start(site, tmp_path / "agent.toml", http, tcp, site.device_token)
        urls = public(agent)
        took = time.monotonic() - began
        grown = rss_kib(site.server.popen.pid) - before
        print(f"{ALL} tunnels after {took:.2f} s, the agent's start included")
        print(f"server +{grown} KiB, agent {rss_kib(agent.popen.pid)} KiB")
        assert set(urls) == {*http, *tcp}
        assert len({urls[name] for name in tcp}) == TCP_TUNNELS
        check_some(site, urls)
        tunnels = listed(site)
        assert {each["name"] for each in tunnels if each["is_online"]} == {*http, *tcp}
        shown = run("tunnel", "list", "--data-dir", str(site.data_dir)).stdout
        assert all(name in shown for name in ("t0", "t999", "p0", "p299"))
        site.server.end()
        site.restart_server()
        wait_until(
            lambda: len([each for each in listed(site) if each["is_online"]]) == ALL, PATIENCE
        )
        again = {each["name"]: each["url"] for each in listed(site)}
        assert again == urls
        check_some(site, urls)


def test_what_is_refused_of_many_is_said_by_name(
    site: Site, tmp_path: Path, target: RecordingTarget
) -> None:
    first = dict.fromkeys(("t7", "t150"), target.port)
    public(start(site, tmp_path / "one.toml", first, {}, site.device_token))
    http = {f"t{number}": target.port for number in range(300)}
    other = site.make_token("other")
    agent = start(site, tmp_path / "two.toml", http, {}, other)
    assert set(public(agent)) == {*http} - {*first}
    assert {agent.log("tunnel refused", count)["tunnel"] for count in (1, 2)} == {*first}
    assert agent.log("tunnel refused")["code"] == "tunnel_taken"
    assert site.get("t299").status == 200
