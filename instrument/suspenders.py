"""Suspenders: while the column is not well nothing is exposed, and a while after it is well again it goes on by itself."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from instrument.models import Condition, Health

HOLD = 10.0
"""s for which everything has to be well before exposures are allowed again."""
LEAST_DISK_MB, DISK_MARGIN_MB = 20.0, 20.0
"""Of the ledger's disk: what is exposed has to be written down."""


class Suspenders:
    """Judges the health of a column, with hysteresis.

    A condition that was wrong has to come back by its margin, and all have to stay well for `hold`.

    Args:
        clock: monotonic time, s.
        hold: s.
    """

    def __init__(self, clock: Callable[[], float], hold: float = HOLD) -> None:
        self._clock = clock
        self._hold = hold
        self._tripped: dict[str, str] = {}
        self._well_since: float | None = None

    def judge(self, health: Health, *more: Condition) -> str:
        """Why nothing may be exposed now; "" where it may.

        Args:
            health: as the microscope reports it.
            more: conditions that the server has found itself.
        """
        column = Condition(name="microscope", ok=health.ok, message=health.message[:500])
        complaints = {
            each.name: complaint
            for each in (column, *health.conditions, *more)
            if (complaint := each.complaint(tripped=each.name in self._tripped))
        }
        if complaints:
            self._tripped |= complaints
            self._well_since = None
            return "; ".join(complaints.values())
        if not self._tripped:
            return ""
        now = self._clock()
        self._well_since = now if self._well_since is None else self._well_since
        if (left := self._hold - (now - self._well_since)) <= 0:
            self._tripped.clear()
            self._well_since = None
            return ""
        return f"{'; '.join(self._tripped.values())}; well again, exposures are allowed in {left:.0f} s"


def disk_condition(folder: Path) -> Condition:
    """Whether the ledger can be written.

    Args:
        folder: that holds it.
    """
    try:
        free = shutil.disk_usage(folder).free / 1e6
    except OSError as error:
        return Condition(name="disk", ok=False, message=f"{folder} cannot be looked at ({error.strerror})")
    return Condition(name="disk", value=round(free, 1), unit="MB", low=LEAST_DISK_MB, margin=DISK_MARGIN_MB)
