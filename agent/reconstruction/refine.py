"""What each pattern has of its own: its position, its intensity, its share of the probe's variations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from agent.reconstruction.forward import Problem, Sums, Unknowns
from agent.reconstruction.geometry import Geometry
from agent.reconstruction.types import ReconstructionSettings

if TYPE_CHECKING:
    from agent.reconstruction.backend import Backend


class PatternUnknowns:
    """Updates corners, fractions and weights of `Unknowns` once per full pass.

    Args:
        settings: which of them are refined.
        geometry: object grid; a refined position stays on it.
        positions: (n, 2), Å, nominal.
        totals: (n,) counts of each pattern in the counting pixels.
    """

    def __init__(
        self,
        settings: ReconstructionSettings,
        geometry: Geometry,
        positions: NDArray[np.float64],
        totals: NDArray[np.float64],
    ) -> None:
        self.settings, self.geometry, self.nominal, self.totals = settings, geometry, positions, totals

    def update(self, unknowns: Unknowns, sums: Sums, problem: Problem, backend: Backend) -> None:
        """One step of every refined quantity, from the sums of a pass over all patterns in their order."""

    def positions(self, unknowns: Unknowns, backend: Backend) -> NDArray[np.float64]:
        """(n, 2), Å, in the scan's frame, as they are now."""
        return self.nominal
