"""`ptychopilot keys`: all secrets of a facility by one command, readable by nobody else."""

from __future__ import annotations

import base64
import hashlib
import ssl
import stat
from pathlib import Path

import pytest

from agent.cli.keys import BROKER_USERS, hashed, make_keys, renew
from agent.errors import BadInputError
from instrument.keys import ClientKeys, ServerKeys

pytest.importorskip("cryptography")


def _subject(certificate: Path) -> str:
    decoded = ssl._ssl._test_decode_cert(str(certificate))  # type: ignore[attr-defined]
    return str(decoded["serialNumber"])


def test_one_command_makes_every_secret_and_only_its_owner_can_read_them(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    make_keys(folder, ["broker.example.org", "10.0.0.5"])
    server = ServerKeys.load(None, None, folder / "instrument")
    assert server is not None
    assert {path.stem for path in server.clients.iterdir()} == {"agent", "operator"}
    assert "role = agent" in (server.clients / "agent.key").read_text()
    assert (
        ClientKeys.in_folder(folder / "agent").server
        == ClientKeys.in_folder(folder / "operator").server
        == server.public
    )
    secrets = [
        *folder.rglob("*secret"),
        *(folder / "passwords").iterdir(),
        *folder.rglob("tls/*.key"),
        folder / "mosquitto/passwords",
    ]
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in secrets)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    passwords = {(folder / "passwords" / user).read_text() for user in BROKER_USERS}
    assert len(passwords) == len(BROKER_USERS)
    context = ssl.create_default_context(cafile=str(folder / "tls" / "ca.crt"))
    assert context.get_ca_certs()[0]["subject"] == ((("commonName", "ptychopilot"),),)


def test_a_certificate_is_renewed_and_its_authority_stays(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    make_keys(folder, ["localhost"])
    authority, before = (folder / "tls/ca.crt").read_bytes(), _subject(folder / "tls/broker.crt")
    renew(folder, ["localhost"])
    assert (folder / "tls/ca.crt").read_bytes() == authority
    assert _subject(folder / "tls/broker.crt") != before


def test_keys_are_never_replaced_and_nonsense_is_refused(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "thesis.txt").touch()
    with pytest.raises(BadInputError, match="not empty"):
        make_keys(tmp_path / "old", ["localhost"])
    with pytest.raises(BadInputError, match="without a port"):
        make_keys(tmp_path / "new", ["broker:8883"])
    assert not (tmp_path / "new").exists()
    with pytest.raises(BadInputError, match=r"no tls/ca\.key"):
        renew(tmp_path / "old", ["localhost"])


def test_a_password_is_hashed_as_mosquitto_checks_it() -> None:
    _, kind, iterations, salt, digest = hashed("secret").split("$")
    expected = hashlib.pbkdf2_hmac("sha512", b"secret", base64.b64decode(salt), int(iterations))
    assert (kind, base64.b64decode(digest)) == ("7", expected)
