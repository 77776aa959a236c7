"""The way to the instrument: keys, patience, and out of SAFE where an operator has asked for it."""

from __future__ import annotations

import getpass
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import zmq

from agent.campaign.stop import Control
from agent.errors import BadInputError, InstrumentUnavailableError
from agent.events import Audience, PhaseChanged
from agent.storage.facts import InstrumentLink
from agent.storage.journal import Journal
from instrument import (
    ClientKeys,
    Description,
    InstrumentClient,
    MalformedRequestError,
    Rectangle,
    UnreachableError,
    optics,
)
from instrument.endpoints import is_loopback
from instrument.errors import HandshakeError, RefusedError
from instrument.text import visible

PATIENCE_S = 60.0
"""How long an instrument that does not answer is waited for."""
_ATTEMPT_S = 2.0
LONGEST_NAME = 100
"""Characters of an operator's name that the instrument is told; it adds the name of the key."""


@asynccontextmanager
async def connected(
    link: InstrumentLink, holder: str, patience: float, control: Control, say: Callable[[str], None]
) -> AsyncIterator[InstrumentClient]:
    """A client of the instrument, connected while the context is open.

    Args:
        link: control endpoint and keys.
        holder: name under which a lease is held.
        patience: s to wait for an instrument that does not answer.
        control: ends the waiting where the campaign is to stop.
        say: told once, after the first attempt, what is being waited for.

    Raises:
        BadInputError: the endpoint is none, or the keys cannot be read.
        InstrumentUnavailableError: nobody answers there, or it refuses the connection.
        StoppedError: the campaign is to stop.
    """
    endpoint, keys = link.endpoint, load_keys(link.keys, link.endpoint)
    give_up, said = time.monotonic() + patience, False
    fault: HandshakeError | None = None
    async with AsyncExitStack() as stack:
        while True:
            control.check()
            left = give_up - time.monotonic()
            client = InstrumentClient(
                endpoint,
                holder=holder,
                keys=keys,
                timeout=max(min(_ATTEMPT_S, left), 0.1),
                request_timeout=max(patience / 3, 1.0),
            )
            try:
                await stack.enter_async_context(client)
                break
            except UnreachableError as error:
                if isinstance(error.__cause__, zmq.ZMQError):
                    raise BadInputError(str(error)) from error
                if isinstance(error, RefusedError):
                    raise InstrumentUnavailableError(str(error)) from error
                if isinstance(error, HandshakeError):
                    fault = error
                if left <= 0:
                    msg = f"no instrument answers at {endpoint} (tried for {patience:g} s); is it running there?"
                    raise InstrumentUnavailableError(msg if fault is None else str(fault)) from error
                if not said:
                    why = f"no instrument answers at {endpoint} yet" if fault is None else str(fault)
                    say(f"{why}; waiting for up to {patience:g} s (--wait SECONDS; Ctrl-C stops)")
                    said = True
        yield client


def waiting(audience: Audience) -> Callable[[str], None]:
    """What tells an audience that, and for what, the campaign waits."""
    return lambda message: audience.tell(PhaseChanged(phase="waiting", message=message))


def load_keys(folder: Path | None, endpoint: str) -> ClientKeys | None:
    """The CURVE keys to show to an instrument.

    Args:
        folder: that holds them; None: the folder of this user's configuration, ~/.config/ptychopilot/keys, where it exists and
            the instrument is on another machine.
        endpoint: of the instrument.

    Raises:
        BadInputError: the folder does not hold what it should.
    """
    if folder is None:
        folder = _default_keys()
        if folder is None or is_loopback(endpoint) or not folder.is_dir():
            return None
    try:
        return ClientKeys.in_folder(folder)
    except MalformedRequestError as error:
        raise BadInputError(f"keys: {error}") from error


def _default_keys() -> Path | None:
    try:
        return Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser() / "ptychopilot" / "keys"
    except RuntimeError:  # a user without a home
        return None


async def take_stock(client: InstrumentClient) -> tuple[Description, list[Rectangle]]:
    """Ask what there is before a campaign begins.

    Args:
        client: connected; needs no lease.

    Returns:
        What the instrument offers, and the illuminated rectangles, Å, of all exposures within reach of its widest probe,
        whichever campaign's.
    """
    description = await client.describe()
    widest = max(map(abs, description.defocus.bounds))
    reach = max(optics.probe_diameter(angle, widest, description.voltage) for angle in description.semiangles)
    return description, await client.illuminated(description.area.grown(reach))


async def release(client: InstrumentClient, journal: Journal) -> None:
    """Take the instrument out of SAFE in the operator's name, and write that down first."""
    status = await client.status()
    if status.phase != "safe":
        return
    facts = journal.facts
    # The instrument takes no longer name; one that cannot be shown would be refused.
    operator = visible(facts.config.metadata.operator or _user())[:LONGEST_NAME]
    journal.note("released from SAFE", operator=operator, reason=status.reason)
    await client.resume(operator, f"campaign {facts.campaign} is resumed")


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # in a container a user may be nothing but a number
        return f"user {os.getuid()}"
