"""What waits for the broker: bounded, and for retained topics the last value wins."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True)
class Letter:
    """One message: topic below the agent's own, payload, quality of service, retained or not."""

    topic: str
    payload: str | bytes
    qos: int
    retain: bool


class Outbox:
    """Letters on their way to a broker that may be slow or away. Posting never blocks.

    A retained topic occupies one place however often it changes.

    Args:
        capacity: letters that are not retained and may wait; of more the oldest are dropped.
    """

    def __init__(self, capacity: int = 256) -> None:
        self._retained: dict[str, Letter] = {}
        self._changed: dict[str, None] = {}
        self._passing: deque[Letter] = deque(maxlen=capacity)
        self._filled = asyncio.Event()
        self.closed = False

    @property
    def retained(self) -> list[Letter]:
        """What a newcomer has to be told."""
        return list(self._retained.values())

    def __len__(self) -> int:
        return len(self._changed) + len(self._passing)

    def post(self, letter: Letter) -> None:
        """Leave a letter; a retained one replaces its predecessor."""
        if letter.retain:
            self._retained[letter.topic] = letter
            self._changed[letter.topic] = None
        else:
            self._passing.append(letter)
        self._filled.set()

    def post_all_again(self) -> None:
        """After a reconnect: whatever the broker should hold is sent once more."""
        self._changed = dict.fromkeys(self._retained)
        if self:
            self._filled.set()

    def close(self) -> None:
        """Nothing more will come."""
        self.closed = True
        self._filled.set()

    async def take(self) -> Letter | None:
        """The next letter, state before events. Waits for one; None when closed and empty."""
        while not self:
            if self.closed:
                return None
            self._filled.clear()
            await self._filled.wait()
        if self._changed:
            topic = next(iter(self._changed))
            del self._changed[topic]
            return self._retained[topic]
        return self._passing.popleft()

    def put_back(self, letter: Letter) -> None:
        """Return a letter that could not be sent; a newer value of a retained topic stays."""
        if letter.retain:
            self._changed[letter.topic] = None
        elif len(self._passing) < (self._passing.maxlen or 0):
            self._passing.appendleft(letter)
        self._filled.set()
