"""Addresses of sockets, `tcp://HOST:PORT` or `ipc://PATH`: whether one is legal, who can reach it, and what lies beside it."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

import zmq

from instrument.errors import ConflictError, MalformedRequestError

_TCP = re.compile(r"tcp://(?P<host>\[[^\[\]]+\]|[^:/\[\]\s]+):(?P<port>\*|\d{1,5})")
_ALL_INTERFACES = ("0.0.0.0", "[::]", "*")


def check_endpoint(endpoint: str) -> None:
    """Refuse what no socket can be bound to.

    Args:
        endpoint: tcp://ADDRESS:PORT or ipc://PATH.

    Raises:
        MalformedRequestError: it is neither, or the port is above 65535.
    """
    if endpoint.startswith("ipc://") and endpoint != "ipc://":
        return
    found = _TCP.fullmatch(endpoint)
    if found is not None and (found["port"] == "*" or int(found["port"]) < 65536):
        return
    msg = (
        f"{endpoint!r} is not an endpoint; expected tcp://ADDRESS:PORT (port 0 … 65535 or *, an IPv6 address in brackets, "
        "like tcp://[::1]:5555) or ipc://PATH"
    )
    raise MalformedRequestError(msg, endpoint=endpoint)


def bind(socket: zmq.Socket[Any], endpoint: str) -> None:
    """Bind a socket.

    Args:
        socket: with its options set.
        endpoint: see `check_endpoint`.

    Raises:
        ConflictError: another program has it.
        MalformedRequestError: it cannot be bound on this machine.
    """
    try:
        socket.bind(endpoint)
    except zmq.ZMQError as error:
        if error.errno == zmq.EADDRINUSE:
            msg = f"{endpoint} is in use by another program; stop it or choose another port (* takes a free one)"
            raise ConflictError(msg, endpoint=endpoint) from error
        msg = f"{endpoint} cannot be bound here: {error.strerror}"
        raise MalformedRequestError(msg, endpoint=endpoint) from error


def require_free(*endpoints: str) -> None:
    """Bind endpoints for a moment, before work that would be lost where one is taken. A socket file is left alone.

    Args:
        endpoints: see `check_endpoint`.

    Raises:
        ConflictError, MalformedRequestError: as `bind`.
    """
    with zmq.Context() as context:
        for endpoint in endpoints:
            check_endpoint(endpoint)
            if endpoint.startswith("ipc://"):
                continue
            with context.socket(zmq.REP) as socket:
                allow_ipv6(socket, endpoint)
                bind(socket, endpoint)


def is_loopback(endpoint: str) -> bool:
    """Whether only this machine can reach an endpoint.

    Args:
        endpoint: tcp://, ipc:// or inproc:// address.
    """
    if endpoint.startswith(("ipc://", "inproc://")):
        return True
    address = _address(endpoint)
    if address is None:
        return _host(endpoint) == "localhost"
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback


def allow_ipv6(socket: zmq.Socket[Any], endpoint: str) -> None:
    """Let a socket use IPv6 where its endpoint asks for it by number.

    Not in general: with IPv6, ZeroMQ resolves `localhost` to ::1, where a server on 127.0.0.1 is not found.

    Args:
        socket: not yet bound or connected.
        endpoint: that it will be bound or connected to.
    """
    if isinstance(_address(endpoint), IPv6Address):
        socket.ipv6 = True


def beside(control: str, purpose: str) -> str:
    """A free port on the interface of the control endpoint, or a socket file beside it.

    Args:
        control: endpoint of the commands.
        purpose: ending of the socket file's name.
    """
    return f"tcp://{_host(control)}:*" if control.startswith("tcp://") else f"{control}.{purpose}"


def as_reached(endpoint: str, control: str) -> str:
    """An endpoint that is bound to all interfaces, as it is reached from here.

    Args:
        endpoint: as the server tells it.
        control: the endpoint through which the server was reached.
    """
    if _host(endpoint) not in _ALL_INTERFACES:
        return endpoint
    return f"tcp://{_host(control)}:{endpoint.rpartition(':')[2]}"


def _host(endpoint: str) -> str:
    return endpoint.removeprefix("tcp://").rpartition(":")[0] if endpoint.startswith("tcp://") else ""


def _address(endpoint: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(_host(endpoint).removeprefix("[").removesuffix("]"))
    except ValueError:
        return None
