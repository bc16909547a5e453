"""TLS of the admin listener, asked by the command line and by what speaks no 1.3."""

from __future__ import annotations

import json
import signal
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tests.certificates import Authority
from tests.e2e.harness import wait_until
from tests.e2e.processes import TIMEOUT, Process, run
from tests.e2e.tls_site import replace


class AdminSite:
    """A server whose admin listener has TLS."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority()
        self.ca = self.authority.write(folder)
        self.certificate, self.key = self.authority.issue("127.0.0.1").write(folder)
        self.server = Process(
            "run", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--log-format", "json",
            "--data-dir", str(folder / "data"), "--admin-tls-cert", str(self.certificate),
            "--admin-tls-key", str(self.key),
        )  # fmt: skip
        self.token = self.server.printed("first_run")["admin_token"]
        self.port = int(str(self.server.log("listening")["admin"]).rpartition(":")[2])

    def ask(self, *words: str, scheme: str = "https") -> CompletedProcess[str]:
        url = f"{scheme}://127.0.0.1:{self.port}"
        return run(*words, "--admin", url, PROXY_ENGINE_ADMIN_TOKEN=self.token)

    def serial(self) -> str:
        """Of the certificate that a new connection gets."""
        context = ssl.create_default_context(cafile=str(self.ca))
        with (
            socket.create_connection(("127.0.0.1", self.port), timeout=TIMEOUT) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as secure,
        ):
            assert secure.version() == "TLSv1.3"
            shown = secure.getpeercert()
        assert shown is not None
        return str(shown["serialNumber"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AdminSite]:
    made = AdminSite(tmp_path_factory.mktemp("admin"))
    yield made
    made.server.end()


def test_the_command_line_trusts_the_authority_it_is_given(site: AdminSite) -> None:
    done = site.ask("token", "list", "--json", "--ca", str(site.ca))
    assert done.returncode == 0, done.stderr
    assert [token["name"] for token in json.loads(done.stdout)] == ["admin", "default"]


def test_a_certificate_nobody_vouches_for_is_refused_in_one_line(site: AdminSite) -> None:
    done = site.ask("token", "list")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1), done
    assert "certificate" in done.stderr


def test_plain_http_is_refused_in_one_line(site: AdminSite) -> None:
    done = site.ask("token", "list", scheme="http")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1), done


def test_nothing_older_than_1_3_is_spoken(site: AdminSite) -> None:
    context = ssl.create_default_context(cafile=str(site.ca))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with (
        socket.create_connection(("127.0.0.1", site.port), timeout=TIMEOUT) as plain,
        pytest.raises(ssl.SSLError, match=r"(?i)protocol|EOF"),  # with or without an alert
    ):
        context.wrap_socket(plain, server_hostname="127.0.0.1")


def test_a_new_certificate_is_used_without_a_restart(site: AdminSite) -> None:
    before = site.serial()
    replace(site.authority.issue("127.0.0.1"), site.certificate, site.key)
    site.server.signal(signal.SIGHUP)
    wait_until(lambda: site.serial() != before)
