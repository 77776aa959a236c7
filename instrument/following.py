"""Following a running acquisition to its end: the server says how it ended, and the receiver that everything is here."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from instrument.background import Background
from instrument.errors import InstrumentError, StreamError
from instrument.plans import Outcome
from instrument.receiver import FrameReceiver

IDLE_TIMEOUT = 10.0
OUTCOME_WAIT = 2.0


async def follow(
    plan_id: str,
    receiver: FrameReceiver,
    ask: Callable[[str, float], Awaitable[Outcome | None]],
    abort: Callable[[str], Awaitable[None]],
    tasks: Background,
) -> Outcome:
    """Wait until the server says that an acquisition has ended and its last message is here.

    Args:
        plan_id: of the acquisition.
        receiver: of its frames.
        ask: asks the server for its outcome, and waits so many s for it.
        abort: ends it, whatever comes of that.
        tasks: home of the asking.

    Returns:
        How it ended.

    Raises:
        StreamError: it is done, but its end did not arrive.
    """

    async def answer() -> Outcome | InstrumentError | None:
        # The error is returned: raised, it would end every task of this client.
        try:
            return await ask(plan_id, OUTCOME_WAIT)
        except InstrumentError as error:
            return error

    while True:
        asked = tasks.create_task(answer())
        awaited: set[asyncio.Future[Any]] = {asked, receiver.finished}
        try:
            await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
            if receiver.finished.done():
                receiver.finished.result()
                if not asked.done() and receiver.missing():
                    # Nobody takes the rest; where the server has ended it for a reason of its own, that reason stays.
                    await abort(plan_id)
            outcome = await asked
            if isinstance(outcome, InstrumentError):
                raise outcome
        finally:
            asked.cancel()
        if outcome is not None and outcome.state not in {"reserved", "running"}:
            break
    await _drain(plan_id, receiver, outcome)
    return outcome


async def _drain(plan_id: str, receiver: FrameReceiver, outcome: Outcome) -> None:
    """Wait for what is still under way: as long as frames keep arriving, and no longer."""
    before = -1
    while not receiver.finished.done() and receiver.received > before:
        before = receiver.received
        await asyncio.wait({receiver.finished}, timeout=IDLE_TIMEOUT)
    if receiver.finished.done():
        receiver.finished.result()
    elif outcome.state == "done":
        msg = (
            f"the end of the series of {plan_id} did not arrive; {receiver.received} of {outcome.frames} frames "
            f"did, none for {IDLE_TIMEOUT:g} s"
        )
        raise StreamError(msg, received=receiver.received)
