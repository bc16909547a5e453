"""The certificates that tests use are what they are said to be, by OpenSSL's own judgement."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.certificates import Authority, Pair, self_signed


def _verify(folder: Path, authority: Authority, pair: Pair, *options: str) -> str:
    (folder / "leaf.pem").write_bytes(pair.certificate)
    found = subprocess.run(
        [
            *("openssl", "verify", "-x509_strict", "-CAfile", str(authority.write(folder))),
            *("-untrusted", "leaf.pem", *options, "leaf.pem"),
        ],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    return found.stdout + found.stderr


def test_good_certificates_verify(tmp_path: Path) -> None:
    root = Authority()
    names = ("web.example.com", "*.example.com", "127.0.0.1")
    for issuer in (root, Authority("between", parent=root)):
        pair = issuer.issue(*names)
        for name in ("web.example.com", "other.example.com"):
            assert "OK" in _verify(tmp_path, root, pair, "-verify_hostname", name)
        assert "OK" in _verify(tmp_path, root, pair, "-verify_ip", "127.0.0.1")
        assert "mismatch" in _verify(tmp_path, root, pair, "-verify_hostname", "example.org")
    client = root.issue_for_client("pi")
    assert "OK" in _verify(tmp_path, root, client, "-purpose", "sslclient")
    assert "purpose" in _verify(tmp_path, root, client, "-purpose", "sslserver")


@pytest.mark.parametrize("kind", ["expired", "early", "self-signed", "other CA", "revoked"])
def test_bad_certificates_do_not(tmp_path: Path, kind: str) -> None:
    root = Authority()
    options: tuple[str, ...] = ()
    if kind == "expired":
        pair, reason = root.issue_expired("a.example"), "expired"
    elif kind == "early":
        pair, reason = root.issue_early("a.example"), "not yet valid"
    elif kind == "self-signed":
        pair, reason = self_signed("a.example"), "self-signed"
    elif kind == "other CA":
        pair, reason = Authority("other").issue("a.example"), "unable to get local issuer"
    else:
        pair, reason = root.issue("a.example"), "revoked"
        (tmp_path / "list.pem").write_bytes(root.revoke(pair))
        options = ("-crl_check", "-CRLfile", "list.pem")
        assert "OK" in _verify(tmp_path, root, root.issue("b.example"), *options)
    assert reason in _verify(tmp_path, root, pair, *options)
