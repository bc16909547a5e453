"""Certificates that change under a running server, and what `config validate` says of them."""

from __future__ import annotations

import datetime
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.certificates import Authority, Pair
from tests.e2e.harness import wait_until
from tests.e2e.processes import run
from tests.e2e.target import Target
from tests.e2e.tls_site import NAMES, TlsSite, TlsVisitor, replace

KEPT = "certificates not reloaded, the last good ones stay"


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    with Target() as made:
        yield made


@pytest.fixture
def site(tmp_path: Path, target: Target) -> Iterator[TlsSite]:
    made = TlsSite(tmp_path)
    made.agent_to(port=target.port).printed("connected")
    yield made
    made.close()


def shown(site: TlsSite) -> int:
    """The serial number of the certificate that a new connection sees."""
    with site.tls_visitor() as visitor:
        return visitor.serial


def wait_kept(site: TlsSite, error: str) -> None:
    """Until it was said of new files that they are no good, and why."""
    site.server.wait_for(
        lambda: any(KEPT in line and error in line for line in list(site.server.err))
    )


def wait_shown(site: TlsSite, pair: Pair) -> None:
    """The workers hear of it a moment after the log."""
    wait_until(lambda: shown(site) == pair.leaf.serial_number)


class Load:
    """Visitors without a pause: some keep their connection, some make one for each request."""

    def __init__(self, site: TlsSite) -> None:
        self._site = site
        self._done = threading.Event()
        self.requests = 0
        self.failures: list[str] = []
        self.serials: set[int] = set()
        self._threads = [threading.Thread(target=self._new) for _ in range(2)]
        self._threads += [threading.Thread(target=self._keep) for _ in range(2)]
        for thread in self._threads:
            thread.start()

    def _ask(self, visitor: TlsVisitor) -> None:
        status = visitor.get()
        if status != 200:
            self.failures.append(str(status))
        self.requests += 1

    def _new(self) -> None:
        context = self._site.context()
        while not self._done.is_set():
            try:
                with self._site.tls_visitor(context) as visitor:
                    self.serials.add(visitor.serial)
                    self._ask(visitor)
            except Exception as error:
                self.failures.append(repr(error))

    def _keep(self) -> None:
        try:
            with self._site.tls_visitor() as visitor:
                while not self._done.is_set():
                    self._ask(visitor)
        except Exception as error:
            self.failures.append(repr(error))

    def end(self) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()


def test_no_request_is_lost_while_certificates_change(site: TlsSite) -> None:
    load = Load(site)
    serials = {site.pair.leaf.serial_number}
    try:
        for _ in range(4):
            pair = site.authority.issue(*NAMES)
            serials.add(pair.leaf.serial_number)
            replace(pair, site.certificate, site.key)
            site.hang_up()
            wait_until(lambda: load.serials == serials)
    finally:
        load.end()
    assert load.failures == []
    assert load.requests > 50
    assert load.serials == serials
    links = site.api("/api/v1/stats")
    assert links["links_closed"] == 0
    assert links["tls_reloads"] >= 4


def test_a_changed_file_is_enough(site: TlsSite) -> None:
    with site.tls_visitor() as before:
        pair = site.authority.issue(*NAMES)
        replace(pair, site.certificate, site.key)
        site.server.log("certificates reloaded")
        wait_shown(site, pair)
        assert before.get() == 200  # goes on
        assert before.serial == site.pair.leaf.serial_number


def test_links_that_are_swapped_are_followed(tmp_path: Path, target: Target) -> None:
    """As certbot and Kubernetes do it."""
    authority = Authority()
    pairs = [authority.issue(*NAMES) for _ in range(2)]
    for version, pair in enumerate(pairs):
        (tmp_path / str(version)).mkdir()
        pair.write(tmp_path / str(version), "tls")
    (tmp_path / "live").symlink_to("0")
    (tmp_path / "server.pem").symlink_to("live/tls.pem")
    (tmp_path / "server.key").symlink_to("live/tls.key")
    site = TlsSite(
        tmp_path,
        authority=authority,
        files=(tmp_path / "server.pem", tmp_path / "server.key"),
    )
    try:
        assert shown(site) == pairs[0].leaf.serial_number
        (tmp_path / "fresh").symlink_to("1")
        (tmp_path / "fresh").rename(tmp_path / "live")
        site.server.log("certificates reloaded")
        wait_shown(site, pairs[1])
    finally:
        site.close()


def test_what_is_no_good_leaves_the_last_good_and_is_told_once(site: TlsSite) -> None:
    good = site.pair.leaf.serial_number
    stranger = site.authority.issue(*NAMES)
    fresh = site.key.with_suffix(".new")  # it is looked at whenever it changes: not half of it
    fresh.touch(mode=0o600)
    fresh.write_bytes(stranger.key)
    fresh.rename(site.key)  # fits no more
    error = site.server.log(KEPT)["error"]
    assert str(site.certificate) in error
    assert "key" in error
    assert shown(site) == good
    site.hang_up()
    assert site.server.log("settings not reloaded, the last good ones stay")["error"] == error
    assert shown(site) == good
    time.sleep(5)  # two looks and more
    assert len([line for line in site.server.err if KEPT in line]) == 1
    site.key.chmod(0o644)
    assert "others can read" in site.server.log(KEPT, 2)["error"]
    site.key.chmod(0o600)
    # Two files: a look in between finds a pair that does not fit.
    replace(site.authority.issue_expired(*NAMES), site.certificate, site.key)
    wait_kept(site, "expired on")
    assert shown(site) == good
    site.certificate.unlink()
    wait_kept(site, "No such file")
    assert shown(site) == good
    replace(stranger, site.certificate, site.key)
    site.server.log("certificates reloaded")
    wait_shown(site, stranger)
    stats = site.api("/api/v1/stats")
    assert (stats["tls_reloads"], stats["tls_certificate_days"]) == (1, 89)
    assert stats["tls_reload_failures"] >= 4


