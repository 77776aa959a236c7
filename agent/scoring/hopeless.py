"""Whether a scan that still runs can win against what there is, from the score that is expected of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from agent.records import Score
from agent.scoring.information import scale_score

SURENESS = 2.5
"""Standard deviations by which another trial must be ahead."""
SCATTER = 0.6
"""Relative standard deviation of whole acquisitions about what is expected of them; assumed, see README."""
COMPARABLE = 2.0
"""Largest ratio of two doses at which trials are compared: farther apart the better settings may be others."""


@dataclass(frozen=True)
class LiveScore:
    """What is expected of a scan.

    Attributes:
        score: of the whole acquisition, as its beginning tells (`so_far`).
        part: of the scan that was there.
    """

    score: Score
    part: float

    def expected(self) -> Score:
        """The score with all that is uncertain of it."""
        sd = float(np.hypot(self.score.sd, SCATTER * max(self.score.value, 0.0)))
        return self.score.model_copy(update={"sd": sd})


@dataclass(frozen=True)
class Rival:
    """A trial that is scored, and can be trusted.

    Attributes:
        number: of the trial.
        score: of it.
        dose: of it, e/Å².
    """

    number: int
    score: Score
    dose: float


def winner(live: LiveScore, dose: float, rivals: Sequence[Rival]) -> tuple[Rival, float] | None:
    """The trial that a scan can no longer win against, by more than what is uncertain of either.

    Args:
        live: what is expected of it.
        dose: of its whole acquisition, e/Å².
        rivals: that there are.

    Returns:
        The trial, and its score at this dose, bit/Å²; None: the scan can still win.
    """
    expected, ahead = live.expected(), []
    for rival in rivals:
        if max(rival.dose / dose, dose / rival.dose) > COMPARABLE:
            continue
        best = scale_score(rival.score, dose / rival.dose)
        if best.value - expected.value > SURENESS * float(np.hypot(expected.sd, best.sd)):
            ahead.append((rival, best.value))
    return max(ahead, key=lambda each: each[1], default=None)
