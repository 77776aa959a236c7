"""CURVE keys: who may command the instrument from another machine.

A key pair is two files, `NAME.key` (public, may be handed out) and `NAME.key_secret` (stays where it is, mode 0600). A
server has its own pair and a directory with the public keys of the clients it admits; a client has its own pair and the
public key of the server.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import zmq
from zmq.auth import create_certificates, load_certificate
from zmq.auth.thread import ThreadAuthenticator

from instrument.errors import MalformedRequestError


@dataclass(frozen=True)
class ServerKeys:
    """The server's pair and the directory of admitted clients' public keys (`*.key`)."""

    public: bytes
    secret: bytes
    clients: Path

    @classmethod
    def load(cls, secret_file: Path | None, clients: Path | None) -> ServerKeys | None:
        """Keys from their files; None where neither is given. Half a configuration raises MalformedRequestError."""
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
        """Make a socket a CURVE server; before it is bound."""
        socket.curve_secretkey, socket.curve_publickey, socket.curve_server = self.secret, self.public, True

    def authenticator(self, context: zmq.Context[Any]) -> ThreadAuthenticator:
        """A ZAP handler with a thread of its own that admits the listed clients; the caller starts and stops it."""
        authenticator = ThreadAuthenticator(context)
        authenticator.start()
        authenticator.configure_curve(domain="*", location=str(self.clients))
        return authenticator


@dataclass(frozen=True)
class ClientKeys:
    """The client's pair and the public key of the server it talks to."""

    public: bytes
    secret: bytes
    server: bytes

    @classmethod
    def load(cls, secret_file: Path | None, server_file: Path | None) -> ClientKeys | None:
        """Keys from their files; None where neither is given. Half a configuration raises MalformedRequestError."""
        if secret_file is None and server_file is None:
            return None
        if secret_file is None or server_file is None:
            missing = "the client's secret key" if secret_file is None else "the server's public key"
            msg = f"{missing} is missing; CURVE needs both the client's secret key and the server's public key"
            raise MalformedRequestError(msg)
        public, secret = _load_pair(secret_file)
        return cls(public, secret, _load(server_file)[0])

    def secure(self, socket: zmq.Socket[Any]) -> None:
        """Make a socket a CURVE client; before it is connected."""
        socket.curve_secretkey, socket.curve_publickey, socket.curve_serverkey = self.secret, self.public, self.server


def generate_keys(directory: Path, name: str) -> tuple[Path, Path]:
    """Write a new pair; paths of the public and the secret file. Refuses to replace a pair that exists."""
    public, secret = directory / f"{name}.key", directory / f"{name}.key_secret"
    for path in (public, secret):
        if path.exists():
            msg = f"{path} exists; a key is not replaced, remove it or choose another name"
            raise MalformedRequestError(msg)
    directory.mkdir(parents=True, exist_ok=True)
    create_certificates(directory, name)
    secret.chmod(0o600)
    return public, secret


def is_loopback(endpoint: str) -> bool:
    """Whether an endpoint can be reached from this machine only."""
    if endpoint.startswith(("ipc://", "inproc://")):
        return True
    host = urlsplit(endpoint).hostname or ""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _load_pair(path: Path) -> tuple[bytes, bytes]:
    public, secret = _load(path)
    if secret is None:
        msg = f"{path} holds no secret key; give the file that ends in .key_secret"
        raise MalformedRequestError(msg)
    return public, secret


def _load(path: Path) -> tuple[bytes, bytes | None]:
    try:
        return load_certificate(path)
    except (OSError, ValueError) as error:
        msg = f"{path} is not a key file ({error}); `python -m instrument keys DIR NAME` makes a pair"
        raise MalformedRequestError(msg) from error
