"""How exposures ended, in the ledger: also where it cannot be written at the moment."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from instrument.exposure import ExposureResult
from instrument.ledger import Ledger
from instrument.models import Outcome


class Ends:
    """Books how exposures ended. What a full disk does not take is kept and tried again; nothing more is exposed meanwhile.

    Until it is booked the ledger holds the exposure as running, so that a crash counts all of its electrons as spent.

    Args:
        ledger: the books.
        go_safe: told why, where they cannot be written.
    """

    def __init__(self, ledger: Ledger, go_safe: Callable[[str], None]) -> None:
        self._ledger = ledger
        self._go_safe = go_safe
        self._unbooked: dict[str, ExposureResult] = {}

    def book(self, acquisition: str, result: ExposureResult) -> None:
        """Book an end.

        Args:
            acquisition: its id.
            result: how it ended.
        """
        try:
            self._ledger.finish(
                acquisition, result.state, frames=result.frames, electrons=result.electrons, reason=result.reason
            )
        except sqlite3.Error as error:
            if acquisition not in self._unbooked:
                self._unbooked[acquisition] = result
                self._go_safe(f"the ledger cannot be written ({error}); free some space on its disk")
        else:
            self._unbooked.pop(acquisition, None)

    def try_again(self) -> None:
        """Book what is not booked yet. Called regularly."""
        for acquisition, result in tuple(self._unbooked.items()):
            self.book(acquisition, result)

    def outcome(self, acquisition: str) -> Outcome | None:
        """How an acquisition ended, booked or not; None where its id is not known."""
        ended = self._unbooked.get(acquisition)
        if ended is None:
            return self._ledger.outcome(acquisition)
        return Outcome(
            id=acquisition, state=ended.state, frames=ended.frames, electrons=ended.electrons, reason=ended.reason
        )
