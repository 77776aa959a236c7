"""What a scan takes besides its dose: flyback, dead time, margins; and how much dose that is at a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from instrument.models import AcquisitionPlan, Description, PlanCheck, Record, Rectangle

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Overhead:
    """Electrons besides the dose, per area, at a step s: a/s² + b/s + c, e/Å². It falls with the step.

    Attributes:
        per_pattern: a, e.
        per_line: b, e/Å.
        per_scan: c, e/Å².
    """

    per_pattern: float = 0.0
    per_line: float = 0.0
    per_scan: float = 0.0

    def __call__(self, step: Array) -> Array:
        """(n,) e/Å² at steps (n,), Å."""
        return self.per_pattern / step**2 + self.per_line / step + self.per_scan

    def times(self, factor: float) -> Overhead:
        """With so many times the beam current: the same seconds cost so many times the electrons."""
        return Overhead(factor * self.per_pattern, factor * self.per_line, factor * self.per_scan)


NONE = Overhead()
"""Of an instrument whose beam is on only while it counts."""


@dataclass(frozen=True)
class Overheads:
    """Of a trial's field and of the final acquisition's."""

    trial: Overhead = NONE
    final: Overhead = NONE

    def through(self, description: Description, semiangle: float | None) -> Overheads:
        """With another aperture than the present one: the same seconds, at its current.

        Args:
            description: of the instrument.
            semiangle: of the aperture, mrad; None: the present one.
        """
        present, current = description.beam_current, description.through(semiangle).beam_current
        if semiangle is None or not present or not current or current == present:
            return self
        return Overheads(self.trial.times(current / present), self.final.times(current / present))


class ScanPrices(Record):
    """What the instrument charges besides dose times area, and how long it takes besides dwelling."""

    electrons: tuple[float, float, float] = Field(
        description="per pattern, per scan line, per acquisition; counts where electrons are not known"
    )
    seconds: tuple[float, float, float] = Field(description="likewise, of beam time without the dwell times")

    @classmethod
    def told(cls, answers: Sequence[tuple[AcquisitionPlan, PlanCheck]]) -> ScanPrices:
        """From what plans would cost: non-negative least squares over patterns, lines and acquisitions.

        Args:
            answers: plans with what the instrument says of each, at several steps; none: nothing is charged.
        """
        if not answers:
            return cls(electrons=(0.0, 0.0, 0.0), seconds=(0.0, 0.0, 0.0))
        counts = np.array([(p.n_positions, p.passes * p.shape[0], 1.0) for p, _ in answers])
        electrons = [check.electrons - plan.electrons for plan, check in answers]
        seconds = [check.duration - plan.n_positions * check.dwell_time for plan, check in answers]
        return cls(electrons=_shares(counts, electrons), seconds=_shares(counts, seconds))

    def overhead(self, field: Rectangle, patterns_per_cell: int, passes: int) -> Overhead:
        """Of one field.

        Args:
            field: that is scanned, Å.
            patterns_per_cell: that share the dose of a cell.
            passes: over the field.
        """
        pattern, line, scan = self.electrons
        return Overhead(patterns_per_cell * pattern, passes * line / field.width, scan / field.area)


def _shares(counts: Array, excess: Sequence[float]) -> tuple[float, float, float]:
    from scipy.optimize import nnls

    wanted = np.maximum(np.array(excess), 0.0)
    if wanted.max() <= 0:
        return 0.0, 0.0, 0.0
    scale = counts.max(axis=0)  # patterns are thousands, acquisitions one
    found, _ = nnls(counts / scale, wanted / wanted.max())
    pattern, line, scan = (float(v) for v in found / scale * wanted.max())
    return pattern, line, scan
