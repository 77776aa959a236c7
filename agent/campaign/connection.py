"""The way to the instrument: waited for, and taken out of SAFE where an operator has asked for it."""

from __future__ import annotations

import getpass
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import zmq

from agent.campaign.stop import Control
from agent.errors import BadInputError, InstrumentUnavailableError
from agent.storage.journal import Journal
from instrument import Description, InstrumentClient, Rectangle, UnreachableError

PATIENCE_S = 60.0
"""How long an instrument that does not answer is waited for."""
_ATTEMPT_S = 2.0


@asynccontextmanager
async def connected(endpoint: str, holder: str, patience: float, control: Control) -> AsyncIterator[InstrumentClient]:
    """A client of the instrument, connected while the context is open.

    Args:
        endpoint: control endpoint, tcp://…
        holder: name under which a lease is held.
        patience: s to wait for an instrument that does not answer.
        control: ends the waiting where the campaign is to stop.

    Raises:
        BadInputError: the endpoint is none.
        InstrumentUnavailableError: nobody answers there.
        StoppedError: the campaign is to stop.
    """
    give_up = time.monotonic() + patience
    async with AsyncExitStack() as stack:
        while True:
            control.check()
            left = give_up - time.monotonic()
            client = InstrumentClient(
                endpoint, holder=holder, timeout=max(min(_ATTEMPT_S, left), 0.1), request_timeout=max(patience / 3, 1.0)
            )
            try:
                await stack.enter_async_context(client)
                break
            except UnreachableError as error:
                if isinstance(error.__cause__, zmq.ZMQError):
                    raise BadInputError(str(error)) from error
                if left <= 0:
                    msg = f"no instrument answers at {endpoint} (tried for {patience:g} s); is it running there?"
                    raise InstrumentUnavailableError(msg) from error
        yield client


async def take_stock(client: InstrumentClient) -> tuple[Description, list[Rectangle]]:
    """Ask what there is before a campaign begins.

    Args:
        client: connected; needs no lease.

    Returns:
        What the instrument offers, and the illuminated rectangles, Å, of all exposures so far, whichever campaign's.
    """
    description = await client.describe()
    return description, [line.illuminated for line in await client.exposures() if line.dose > 0]


async def release(client: InstrumentClient, journal: Journal) -> None:
    """Take the instrument out of SAFE in the operator's name, and write that down first."""
    status = await client.status()
    if status.phase != "safe":
        return
    facts = journal.facts
    operator = facts.config.metadata.operator or getpass.getuser()
    journal.note("released from SAFE", operator=operator, reason=status.reason)
    await client.resume(operator, f"campaign {facts.campaign} is resumed")
