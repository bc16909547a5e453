"""/debug/ of real servers: profiles under load, dumps, heaps, what is slow and what is stuck."""

from __future__ import annotations

import http.client
import json
import re
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.harness import RecordingTarget, ok, reply, wait_until
from tests.e2e.processes import TIMEOUT, Process, run
from tests.e2e.site import Site

NATIVE = Path(__file__).resolve().parents[1] / "native"


class Admin:
    """Asks an admin listener."""

    def __init__(self, port: int, token: str) -> None:
        self.port = port
        self.token = token

    def ask(
        self, method: str, path: str, body: Any = None, *, token: str | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT + 15)
        headers = {"Authorization": f"Bearer {token or self.token}"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        try:
            data = None if body is None else json.dumps(body).encode()
            client.request(method, path, data, headers)
            answer = client.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            client.close()

    def json(self, path: str, method: str = "GET", body: Any = None) -> Any:
        status, _, content = self.ask(method, path, body)
        assert status == 200, content
        return json.loads(content)

    def problem(self, method: str, path: str, body: Any = None, *, token: str | None = None) -> Any:
        status, headers, content = self.ask(method, path, body, token=token)
        assert headers["Content-Type"] == "application/problem+json"
        return status, json.loads(content)["code"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(
        tmp_path_factory.mktemp("debug") / "data", server_args=("--debug", "--workers", "2")
    )
    target = RecordingTarget()
    target.handler = reply(ok(b"x" * 1000))
    made.connect({"web": target.port})
    yield made
    made.close()
    target.close()


@pytest.fixture
def admin(site: Site) -> Admin:
    return Admin(site.admin_port, site.admin_token)


class Load:
    """Visitors that ask without end."""

    def __init__(self, site: Site, visitors: int = 4) -> None:
        self.site = site
        self.visitors = visitors
        self.answers = 0
        self._served: set[threading.Thread] = set()
        self.errors: list[BaseException] = []
        self._done = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(visitors)]

    def _run(self) -> None:
        try:
            with self.site.visitor() as visitor:
                while not self._done.is_set():
                    visitor.send(b"GET / HTTP/1.1\r\nHost: web.localhost\r\n\r\n")
                    assert visitor.response().body == b"x" * 1000
                    self.answers += 1
                    self._served.add(threading.current_thread())
        except BaseException as error:
            self.errors.append(error)

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        wait_until(self._has_begun)
        return self

    def _has_begun(self) -> bool:
        is_busy = self.answers > 20 and len(self._served) == self.visitors
        return is_busy or bool(self.errors)

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()
        assert not self.errors


def test_without_the_setting_there_is_nothing(tmp_path: Path) -> None:
    plain = Site(tmp_path / "data")
    try:
        admin = Admin(plain.admin_port, plain.admin_token)
        for method, path, body in (
            ("GET", "/debug/profile?seconds=1", None),
            ("GET", "/debug/engine", None),
            ("GET", "/debug/stacks", None),
            ("GET", "/debug/slow", None),
            ("POST", "/debug/heap", {}),
        ):
            assert admin.problem(method, path, body) == (404, "debug_off")
    finally:
        plain.close()


def test_a_token_that_may_not_write_learns_nothing(site: Site, admin: Admin) -> None:
    looks = run("token", "create", "--name", "looks", "--kind", "admin", "--scope", "read-only",
                "--data-dir", str(site.data_dir))  # fmt: skip
    assert looks.returncode == 0, looks.stderr
    for path in ("/debug/profile?seconds=1", "/debug/engine", "/debug/stacks", "/debug/slow"):
        read_only = looks.stdout.strip()
        assert admin.problem("GET", path, token=read_only) == (403, "read_only")
        assert admin.problem("GET", path, token=site.device_token) == (403, "wrong_kind")


def test_what_was_looked_at_is_audited(admin: Admin) -> None:
    admin.json("/debug/engine")
    records = admin.json("/api/v1/audit")["items"]
    assert any(each["action"] == "read_engine_dump" for each in records)


@pytest.mark.sanitized
def test_a_profile_shows_workers_and_python_under_load(site: Site, admin: Admin) -> None:
    before = site.stats()["cpu_us"]
    stacks: Counter[str] = Counter()
    profiles = 0

    def native() -> dict[str, int]:
        return {stack: us for stack, us in stacks.items() if stack.startswith("engine-")}

    def is_seen() -> bool:
        """In one more profile: a machine with much else to do may have let us work but a little."""
        nonlocal profiles
        profiles += 1
        status, headers, content = admin.ask("GET", "/debug/profile?seconds=3")
        assert status == 200
        assert headers["X-Samples-Lost"] == "0"
        assert headers["Content-Type"].startswith("text/plain")
        for line in content.decode().splitlines():
            stack, _, us = line.rpartition(" ")
            assert re.fullmatch(r"[^;]+(;[^;]+)+", stack), line
            stacks[stack] += int(us)
        return (
            any("io.worker.worker_run;" in stack for stack in native())
            and any("forward.visitor.visitor_ready" in stack for stack in native())
            and any(stack.startswith("MainThread;") for stack in stacks)
        )

    with Load(site):
        wait_until(is_seen)
    # No more time than the workers had, but for a sample of each.
    assert 0 < sum(native().values()) <= site.stats()["cpu_us"] - before + profiles * 2 * 11_000


def test_there_is_one_profile_at_a_time(admin: Admin) -> None:
    statuses: list[int] = []

    def ask() -> None:
        statuses.append(admin.ask("GET", "/debug/profile?seconds=2")[0])

    both = [threading.Thread(target=ask) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert sorted(statuses) == [200, 409]
    assert admin.ask("GET", "/debug/profile?seconds=0.1")[0] == 200


@pytest.mark.sanitized
def test_profiles_at_full_rate_upset_nobody(site: Site, admin: Admin) -> None:
    with Load(site) as load:
        for _ in range(3):
            before = load.answers
            status, _, _ = admin.ask("GET", "/debug/profile?seconds=1&rate=999")
            assert status == 200
            assert len(admin.json("/debug/stacks")["threads"]) >= 3
            assert load.answers > before
    assert site.server.popen.poll() is None


def test_the_engine_tells_of_links_and_streams(site: Site, admin: Admin) -> None:
    with Load(site):
        found = admin.json("/debug/engine")
    assert [worker["worker"] for worker in found["workers"]] == [0, 1]
    assert sum(worker["links"] for worker in found["workers"]) == len(found["links"]) >= 1
    assert sum(worker["connections"]["visitor"] for worker in found["workers"]) >= 4
    assert sum(worker["timers"] for worker in found["workers"]) >= 1
    assert not found["is_truncated"]
    for link in found["links"]:
        assert link["device"] == "default"
        assert link["window"] >= 256 << 10
        assert len(link["streams_told"]) == link["streams"]
    streams = [stream for link in found["links"] for stream in link["streams_told"]]
    assert {"control", "http"} == {stream["owner"] for stream in streams}
    assert {stream["tunnel"] for stream in streams} == {None, "web"}
    assert admin.json("/debug/engine?device=default")["links"]
    assert admin.problem("GET", "/debug/engine?device=nobody") == (404, "unknown_device")


def test_what_is_too_much_is_counted(site: Site, admin: Admin) -> None:
    with Load(site):
        found = admin.json("/debug/engine?links=10&streams=0")
    assert found["is_truncated"]
    assert all(link["streams_told"] == [] for link in found["links"])
    assert sum(worker["streams"] for worker in found["workers"]) >= 2
    found = admin.json("/debug/engine?links=0")
    assert found["links"] == []
    assert found["is_truncated"]


def test_memory_of_python_is_traced_compared_and_left_alone(admin: Admin) -> None:
    assert admin.problem("POST", "/debug/heap/snapshot") == (409, "heap_not_traced")
    assert admin.ask("POST", "/debug/heap", {"frames": 5})[0] == 204
    assert admin.problem("POST", "/debug/heap", {}) == (409, "heap_traced")
    assert admin.problem("GET", "/debug/heap/diff") == (409, "heap_not_traced")
    admin.json("/api/v1/stats")
    first = admin.json("/debug/heap/snapshot?top=3", "POST")
    assert len(first["places"]) == 3
    assert first["traced"] > 0
    assert re.search(r"\.py:\d+$", first["places"][0]["where"])
    assert first["places"][0]["size"] >= first["places"][1]["size"]
    diff = admin.json("/debug/heap/diff?group=traceback")
    assert all(each["size_change"] is not None for each in diff["places"])
    assert admin.ask("DELETE", "/debug/heap")[0] == 204
    assert admin.problem("DELETE", "/debug/heap") == (409, "heap_not_traced")


@pytest.fixture(scope="module")
def stall_while(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file; what stalls goes on at once when it is no more."""
    file = tmp_path_factory.mktemp("while") / "file"
    file.touch()
    return file


@pytest.fixture(scope="module")
def stalling(tmp_path_factory: pytest.TempPathFactory, stall_while: Path) -> Iterator[Process]:
    folder = tmp_path_factory.mktemp("stall")
    library = folder / "stall.so"
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-O1", "-o", str(library), str(NATIVE / "stall.c"), "-ldl"],
        check=True,
    )
    process = Process(
        "run", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--log-format", "json",
        "--data-dir", str(folder / "data"), "--workers", "1", "--debug", "--watchdog", "1s",
        LD_PRELOAD=str(library), STALL_WHILE=str(stall_while),
    )  # fmt: skip
    yield process
    process.end()


def ports(process: Process) -> tuple[int, Admin]:
    ready = process.log("listening")
    token = process.printed("first_run")["admin_token"]
    return (
        int(ready["listen"].rpartition(":")[2]),
        Admin(int(ready["admin"].rpartition(":")[2]), token),
    )


def stall(port: int, milliseconds: int) -> threading.Thread:
    def work() -> None:
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
        client.request("GET", "/", headers={"X-Test-Stall-Ms": str(milliseconds)})
        assert client.getresponse().status == 404
        client.close()

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def said(process: Process, message: str) -> list[dict[str, Any]]:
    """The lines with this message about the worker."""
    lines = [json.loads(line) for line in list(process.err)]
    return [line for line in lines if (line["message"], line.get("what")) == (message, "engine-0")]


def test_a_slow_turn_is_kept_with_where_it_was(stalling: Process) -> None:
    port, admin = ports(stalling)

    def kept() -> list[dict[str, Any]]:
        slow = admin.json("/debug/slow")["slow"]
        return [each for each in slow if "stall_for_a_test" in each["stack"]]

    def is_kept_and_said() -> bool:
        # On a busy machine something else may be slow just before and have the line of this second,
        # or who looks where it is may come too late.
        stall(port, 400).join()
        return bool(kept() and said(stalling, "slow turn"))

    wait_until(is_kept_and_said)
    turn = kept()[0]
    assert turn["ms"] >= 400
    assert turn["what"] == "engine-0"
    assert "io.worker.worker_run" in turn["stack"]
    assert said(stalling, "slow turn")[0]["level"] == "warning"
    assert admin.json("/api/v1/stats")["slow_turns"] >= 1


def test_a_worker_that_does_not_turn_makes_the_server_unhealthy(
    stalling: Process, stall_while: Path
) -> None:
    port, admin = ports(stalling)

    def stuck() -> dict[str, list[str]]:
        return {each["what"]: each["stack"] for each in admin.json("/debug/slow")["stuck"]}

    wait_until(lambda: json.loads(admin.ask("GET", "/livez")[2]) == {"status": "ok"})
    visitor = stall(port, 60_000)
    wait_until(lambda: "engine-0" in stuck())
    assert admin.ask("GET", "/livez")[0] == 503
    assert json.loads(admin.ask("GET", "/readyz")[2])["status"] == "stuck"
    assert json.loads(admin.ask("GET", "/health")[2])["status"] == "stuck"
    assert "stall_for_a_test" in stuck()["engine-0"]
    assert "stall_for_a_test" in wait_until(lambda: said(stalling, "it does not turn"))[0]["stack"]
    stall_while.unlink()
    visitor.join()
    wait_until(lambda: admin.ask("GET", "/livez")[0] == 200)
    assert wait_until(lambda: said(stalling, "it turns again"))[0]["seconds"] >= 1
