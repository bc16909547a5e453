"""testssl.sh finds nothing, and gives an A where it gives grades.

It takes more than a minute for each version, and is left out where there is no testssl (Debian:
testssl.sh; PROXY_ENGINE_TESTSSL names another one).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.e2e.tls_site import DOMAIN, TlsSite

TESTSSL = os.environ.get("PROXY_ENGINE_TESTSSL") or shutil.which("testssl") or ""
PATIENCE = 900  # seconds, on a machine that does other things as well
# What is no property of the server: a private authority without revocation, DNS and the clock of
# the machine, headers of the service behind it.
NOT_OURS = ("cert_", "DNS_", "OCSP", "HSTS", "clock_skew", "security_headers", "intermediate_cert")


@pytest.mark.skipif(not TESTSSL, reason="no testssl (apt-get install testssl.sh)")
@pytest.mark.timeout(PATIENCE + 60)
@pytest.mark.parametrize("version", ["1.3", "1.2"])
def test_testssl_finds_nothing(tmp_path: Path, version: str) -> None:
    site = TlsSite(tmp_path, server_args=["--tls-min-version", version])
    report = tmp_path / "report.json"
    try:
        subprocess.run(
            [
                *(TESTSSL, "--quiet", "--color", "0", "--warnings", "off", "--nodns", "none"),
                *("--add-ca", str(site.ca), "--jsonfile", str(report), "--ip", "127.0.0.1"),
                f"{DOMAIN}:{site.tls_port}",
            ],
            check=False,
            capture_output=True,
            timeout=PATIENCE,
        )
    finally:
        site.close()
    found = json.loads(report.read_text())
    bad = [
        f"{item['severity']} {item['id']}: {item['finding']}"
        for item in found
        if item["severity"] in ("LOW", "MEDIUM", "HIGH", "CRITICAL")
        and not item["id"].startswith(NOT_OURS)
    ]
    assert bad == []
    findings = {item["id"]: item["finding"] for item in found}
    assert "offered" in findings["TLS1_3"]
    for name in ("SSLv2", "SSLv3", "TLS1", "TLS1_1"):
        assert "not offered" in findings[name]
    assert ("not" in findings["TLS1_2"]) == (version == "1.3")
    # Debian 12's testssl gives no grades yet: no finding is what makes an A there.
    assert findings.get("overall_grade", "A") in ("A", "A+")
