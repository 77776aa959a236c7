"""The way to an MQTT broker: plain or TLS, TCP or WebSocket, with a password or a certificate."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import aiomqtt

from agent.config import Mqtt
from agent.encoding import read_text
from agent.errors import BadInputError

BROKER_TIMEOUT = 5.0
"""s that a broker may take to answer; after that it counts as away."""
KEEPALIVE = 15
_CLOSING_TIME = 0.05
_SCHEMES = {
    "mqtt": (1883, False, False),
    "mqtts": (8883, True, False),
    "ws": (9001, False, True),
    "wss": (443, True, True),
}


def parse_broker(
    url: str,
    *,
    password_file: Path | None = None,
    ca_file: Path | None = None,
    certificate_file: Path | None = None,
    key_file: Path | None = None,
) -> Mqtt:
    """A broker from its address.

    Args:
        url: mqtt://, mqtts://, ws:// or wss://[USER@]HOST[:PORT].
        password_file: holds the user's password and nothing else.
        ca_file, certificate_file, key_file: see agent.config.Mqtt.

    Raises:
        BadInputError: it is no such address, or holds a password, which others could read in the list of processes.

    >>> broker = parse_broker("mqtts://viewer@broker.example.org")
    >>> broker.host, broker.port, broker.tls, broker.username
    ('broker.example.org', 8883, True, 'viewer')
    """
    if "://" not in url:
        url = f"mqtt://{url}"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        msg = f"{url!r} is not the address of a broker ({error}); write mqtts://[USER@]HOST[:PORT]"
        raise BadInputError(msg) from error
    if parts.scheme not in _SCHEMES or not parts.hostname:
        msg = f"{url!r} is not the address of a broker; write mqtt://, mqtts://, ws:// or wss://[USER@]HOST[:PORT]"
        raise BadInputError(msg)
    if parts.password is not None:
        msg = "a password in an address is read by everybody on this machine; put it into a file and name that"
        raise BadInputError(msg)
    standard, tls, websocket = _SCHEMES[parts.scheme]
    return Mqtt(
        host=parts.hostname,
        port=port or standard,
        username=parts.username,
        password_file=password_file,
        tls=tls,
        ca_file=ca_file,
        certificate_file=certificate_file,
        key_file=key_file,
        websocket=websocket,
    )


@asynccontextmanager
async def connected(
    broker: Mqtt, password: str | None, will: aiomqtt.Will | None = None
) -> AsyncIterator[aiomqtt.Client]:
    """A client that is connected as long as the block lasts.

    A broker that does not even answer the goodbye turns a cancellation into a MqttError: a loop of attempts has to ask its task
    whether it is `cancelling`.

    Args:
        broker, password, will: see make_client.

    Raises:
        aiomqtt.MqttError, TimeoutError: the broker is away, or refuses.
        BadInputError: a certificate cannot be read.
    """
    client = make_client(broker, password, will)
    try:
        await client.__aenter__()
    except BaseException:
        # aiomqtt keeps socket and task of an attempt that got no answer. This closes them in the loop's next turns,
        # without its callback, which stumbles over the future that was cancelled.
        client._client.on_disconnect = None
        client._client.disconnect()
        await asyncio.sleep(_CLOSING_TIME)
        raise
    async with AsyncExitStack() as stack:
        stack.push_async_exit(client)
        yield client


def make_client(broker: Mqtt, password: str | None, will: aiomqtt.Will | None = None) -> aiomqtt.Client:
    """A client that is not connected yet.

    Args:
        broker: where and as whom.
        password: of the user; None: none.
        will: what the broker says when the client dies without a word.

    Raises:
        BadInputError: a certificate cannot be read.
    """
    return aiomqtt.Client(
        broker.host,
        broker.port,
        username=broker.username,
        password=password,
        will=will,
        keepalive=KEEPALIVE,
        timeout=BROKER_TIMEOUT,
        tls_context=_tls(broker),
        transport="websockets" if broker.websocket else "tcp",
        websocket_path="/mqtt" if broker.websocket else None,
    )


def heed_cancellation() -> None:
    """Raise the cancellation that asyncio.wait_for of Python 3.11, and so aiomqtt, loses where it comes with a result."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def read_password(broker: Mqtt) -> str | None:
    """The password of a broker's user. Raises BadInputError where its file cannot be read."""
    if broker.password_file is None:
        return None
    try:
        return read_text(broker.password_file).strip()
    except OSError as error:
        msg = f"mqtt.password_file: {broker.password_file} cannot be read ({error.strerror})"
        raise BadInputError(msg) from error


def _tls(broker: Mqtt) -> ssl.SSLContext | None:
    if not broker.tls:
        return None
    try:
        context = ssl.create_default_context(cafile=broker.ca_file)
        if broker.certificate_file is not None:
            context.load_cert_chain(broker.certificate_file, broker.key_file)
    except OSError as error:  # ssl.SSLError is one
        files = [str(path) for path in (broker.ca_file, broker.certificate_file, broker.key_file) if path is not None]
        msg = f"mqtt: the certificates cannot be used ({error.strerror or error}): {', '.join(files)}"
        raise BadInputError(msg) from error
    return context
