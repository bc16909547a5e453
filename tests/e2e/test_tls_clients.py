"""Client certificates: of devices, bound to their names, and of everybody."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.certificates import Authority, Pair
from tests.e2e.harness import wait_until
from tests.e2e.processes import Process
from tests.e2e.target import Target
from tests.e2e.tls_site import DOMAIN, TlsSite

REFUSED = "not connected, trying again"


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    with Target() as made:
        yield made


class Fleet:
    """A site whose devices have certificates of an authority of their own."""

    def __init__(self, folder: Path, target: Target, required: str) -> None:
        self.folder = folder
        self.target = target
        self.authority = Authority("devices")
        self.revoked = self.authority.issue_for_client("revoked")
        crl = folder / "devices.crl"
        crl.write_bytes(self.authority.revoke(self.revoked))
        self.site = TlsSite(
            folder,
            server_args=[
                *("--tls-client-ca", str(self.authority.write(folder, "devices"))),
                *("--tls-client-crl", str(crl), "--tls-client-required", required),
            ],
        )

    def flags(self, pair: Pair, name: str = "device") -> list[str]:
        cert, key = pair.write(self.folder, name)
        return ["--cert", str(cert), "--key", str(key)]

    def agent(self, device: str, *args: str, tunnel: str = "web", server: str = "") -> Process:
        token = self.site.make_token(f"{device}-{len(self.site.processes)}", "--device", device)
        return self.site.agent_to(
            f"--http={tunnel}=127.0.0.1:{self.target.port}", *args, token=token, server=server
        )


@pytest.fixture
def fleet(tmp_path: Path, target: Target, request: pytest.FixtureRequest) -> Iterator[Fleet]:
    made = Fleet(tmp_path, target, getattr(request, "param", "devices"))
    yield made
    made.site.close()


def test_a_device_shows_a_certificate_of_its_name(fleet: Fleet) -> None:
    site = fleet.site
    agent = fleet.agent("pi", *fleet.flags(fleet.authority.issue_for_client("pi")))
    agent.printed("connected")
    [link] = site.api("/api/v1/devices/pi")["links"]
    assert "cn:pi" in link["certificate"]
    assert site.curl("-f").returncode == 0  # visitors need none

    without = fleet.agent("po")
    assert without.exit_code() == 1
    assert "this device has to show a certificate" in without.err[-1]
    plain = fleet.agent("po", server=f"http://127.0.0.1:{site.port}")
    assert plain.exit_code() == 1
    assert "this device has to show a certificate" in plain.err[-1]
    other = fleet.agent("po", *fleet.flags(fleet.authority.issue_for_client("pi"), "stolen"))
    assert other.exit_code() == 1
    assert "the certificate is for cn:pi, not for device po (403)" in other.err[-1]
    refused = site.server.log("link refused", 3)
    assert (refused["status"], refused["code"]) == (403, "wrong_certificate")
    assert wait_until(lambda: site.is_online("web"))


def test_names_are_bound_to_devices(fleet: Fleet) -> None:
    site = fleet.site
    pair = fleet.authority.issue("serial-7.devices.test", common_name="serial 7", client=True)
    flags = fleet.flags(pair)
    refused = fleet.agent("pi", *flags)
    assert refused.exit_code() == 1
    site.command("device", "certificate", "pi", "dns:serial-7.devices.test")
    assert "dns:serial-7.devices.test" in site.command("device", "show", "pi")
    agent = fleet.agent("pi", *flags)
    agent.printed("connected")
    # A name that is bound to another device is free for none.
    site.command("device", "create", "po")
    taken = site.command("audit", "list")
    assert "certificate_names" in taken
    # What it has does not fit any more: its links end, and it is not let in again.
    site.command("device", "certificate", "pi", "cn:serial 8")
    assert agent.exit_code() == 1
    assert "not for device pi" in agent.err[-1]
    site.command("device", "certificate", "pi")
    own = fleet.agent("pi", *fleet.flags(fleet.authority.issue_for_client("pi"), "own"))
    own.printed("connected")


@pytest.mark.parametrize("kind", ["revoked", "stranger", "expired", "for servers"])
def test_a_client_certificate_that_is_no_good_is_refused(fleet: Fleet, kind: str) -> None:
    pair = {
        "revoked": lambda: fleet.revoked,
        "stranger": lambda: Authority("stranger").issue_for_client("revoked"),
        "expired": lambda: fleet.authority.issue_expired("revoked", client=True),
        "for servers": lambda: fleet.authority.issue("revoked"),
    }[kind]()
    agent = fleet.agent("revoked", *fleet.flags(pair))
    reason = str(agent.log(REFUSED)["reason"])
    assert "certificate" in reason or "authority" in reason or "unknown ca" in reason, reason
    assert agent.popen.poll() is None  # certificates are renewed: it tries again


@pytest.mark.parametrize("fleet", ["all"], indirect=True)
def test_curl_with_and_without_a_client_certificate(fleet: Fleet) -> None:
    site = fleet.site
    flags = fleet.flags(fleet.authority.issue_for_client("pi"))
    fleet.agent("pi", *flags).printed("connected")
    assert site.curl("-f", *flags).returncode == 0
    assert site.curl("-f").returncode in (16, 35, 52, 55, 56)
    revoked = site.curl("-f", *fleet.flags(fleet.revoked, "revoked"))
    assert revoked.returncode in (16, 35, 52, 55, 56)


@pytest.mark.parametrize("fleet", ["no"], indirect=True)
def test_certificates_may_be_asked_for_and_not_required(fleet: Fleet) -> None:
    fleet.agent("pi").printed("connected")
    with_one = fleet.agent("po", *fleet.flags(fleet.authority.issue_for_client("po")), tunnel="two")
    with_one.printed("connected")
    wrong = fleet.agent("pa", *fleet.flags(fleet.authority.issue_for_client("po"), "stolen"))
    assert wrong.exit_code() == 1
    assert fleet.site.curl("-f", name=f"two.{DOMAIN}").returncode == 0


def test_a_new_revocation_list_counts_for_the_next_connection(fleet: Fleet) -> None:
    pair = fleet.authority.issue_for_client("pi")
    agent = fleet.agent("pi", *fleet.flags(pair))
    agent.printed("connected")
    crl = fleet.folder / "devices.crl"
    crl.write_bytes(fleet.authority.revoke(pair))
    fleet.site.server.log("certificates reloaded")
    assert fleet.site.curl("-f").returncode == 0  # what is there goes on
    fleet.site.command("device", "kick", "pi")
    assert "revoked" in str(agent.log(REFUSED, 2)["reason"])
