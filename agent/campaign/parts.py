"""The parts of a running campaign that must acknowledge a pause, each within a stated time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

Acknowledge = Callable[[], Awaitable[None]]
"""Returns once the part has taken note of a pause; raises where it cannot."""


class Parts:
    """Who is there now, and who has not acknowledged.

    Args:
        tell: called whenever `unacknowledged` has changed.
    """

    def __init__(self, tell: Callable[[], None]) -> None:
        self.unacknowledged: tuple[str, ...] = ()
        self._tell = tell
        self._present: dict[str, Acknowledge] = {}
        self._asking: asyncio.Task[None] | None = None

    @contextmanager
    def taking_part(self, **parts: Acknowledge) -> Iterator[None]:
        """While the block lasts these parts are there, by name."""
        self._present |= parts
        try:
            yield
        finally:
            for name in parts:
                del self._present[name]

    def ask(self, within: float, otherwise: Callable[[tuple[str, ...]], Awaitable[None]]) -> None:
        """Ask every part that is there, in the background.

        Args:
            within: s that they have.
            otherwise: awaited with the names of those that have not acknowledged by then.
        """
        self.forget()
        self._asking = asyncio.create_task(self._ask(within, otherwise), name="pause")

    def forget(self) -> None:
        """The pause is over, or the campaign is."""
        if self._asking is not None:
            self._asking.cancel()
            self._asking = None
        self._left(())

    async def _ask(self, within: float, otherwise: Callable[[tuple[str, ...]], Awaitable[None]]) -> None:
        self._left(tuple(self._present))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                await asyncio.gather(*(self._one(name, each) for name, each in self._present.items()))
        if self.unacknowledged:
            await otherwise(self.unacknowledged)

    async def _one(self, name: str, acknowledge: Acknowledge) -> None:
        try:
            await acknowledge()
        except Exception:
            return  # a part that raises has not acknowledged
        self._left(tuple(each for each in self.unacknowledged if each != name))

    def _left(self, names: tuple[str, ...]) -> None:
        if names != self.unacknowledged:
            self.unacknowledged = names
            self._tell()
