"""The API of a real server against its own OpenAPI document, by schemathesis."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.processes import TIMEOUT
from tests.e2e.site import Site

# Which cursors and names there are no schema can say, so "valid" data may be refused.
LEFT_OUT = "positive_data_acceptance"
# Two that take away the token it comes with, and all behind them would answer 401 and nothing else;
# one that takes as long as it is asked to.
APART = ("rotate_token", "revoke_token", "read_cpu_profile")
EXAMPLES = 15  # for each operation
SECONDS = 240


def test_what_is_no_http_is_a_problem_too(tmp_path: Path) -> None:
    site = Site(tmp_path / "data")
    try:
        for request in (b"GET /" + b"x" * 70000 + b" HTTP/1.1\r\n\r\n", b"GET\r\n\r\n"):
            answer = b""
            with (
                socket.create_connection(("127.0.0.1", site.admin_port), timeout=TIMEOUT) as peer,
                # Closed with some of the request unread: the end is a reset then.
                contextlib.suppress(ConnectionError),
            ):
                peer.sendall(request)
                while data := peer.recv(65536):
                    answer += data
            head, _, body = answer.partition(b"\r\n\r\n")
            assert head.split(b" ", 2)[1] == b"400", head
            assert b"application/problem+json" in head
            assert json.loads(body)["code"] == "bad_request"
    finally:
        site.close()


@pytest.mark.timeout(2 * SECONDS + 60)
def test_schemathesis_finds_nothing(tmp_path: Path) -> None:
    # It tries wrong tokens all the time.
    site = Site(tmp_path / "data", server_args=("--login-failures", "0", "--debug"))
    try:
        site.make_token("pi")
        others = [flag for name in APART for flag in ("--exclude-operation-id", name)]
        assert "Authentication failed" not in schemathesis(site, *others)
        for name in APART:
            token = site.make_token(name, "--kind", "admin")
            mode = "negative" if name == "read_cpu_profile" else "all"
            schemathesis(site, "--include-operation-id", name, "--mode", mode, token=token)
    finally:
        site.close()


def schemathesis(site: Site, *chosen: str, token: str = "") -> str:
    """What it says when it found nothing."""
    result = subprocess.run(
        [
            sys.executable, "-m", "schemathesis.cli", "run",
            f"http://127.0.0.1:{site.admin_port}/openapi.json",
            "--header", f"Authorization: Bearer {token or site.admin_token}",
            "--checks", "all", "--exclude-checks", LEFT_OUT,
            "--max-examples", str(EXAMPLES), "--seed", "1",
            "--generation-database", "none", "--no-color",
            # That a machine is slow is no finding.
            "--request-timeout", str(TIMEOUT), "--suppress-health-check", "too_slow", *chosen,
        ],
        cwd=site.data_dir, capture_output=True, text=True, timeout=SECONDS + 30,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
    assert "internal_error" not in result.stdout
    return result.stdout
