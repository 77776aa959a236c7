"""How exposures ended, in the ledger: also where it cannot be written at the moment."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field

from instrument.exposure import ExposureResult
from instrument.ledger import Ledger
from instrument.models import Outcome


@dataclass
class Tally:
    """What has happened since the server started.

    Attributes:
        frames: that the microscope has delivered.
        lost: that it owed to exposures which nobody had stopped.
        ended: exposures, by how.
    """

    frames: int = 0
    lost: int = 0
    ended: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("done", "aborted", "failed"), 0))


class Ends:
    """Books how exposures ended. What a full disk does not take is kept and tried again; nothing more is exposed meanwhile.

    Until it is booked the ledger holds the exposure as running, so that a crash counts all of its electrons as spent.

    Args:
        ledger: the books.
        go_safe: told why, where they cannot be written.

    Attributes:
        tally: what has happened since the server started.
    """

    def __init__(self, ledger: Ledger, go_safe: Callable[[str], None]) -> None:
        self._ledger = ledger
        self._go_safe = go_safe
        self._unbooked: dict[str, ExposureResult] = {}
        self.tally = Tally()

    def book(self, acquisition: str, result: ExposureResult) -> None:
        """Count an end, and book it.

        Args:
            acquisition: its id.
            result: how it ended.
        """
        self.tally.lost += result.lost
        self.tally.ended[result.state] += 1
        self._book(acquisition, result)

    def _book(self, acquisition: str, result: ExposureResult) -> None:
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
            self._book(acquisition, result)

    def outcome(self, acquisition: str) -> Outcome | None:
        """How an acquisition ended, booked or not; None where its id is not known."""
        ended = self._unbooked.get(acquisition)
        if ended is None:
            return self._ledger.outcome(acquisition)
        return Outcome(
            id=acquisition, state=ended.state, frames=ended.frames, electrons=ended.electrons, reason=ended.reason
        )
