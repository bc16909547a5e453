"""PostgreSQL, Redis, OpenSSH and iperf3 through TCP tunnels, public and private."""

from __future__ import annotations

import hashlib
import json
import os
import pwd
import random
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.harness import wait_until
from tests.e2e.site import Site
from tests.e2e.test_tcp import forward, is_open, serving, tunnel
from tests.ports import free_port

SSHD = shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin")


def postgres_program(name: str) -> str | None:
    """Debian keeps them apart, one folder for each version."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return str(found[-1]) if found else shutil.which(name)


def needs(*programs: str | None, package: str) -> pytest.MarkDecorator:
    missing = any(each is None or shutil.which(each) is None for each in programs)
    return pytest.mark.skipif(missing, reason=f"not installed: apt-get install {package}")


def done(*command: str, timeout: float = 100, **how: str) -> str:
    found = subprocess.run(
        command, capture_output=True, text=True, timeout=timeout, env={**os.environ, **how},
        stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    return found.stdout


@contextmanager
def running(command: list[str], port: int, log: Path) -> Iterator[None]:
    """A service in the foreground, once it listens."""
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as found:
        try:
            wait_until(lambda: is_open(port) or found.poll() is not None)
            assert found.poll() is None, log.read_text()
            yield
        finally:
            found.terminate()


@pytest.fixture(params=["public", "private"])
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def reach(site: Site, way: str, target: int) -> int:
    """The port where a service is: the server's own, or one that `forward` opened."""
    if way == "public":
        return int(tunnel(site, f"peer:0=127.0.0.1:{target}").rpartition(":")[2])
    tunnel(site, f"peer=127.0.0.1:{target}")
    return forward(site, "default/peer", site.device_token)[1]


@pytest.fixture
def postgres_home() -> Iterator[tuple[Path, list[str]]]:
    """A folder of the server's own, and what runs a command as its owner. Not below pytest's
    folder, which is its user's alone: the server refuses to run as root."""
    home, user = Path(tempfile.mkdtemp(prefix="proxy-engine-postgres-")), []
    try:
        if os.geteuid() == 0:
            try:
                owner = pwd.getpwnam("postgres")
            except KeyError:
                pytest.skip("no user postgres")
            os.chown(home, owner.pw_uid, owner.pw_gid)
            user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        yield home, user
    finally:
        shutil.rmtree(home, ignore_errors=True)


@needs(postgres_program("initdb"), "psql", package="postgresql")
def test_postgresql(tmp_path: Path, way: str, postgres_home: tuple[Path, list[str]]) -> None:
    home, user = postgres_home
    data, port = str(home / "data"), free_port()
    done(*user, str(postgres_program("initdb")), "-D", data, "-A", "trust", "-U", "tester",
         "--no-sync", timeout=120)  # fmt: skip
    server = [*user, str(postgres_program("postgres")), "-D", data, "-p", str(port),
              "-k", str(home), "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off",
              "-c", "lc_messages=C"]  # fmt: skip
    rows = tmp_path / "rows.csv"
    rows.write_text("".join(f"{n},{'x' * 80}\n" for n in range(100_000)))
    log = tmp_path / "postgres.log"
    with running(server, port, log), serving(tmp_path) as site:
        # It listens before it serves.
        wait_until(lambda: "ready to accept connections" in log.read_text())
        where = f"host=127.0.0.1 port={reach(site, way, port)} user=tester dbname=postgres"

        def sql(text: str) -> str:
            return done("psql", where, "-v", "ON_ERROR_STOP=1", "-qAt", "-c", text).strip()

        assert sql("SELECT 6 * 7") == "42"
        sql("CREATE TABLE t (n int, text text)")
        sql(f"\\copy t FROM '{rows}' CSV")
        assert sql("SELECT count(*), sum(n) FROM t") == f"100000|{sum(range(100_000))}"
        back = tmp_path / "back.csv"
        sql(f"\\copy t TO '{back}' CSV")
        assert back.read_bytes() == rows.read_bytes()
        assert 'relation "nope" does not exist' in subprocess.run(
            ["psql", where, "-c", "SELECT * FROM nope"], capture_output=True, text=True, check=False
        ).stderr  # fmt: skip


