"""CURVE keys: who may command the instrument from another machine.

A key pair is two files, `NAME.key` (public, may be handed out) and `NAME.key_secret` (stays where it is, mode 0600). A
server has its own pair and a directory with the public keys of the clients it admits; a client has its own pair and the
public key of the server. Either side may keep all of it in one folder, see
`ServerKeys.load` and `ClientKeys.in_folder`.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zmq
from zmq.auth import create_certificates, load_certificate
from zmq.auth.thread import ThreadAuthenticator

from instrument.access import ROLES, Admitted, Role
from instrument.errors import MalformedRequestError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class ServerKeys:
    """The server's pair and whom it admits.

    Attributes:
        public: the server's public key, Z85.
        secret: its secret key, Z85.
        clients: directory with the public keys (`*.key`) of the clients that are admitted.
    """

    public: bytes
    secret: bytes
    clients: Path

    @classmethod
    def load(cls, secret_file: Path | None, clients: Path | None, folder: Path | None = None) -> ServerKeys | None:
        """Read the keys from their files.

        Args:
            secret_file: the server's NAME.key_secret.
            clients: directory with the public keys of the clients to admit.
            folder: instead of both: one NAME.key_secret, and the clients' public keys in its subfolder `clients`.

        Returns:
            The keys; None where nothing is given.

        Raises:
            MalformedRequestError: only one of the two is given, or a file is not what it should be.
        """
        if folder is not None:
            if secret_file is not None or clients is not None:
                msg = f"{folder}: one folder holds secret key and clients; give either it or the two of them"
                raise MalformedRequestError(msg)
            secret_file, clients = _only_secret(folder), folder / "clients"
        if secret_file is None and clients is None:
            return None
        if secret_file is None or clients is None:
            missing = "the server's secret key" if secret_file is None else "the directory of the clients' public keys"
            msg = f"{missing} is missing; CURVE needs both the server's secret key and the clients it admits"
            raise MalformedRequestError(msg)
        if not clients.is_dir() or not any(clients.glob("*.key")):
            msg = f"{clients} is not a directory with the public keys (*.key) of the clients to admit"
            raise MalformedRequestError(msg)
        public, secret = _load_pair(secret_file)
        return cls(public, secret, clients)

    def secure(self, socket: zmq.Socket[Any]) -> None:
        """Make a socket a CURVE server.

        Args:
            socket: not yet bound.
        """
        socket.curve_secretkey, socket.curve_publickey, socket.curve_server = self.secret, self.public, True

    def authenticator(self, context: zmq.Context[Any], admitted: Admitted) -> ThreadAuthenticator:
        """Admit the listed clients.

        Args:
            context: whose sockets it decides for.
            admitted: who is admitted, now and later.

        Returns:
            A ZAP handler that has been started, with a thread of its own; the caller stops it.
        """
        authenticator = ThreadAuthenticator(context)
        authenticator.start()
        authenticator.configure_curve_callback(domain="*", credentials_provider=admitted)
        return authenticator


@dataclass(frozen=True)
class ClientKeys:
    """The client's pair and the public key of the server it talks to.

    Attributes:
        public: the client's public key, Z85.
        secret: its secret key, Z85.
        server: the server's public key, Z85.
    """

    public: bytes
    secret: bytes
    server: bytes

    @classmethod
    def load(cls, secret_file: Path | None, server_file: Path | None) -> ClientKeys | None:
        """Read the keys from their files.

        Args:
            secret_file: the client's NAME.key_secret.
            server_file: the server's NAME.key.

        Returns:
            The keys; None where neither is given.

        Raises:
            MalformedRequestError: only one is given, or a file is not what it should be.
        """
        if secret_file is None and server_file is None:
            return None
        if secret_file is None or server_file is None:
            missing = "the client's secret key" if secret_file is None else "the server's public key"
            msg = f"{missing} is missing; CURVE needs both the client's secret key and the server's public key"
            raise MalformedRequestError(msg)
        public, secret = _load_pair(secret_file)
        return cls(public, secret, _load(server_file)[0])

    @classmethod
    def in_folder(cls, folder: Path) -> ClientKeys:
        """Read the keys of a client from one folder.

        Args:
            folder: holds the client's own pair, NAME.key and NAME.key_secret, and one more *.key: the server's public key.

        Returns:
            The keys.

        Raises:
            MalformedRequestError: something else is there.
        """
        secret = _only_secret(folder)
        others = sorted(path for path in folder.glob("*.key") if path.stem != secret.stem)
        if len(others) != 1:
            found = ", ".join(path.name for path in others) or "none"
            msg = (
                f"{folder}: one public key of a server (*.key) is expected beside {secret.name}, found {found}; "
                "copy the server's NAME.key there, and keep the keys of each instrument in a folder of its own"
            )
            raise MalformedRequestError(msg)
        keys = cls.load(secret, others[0])
        assert keys is not None
        return keys

    def secure(self, socket: zmq.Socket[Any]) -> None:
        """Make a socket a CURVE client.

        Args:
            socket: not yet connected.
        """
        socket.curve_secretkey, socket.curve_publickey, socket.curve_serverkey = self.secret, self.public, self.server


def generate_keys(directory: Path, name: str, role: Role = "operator") -> tuple[Path, Path]:
    """Write a new key pair.

    Args:
        directory: made if missing.
        name: stem of the two files.
        role: what its holder may do where it is admitted; a line of the public key's file, which the server's owner may change.

    Returns:
        Paths of the public and the secret file.

    Raises:
        MalformedRequestError: a file of that name exists (a key is not replaced), or name or role is none.
    """
    if not _NAME.fullmatch(name):
        msg = f"{name!r} is no name for a key; letters, digits, dots, dashes and underscores are legal"
        raise MalformedRequestError(msg)
    if role not in ROLES:
        msg = f"{role!r} is no role; legal: {', '.join(ROLES)}"
        raise MalformedRequestError(msg)
    public, secret = directory / f"{name}.key", directory / f"{name}.key_secret"
    for path in (public, secret):
        if path.exists():
            msg = f"{path} exists; a key is not replaced, remove it or choose another name"
            raise MalformedRequestError(msg)
    directory.mkdir(parents=True, exist_ok=True)
    create_certificates(directory, name)
    secret.chmod(0o600)
    public.write_text(public.read_text().replace("metadata\n", f"metadata\n    role = {role}\n", 1))
    return public, secret


def _only_secret(folder: Path) -> Path:
    found = sorted(folder.glob("*.key_secret"))
    if len(found) != 1:
        what = f"{len(found)} secret keys" if found else "no secret key" if folder.is_dir() else "no folder"
        msg = f"{folder}: {what} there; one NAME.key_secret is expected, `python -m instrument keys DIR NAME` makes a pair"
        raise MalformedRequestError(msg)
    return found[0]


def _load_pair(path: Path) -> tuple[bytes, bytes]:
    public, secret = _load(path)
    if secret is None:
        msg = f"{path} holds no secret key; give the file that ends in .key_secret"
        raise MalformedRequestError(msg)
    if os.name == "posix" and (mode := stat.S_IMODE(path.stat().st_mode)) & 0o077:
        msg = f"{path} can be read by others (mode {mode:03o}), so it is no secret; `chmod 600 {path}`, or make a new pair"
        raise MalformedRequestError(msg)
    return public, secret


def _load(path: Path) -> tuple[bytes, bytes | None]:
    try:
        return load_certificate(path)
    except (OSError, ValueError) as error:
        msg = f"{path} is not a key file ({error}); `python -m instrument keys DIR NAME` makes a pair"
        raise MalformedRequestError(msg) from error
