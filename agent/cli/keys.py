"""`ptychopilot keys`: every key, certificate and password that a facility needs, by one command, each of them new."""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import os
import secrets
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from agent.errors import BadInputError
from instrument.access import Role
from instrument.keys import generate_keys

BROKER_USERS = ("agent", "viewer", "operator")
"""As in deploy/mosquitto/acl."""
PAGE_USERS = ("page-viewer", "page-operator")
CLIENTS: tuple[tuple[str, Role], ...] = (("agent", "agent"), ("operator", "operator"))
AUTHORITY_DAYS, BROKER_DAYS = 3650, 825
_ITERATIONS, _SALT_BYTES, _PASSWORD_BYTES = 101, 12, 24
"""Mosquitto's own number of iterations; passwords of 24 random bytes do not need more."""


def make_keys(folder: Path, hosts: Sequence[str]) -> None:
    """Write CURVE keys, certificates and passwords into a new folder, which nobody else can read.

    Args:
        folder: must not exist, or be empty.
        hosts: names and addresses under which the broker is reached; the first one is in its certificate's subject.

    Raises:
        BadInputError: the folder is not empty or cannot be written, a name is none, or `cryptography` is not installed.
    """
    _require_cryptography()
    names = _alternative_names(hosts)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        msg = (
            f"{folder} is not empty, and keys are not replaced; name a new folder, or --renew the broker's certificate"
        )
        raise BadInputError(msg)
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.chmod(0o700)
        _make_curve_keys(folder)
        _make_passwords(folder)
        _make_authority(folder / "tls")
        _make_broker_certificate(folder / "tls", hosts[0], names)
    except OSError as error:
        msg = f"{folder}: keys cannot be written there ({error.strerror})"
        raise BadInputError(msg) from error


def renew(folder: Path, hosts: Sequence[str]) -> None:
    """Write a new certificate of the broker, signed by the folder's authority; who trusts that need not be told.

    Args:
        folder: made by `make_keys`.
        hosts: as there.

    Raises:
        BadInputError: there is no authority in the folder.
    """
    _require_cryptography()
    if not (folder / "tls" / "ca.key").is_file():
        msg = f"{folder}: no tls/ca.key there; `ptychopilot keys DIR` makes a new folder"
        raise BadInputError(msg)
    _make_broker_certificate(folder / "tls", hosts[0], _alternative_names(hosts))


def hashed(password: str) -> str:
    """A password as Mosquitto's password file has it: PBKDF2 with SHA-512."""
    salt = secrets.token_bytes(_SALT_BYTES)
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, _ITERATIONS)
    return f"$7${_ITERATIONS}${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}"


def _make_curve_keys(folder: Path) -> None:
    admitted = folder / "instrument" / "clients"
    server, _ = generate_keys(folder / "instrument", "instrument")
    admitted.mkdir()
    for name, role in CLIENTS:
        public, _ = generate_keys(folder / name, name, role)
        shutil.copy(public, admitted)
        shutil.copy(server, folder / name)


def _make_passwords(folder: Path) -> None:
    lines = []
    for user in (*BROKER_USERS, *PAGE_USERS):
        password = secrets.token_urlsafe(_PASSWORD_BYTES)
        _write(folder / "passwords" / user, f"{password}\n".encode())
        if user in BROKER_USERS:
            lines.append(f"{user}:{hashed(password)}\n")
    _write(folder / "mosquitto" / "passwords", "".join(lines).encode())


def _make_authority(folder: Path) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = _named("ptychopilot")
    signing = dict.fromkeys(_USES, False) | {"key_cert_sign": True, "crl_sign": True}
    certificate = (
        _dated(x509.CertificateBuilder(), AUTHORITY_DAYS)
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.KeyUsage(**signing), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    _write_pair(folder, "ca", key, certificate)


def _make_broker_certificate(folder: Path, subject: str, names: list[Any]) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID

    authority = x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes())
    signer = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), password=None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    of_authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    certificate = (
        _dated(x509.CertificateBuilder(), BROKER_DAYS)
        .subject_name(_named(subject[:64]))
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(of_authority, critical=False)
        .sign(signer, hashes.SHA256())
    )
    _write_pair(folder, "broker", key, certificate)


_USES = (
    *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
    *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
)


def _named(name: str) -> Any:
    from cryptography import x509

    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])


def _dated(builder: Any, days: int) -> Any:
    from cryptography import x509

    # An hour ago: the clocks of a facility's machines differ.
    begin = datetime.now(UTC) - timedelta(hours=1)
    dated = builder.not_valid_before(begin).not_valid_after(begin + timedelta(days=days))
    return dated.serial_number(x509.random_serial_number())


def _write_pair(folder: Path, name: str, key: Any, certificate: Any) -> None:
    from cryptography.hazmat.primitives import serialization

    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    _write(folder / f"{name}.key", key.private_bytes(serialization.Encoding.PEM, *form))
    _write(folder / f"{name}.crt", certificate.public_bytes(serialization.Encoding.PEM))


def _write(path: Path, content: bytes) -> None:
    """Never readable by others, not for a moment."""
    path.parent.mkdir(exist_ok=True, mode=0o700)
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)


def _alternative_names(hosts: Sequence[str]) -> list[Any]:
    from cryptography import x509

    found: list[Any] = []
    for host in hosts:
        try:
            found.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            if not host or not all(part and part.replace("-", "a").isalnum() for part in host.split(".")):
                msg = f"--host {host!r}: expected a name or an address of the broker, without a port"
                raise BadInputError(msg) from None
            found.append(x509.DNSName(host.encode("idna").decode()))
    return found


def _require_cryptography() -> None:
    try:
        import cryptography  # noqa: F401
    except ImportError as error:
        msg = "keys need the package cryptography: pip install 'ptychopilot[keys]'"
        raise BadInputError(msg) from error