@needs("redis-server", "redis-cli", "redis-benchmark", package="redis-server")
def test_redis(tmp_path: Path, way: str) -> None:
    port = free_port()
    command = ["redis-server", "--port", str(port), "--save", "", "--bind", "127.0.0.1"]
    with running(command, port, tmp_path / "redis.log"), serving(tmp_path) as site:
        public = str(reach(site, way, port))
        value = "v" * 500_000
        subprocess.run(
            ["redis-cli", "-p", public, "-x", "SET", "k"], input=value, text=True, check=True,
            timeout=30, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        assert done("redis-cli", "-p", public, "GET", "k").strip() == value
        # 50 connections; then pipelines.
        for how in ((), ("-P", "16")):
            found = done(
                "redis-benchmark", "-p", public, "-n", "5000", "-t", "set,get", "--csv", *how
            )
            assert '"GET"' in found
        assert done("redis-cli", "-p", public, "INCRBY", "n", "7").strip() == "7"


@needs(SSHD, "ssh", "scp", "ssh-keygen", package="openssh-server openssh-client")
def test_openssh(tmp_path: Path, way: str) -> None:
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # as its service does
    port, home = free_port(), tmp_path / "ssh"
    home.mkdir(mode=0o700)
    for name in ("host", "user"):
        done("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(home / name))
    shutil.copy(home / "user.pub", home / "authorized")
    config = home / "config"
    config.write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {home}/host\nPidFile none\n"
        f"AuthorizedKeysFile {home}/authorized\nStrictModes no\nUsePAM no\n"
        "PasswordAuthentication no\nSubsystem sftp internal-sftp\nPermitRootLogin yes\n"
    )
    client = [
        "-F", "none", "-i", str(home / "user"), "-o", "StrictHostKeyChecking=no", "-o",
        f"UserKnownHostsFile={home}/known", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes",
    ]  # fmt: skip
    large = tmp_path / "large"
    large.write_bytes(random.Random(7).randbytes(20 << 20))
    with (
        running([str(SSHD), "-D", "-e", "-f", str(config)], port, home / "log"),
        serving(tmp_path) as site,
    ):
        public = str(reach(site, way, port))
        at = f"{pwd.getpwuid(os.geteuid()).pw_name}@127.0.0.1"
        assert done("ssh", *client, "-p", public, at, "echo hello; exit 0") == "hello\n"
        for source, target in (
            (str(large), f"{at}:{tmp_path}/copy"),
            (f"{at}:{tmp_path}/copy", f"{tmp_path}/again"),
        ):
            done("scp", *client, "-q", "-P", public, source, target)
        digests = {
            hashlib.sha256((tmp_path / name).read_bytes()).digest()
            for name in ("large", "copy", "again")
        }
        assert len(digests) == 1


@needs("iperf3", package="iperf3")
@pytest.mark.parametrize("how", [(), ("-R",), ("-P", "8"), ("-P", "8", "-R")], ids="-".join)
def test_iperf3(tmp_path: Path, way: str, how: tuple[str, ...]) -> None:
    port = free_port()
    command = ["iperf3", "-s", "-p", str(port), "-B", "127.0.0.1"]
    with running(command, port, tmp_path / "iperf.log"), serving(tmp_path) as site:
        public = reach(site, way, port)
        command = ["iperf3", "-J", "-c", "127.0.0.1", "-p", str(public), "-n", "512M", *how]
        found = json.loads(done(*command))
        assert "error" not in found
        # The sender is done when the first buffer on the way took its last byte, and the end
        # is said on a connection of its own: what the receiver counted by then is less, by up to
        # some 32 MiB a stream (the buffers of four sockets and two pipes).
        streams = [each["receiver"]["bytes"] for each in found["end"]["streams"]]
        assert len(streams) == (8 if "-P" in how else 1)
        assert min(streams) > 0
        assert sum(streams) > 16 << 20
        # Reset, if iperf3 has closed its listener and not opened the next one yet.
        wait_until(lambda: is_open(public))
        wait_until(lambda: site.stats()["connections"] < 100)  # up to 64 direct ones are ready
