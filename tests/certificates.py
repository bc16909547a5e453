"""A certificate authority for tests, and the certificates they need, good and bad.

    authority = Authority()
    pair = authority.issue("web.example.com", "*.example.com", "127.0.0.1")
    certificate, key = pair.write(tmp_path)

Keys are ECDSA P-256 because those are made in no time. Nothing is written unless asked for.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import ipaddress
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAY = datetime.timedelta(days=1)

_PEM = Encoding.PEM


class Pair(NamedTuple):
    """A certificate with what leads to its root, and its key."""

    leaf: x509.Certificate
    certificate: bytes  # PEM: the leaf, then intermediates
    key: bytes  # PEM

    def write(self, folder: Path, name: str = "server") -> tuple[Path, Path]:
        """The paths of both; the key can be read by its owner alone."""
        certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
        certificate.write_bytes(self.certificate)
        key.touch(mode=0o600)
        key.write_bytes(self.key)
        return certificate, key

    @property
    def pin(self) -> str:
        """sha256/... of the public key, as curl and RFC 7469 have it."""
        found = self.leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return "sha256/" + base64.b64encode(hashlib.sha256(found).digest()).decode()


class Authority:
    """
    Args:
        parent: who signs this one; None: it is a root.
    """

    def __init__(self, name: str = "test CA", *, parent: Authority | None = None) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _subject(name)
        issuer = parent or self
        builder = (
            _builder(self._name, issuer._name, self._key, -DAY, 3650 * DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
            .add_extension(_authority_key(issuer), critical=False)
        )
        self._certificate = builder.sign(issuer._key, hashes.SHA256())
        self.pem = self._certificate.public_bytes(_PEM)
        self._chain: bytes = b"" if parent is None else self.pem + parent._chain

    def issue(
        self,
        *names: str,
        common_name: str = "",
        client: bool = False,
        begins: datetime.timedelta = -DAY,
        ends: datetime.timedelta = 90 * DAY,
    ) -> Pair:
        """A certificate for these host names and addresses.

        Args:
            common_name: of the subject; by default the first name.
            client: it is for clients, not for servers.
            begins, ends: from now.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _subject(common_name or names[0])
        builder = _leaf(subject, self._name, key, names, client, begins, ends)
        builder = builder.add_extension(_authority_key(self), critical=False)
        return self._pair(builder.sign(self._key, hashes.SHA256()), key)

    def issue_expired(self, *names: str, client: bool = False) -> Pair:
        return self.issue(*names, client=client, begins=-90 * DAY, ends=-DAY)

    def issue_early(self, *names: str, client: bool = False) -> Pair:
        """One that is not valid yet."""
        return self.issue(*names, client=client, begins=DAY, ends=90 * DAY)

    def issue_for_client(self, name: str) -> Pair:
        return self.issue(name, client=True)

    def revoke(self, *pairs: Pair) -> bytes:
        """A revocation list (PEM) that names these, and only these."""
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._name)
            .last_update(now - DAY)
            .next_update(now + 30 * DAY)
            .add_extension(_authority_key(self), critical=False)
            .add_extension(x509.CRLNumber(1), critical=False)
        )
        for pair in pairs:
            revoked = x509.RevokedCertificateBuilder().serial_number(pair.leaf.serial_number)
            builder = builder.add_revoked_certificate(revoked.revocation_date(now - DAY).build())
        return builder.sign(self._key, hashes.SHA256()).public_bytes(_PEM)

    def write(self, folder: Path, name: str = "ca") -> Path:
        path = folder / f"{name}.pem"
        path.write_bytes(self.pem)
        return path

    def _pair(self, leaf: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Pair:
        return Pair(leaf, leaf.public_bytes(_PEM) + self._chain, _key_pem(key))


def self_signed(*names: str) -> Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _subject(names[0])
    leaf = _leaf(subject, subject, key, names, False, -DAY, 90 * DAY).sign(key, hashes.SHA256())
    return Pair(leaf, leaf.public_bytes(_PEM), _key_pem(key))


def _leaf(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    names: Sequence[str],
    client: bool,
    begins: datetime.timedelta,
    ends: datetime.timedelta,
) -> x509.CertificateBuilder:
    purpose = ExtendedKeyUsageOID.CLIENT_AUTH if client else ExtendedKeyUsageOID.SERVER_AUTH
    builder = (
        _builder(subject, issuer, key, begins, ends)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    )
    if names:
        alternative = x509.SubjectAlternativeName([_general_name(name) for name in names])
        builder = builder.add_extension(alternative, critical=False)
    return builder


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    begins: datetime.timedelta,
    ends: datetime.timedelta,
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + begins)
        .not_valid_after(now + ends)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _authority_key(authority: Authority) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(authority._key.public_key())


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(_PEM, PrivateFormat.PKCS8, NoEncryption())


def _usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )
