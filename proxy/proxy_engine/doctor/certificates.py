"""Whether visitors and agents will take the server's certificates."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from proxy_engine.doctor.finding import Finding, Findings, error, ok, skipped, warning
from proxy_engine.doctor.names import is_local
from proxy_engine.errors import UsageError
from proxy_engine.tls import keeper, key_files

if TYPE_CHECKING:
    from proxy_engine.settings.config import Settings
    from proxy_engine.tls.server import Certificate

SOON = 30 * 86400  # seconds
LEAF_ALONE = 20, 21  # X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY, ..._VERIFY_LEAF_SIGNATURE
SELF_SIGNED = 18, 19


def certificates(settings: Settings, now: float) -> Findings:
    if not settings.tls_cert and not settings.admin_tls_cert:
        yield skipped("tls", "no certificate is given: visitors and agents speak plain HTTP")
        return
    try:
        found = keeper.read(settings)
    except UsageError as problem:
        yield error("tls", str(problem), "docs/tls.md says what these files have to be")
        return
    for each in found.certificates:
        yield dates(each, now)
    files = key_files.pairs(settings.tls_cert, settings.tls_key, "tls_")
    for pair, each in zip(files, found.listeners.certificates, strict=True):
        names = dns_names(each)
        if names:
            yield chain(pair.certificate, pair.key, names[0].replace("*", "doctor", 1))
    if found.listeners.certificates and not is_local(settings.domain):
        yield covered(
            settings.domain, [x for c in found.listeners.certificates for x in dns_names(c)]
        )


def dns_names(certificate: Certificate) -> list[str]:
    return [name[4:] for name in certificate.names if name.startswith("dns:")]


def dates(certificate: Certificate, now: float) -> Finding:
    if refusal := certificate.refusal(now):
        return error("tls.dates", refusal, "renew it; is the clock right?")
    days = int((certificate.not_after - now) // 86400)
    text = f"{certificate.file} is good for {days} days"
    if certificate.not_after - now > SOON:
        return ok("tls.dates", text)
    return warning("tls.dates", text, "renew it: new files are taken over without a restart")


def covered(domain: str, names: list[str]) -> Finding:
    missing = [name for name in (domain, f"*.{domain}") if name not in names]
    if not missing:
        return ok("tls.names", f"{domain} and *.{domain} are covered")
    return warning(
        "tls.names",
        f"no certificate is for {' and '.join(missing)}, only for {', '.join(names) or 'no name'}",
        "visitors of tunnels there are warned; a wildcard needs the ACME DNS challenge",
    )


def chain(certificate: str, key: str, name: str) -> Finding:
    """Whether a client that trusts the system's authorities gets from it to one of them: by a
    handshake in memory."""
    code, text = handshake(certificate, key, name)
    if code == 0:
        return ok("tls.chain", f"{certificate} leads to an authority that this system trusts")
    if code in SELF_SIGNED:
        advice = "visitors are warned; agents need --ca with it, or --pin"
    elif code in LEAF_ALONE:
        advice = (
            "put the intermediate certificates behind it in the file (fullchain.pem); with an "
            "authority of your own, agents need --ca"
        )
    else:
        advice = "docs/errors.md#tls"
    return warning("tls.chain", f"{certificate}: {text}", advice)


def handshake(certificate: str, key: str, name: str) -> tuple[int, str]:
    """What OpenSSL says of it: 0, or an X509_V_ERR_... and its text; -1 for anything else."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    client = ssl.create_default_context()
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    try:
        server.load_cert_chain(certificate, key)
        asks = client.wrap_bio(back, there, server_hostname=name)
        answers = server.wrap_bio(there, back, server_side=True)
        for _ in range(8):
            for side in (asks, answers):
                try:
                    side.do_handshake()
                except ssl.SSLWantReadError:
                    continue
    except ssl.SSLCertVerificationError as problem:
        return problem.verify_code, problem.verify_message
    except (OSError, ValueError) as problem:
        return -1, str(problem)
    return 0, ""