def test_settings_of_tls_change_on_sighup(tmp_path: Path, target: Target) -> None:
    file = tmp_path / "proxy.toml"
    file.write_text("")
    site = TlsSite(tmp_path, server_args=["--config", str(file)])
    try:
        assert "alert" in site.s_client("-tls1_2")
        file.write_text('tls_min_version = "1.2"\nhttps_redirect = true\n')
        site.hang_up()
        assert site.server.log("settings reloaded")["changed"] == "tls_min_version"
        assert site.server.log("settings wait for a restart")["settings"] == "https_redirect"
        wait_until(lambda: "TLSv1.2" in site.s_client("-tls1_2"))  # the workers hear of it too
        file.write_text('tls_client_ca = "/none"\n')
        site.hang_up()
        assert "/none" in site.server.log("settings not reloaded, the last good ones stay")["error"]
        assert "TLSv1.2" in site.s_client("-tls1_2")
    finally:
        site.close()


def test_sessions_outlive_a_sighup_and_one_ticket_key(tmp_path: Path) -> None:
    site = TlsSite(tmp_path, server_args=["--tls-ticket-age", "10s"])
    kept = tmp_path / "session.pem"
    ask = "GET / HTTP/1.1\r\nHost: nobody\r\nConnection: close\r\n\r\n"
    try:

        def hello(*args: str) -> str:
            return site.s_client("-ign_eof", *args, say=ask)

        with site.tls_visitor() as visitor:
            assert "New, TLSv1.3" in hello("-sess_out", str(kept))
            site.hang_up()
            site.server.log("certificates reloaded")
            assert "Reused, TLSv1.3" in hello("-sess_in", str(kept))
            # With the key that sealed it the session goes.
            wait_until(lambda: "New, TLSv1.3" in hello("-sess_in", str(kept)))
            visitor.send(ask.encode())  # ... but no connection
            assert visitor.response().status == 404
        assert site.api("/api/v1/stats")["tls_reloads"] == 1
    finally:
        site.close()


def test_a_certificate_that_ends_soon_is_told_ahead(tmp_path: Path) -> None:
    authority = Authority()
    site = TlsSite(
        tmp_path,
        authority=authority,
        pair=authority.issue(*NAMES, ends=datetime.timedelta(days=5, hours=12)),
    )
    try:
        line = site.server.log("a certificate ends soon")
        assert (line["file"], line["days"]) == (str(site.certificate), 5.5)
        assert site.api("/api/v1/stats")["tls_certificate_days"] == 5
        replace(authority.issue_expired(*NAMES), site.certificate, site.key)
        assert "expired on" in site.server.log(KEPT)["error"]
    finally:
        site.close()


def _validate(*environ: tuple[str, str]) -> tuple[int, str]:
    done = run("config", "validate", **dict(environ))
    assert len((done.stderr or done.stdout).splitlines()) == 1
    return done.returncode, done.stderr or done.stdout


def test_validate_looks_into_the_files(tmp_path: Path) -> None:
    authority = Authority()
    made = {
        "good": authority.issue(*NAMES),
        "other": authority.issue(*NAMES),
        "expired": authority.issue_expired(*NAMES),
        "early": authority.issue_early(*NAMES),
    }
    files = {name: [str(x) for x in pair.write(tmp_path, name)] for name, pair in made.items()}
    ca = str(authority.write(tmp_path))

    def check(cert: str, key: str, **more: str) -> tuple[int, str]:
        given = {"PROXY_ENGINE_TLS_CERT": cert, "PROXY_ENGINE_TLS_KEY": key, **more}
        return _validate(*given.items())

    good = files["good"]
    assert check(*good)[0] == 0
    assert check(*good, PROXY_ENGINE_TLS_CLIENT_CA=ca)[0] == 0
    both = Path(tmp_path / "both.pem")
    both.touch(mode=0o600)
    both.write_bytes(made["good"].certificate + made["good"].key)
    assert check(str(both), "")[0] == 0
    cases: list[tuple[str, str, dict[str, str], str]] = [
        (good[0], files["other"][1], {}, good[0]),
        (files["expired"][0], files["expired"][1], {}, "expired on 20"),
        (files["early"][0], files["early"][1], {}, "not valid before 20"),
        (good[0], good[0], {}, "others can read"),
        (good[0], "", {}, "others can read"),
        ("/none", good[1], {}, "/none: No such file"),
        (__file__, good[1], {}, __file__),
        (f"{good[0]},{good[0]}", good[1], {}, "2 files and tls_key 1 file"),
        (good[0], good[1], {"PROXY_ENGINE_TLS_CLIENT_CA": good[1]}, "tls_client_ca"),
        (
            good[0],
            good[1],
            {"PROXY_ENGINE_TLS_CLIENT_CRL": ca},
            "tls_client_crl needs tls_client_ca",
        ),
        (good[0], good[1], {"PROXY_ENGINE_TLS_CLIENT_REQUIRED": "all"}, "needs tls_client_ca"),
        (
            good[0],
            good[1],
            {"PROXY_ENGINE_LISTEN": "http://127.0.0.1:80"},
            "every listen is http://",
        ),
        (
            good[0],
            good[1],
            {"PROXY_ENGINE_ADMIN_TLS_KEY": "x"},
            "admin_tls_key needs admin_tls_cert",
        ),
        ("", "", {"PROXY_ENGINE_LISTEN": "https://127.0.0.1:80"}, "needs a certificate"),
    ]
    for cert, key, more, says in cases:
        code, said = check(cert, key, **more)
        assert (code, says in said) == (2, True), said
