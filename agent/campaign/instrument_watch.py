"""Tells whoever watches a campaign when its instrument cannot expose any more, and when it can again."""

from __future__ import annotations

import asyncio

from agent.events import Audience, InstrumentChanged, InstrumentState
from instrument import InstrumentClient, InstrumentError

INTERVAL_S = 1.0
LAST_LOOK_S = 1.0


class InstrumentWatch:
    """Remembers what was told last.

    Args:
        audience: told on change.
    """

    def __init__(self, audience: Audience) -> None:
        self._audience = audience
        self._told = InstrumentChanged(state="well")

    async def run(self, client: InstrumentClient) -> None:
        """Ask the instrument's safe socket every second, until cancelled or until it does not answer."""
        while True:
            if not await self._look(client):
                return
            await asyncio.sleep(INTERVAL_S)

    async def look_once_more(self, client: InstrumentClient) -> None:
        """Ask for the last time, since something has stopped the campaign; takes LAST_LOOK_S at most."""
        try:
            async with asyncio.timeout(LAST_LOOK_S):
                await self._look(client)
        except TimeoutError:
            return

    def tell(self, state: InstrumentState, reason: str = "") -> None:
        """Tell a state unless it has been told.

        Args:
            state: of the instrument.
            reason: of the state.
        """
        if (now := InstrumentChanged(state=state, reason=reason)) != self._told:
            self._told = now
            self._audience.tell(now)

    async def _look(self, client: InstrumentClient) -> bool:
        """Whether it has answered; what does not, whoever works with it finds out by themselves."""
        try:
            status = await client.status()
        except InstrumentError:
            return False
        if status.phase == "safe":
            self.tell("safe", status.reason)
        elif status.suspended:
            self.tell("suspended", _without_countdown(status.suspended))
        else:
            self.tell("well")
        return True


def _without_countdown(reason: str) -> str:
    """What is the same from one second to the next."""
    return reason.partition("; well again")[0]
