"""No reconstruction ends clearly worse than it was: the best pass is kept, and returned where the last one is worse (README)."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np

from agent.reconstruction.model.settings import ReconstructionSettings
from agent.reconstruction.solver.prior import Prior
from agent.reconstruction.solver.state import Reached, SolverState, last_reached

WORSE = 0.02
"""Part by which a deviance is clearly above another. Passes of a reconstruction that converges differ by 0.002 at most once the
count offset is what it stays, also where positions, modes or a prior are found."""
WORSE_OF_ANOTHER_LOSS = 0.5
"""The same where the deviance is not what is minimised; with a Gaussian loss it rises by 0.05."""
NOISE = 40.0
"""Summed over pixels, that much is not clear: a difference X between deviances of two models has a standard deviation of 2√X."""


@dataclass(frozen=True)
class Kept:
    """What a number of passes has found; arrays that later passes change in place are copies."""

    reached: Reached
    corners: Any
    subpixel_shifts: Any
    weights: Any
    background: Any
    prior: Prior
    passes: int

    @classmethod
    def of(cls, state: SolverState) -> Kept:
        """The state without the extrapolation of the momentum."""
        last, found = last_reached(state), state.unknowns
        obj = last.object.copy() if state.reached is None else last.object
        return cls(
            reached=Reached(obj, last.apertures.copy(), last.age, last.numbers),
            corners=found.corners.copy(),
            subpixel_shifts=found.subpixel_shifts.copy(),
            weights=found.weights.copy(),
            background=found.background.copy(),
            prior=copy(state.prior),
            passes=state.passes,
        )

    def restore(self, state: SolverState) -> None:
        """Make it the state again, with no momentum; arrays stay in their place."""
        found = state.unknowns
        found.object[...], found.apertures[...] = self.reached.object, self.reached.apertures
        found.corners[...], found.subpixel_shifts[...] = self.corners, self.subpixel_shifts
        found.weights[...], found.background[...] = self.weights, self.background
        if state.law is not None:
            state.law.numbers = self.reached.numbers
        if state.displacement is not None:
            state.displacement.velocity = np.zeros_like(state.displacement.velocity)
        state.prior, state.passes, state.reached = copy(self.prior), self.passes, None


class BestPass:
    """The best state so far, by the deviance of the same counts.

    Args:
        state: that passes change.
        pixels: how many counts a deviance is the sum over.
    """

    def __init__(self, state: SolverState, pixels: float) -> None:
        self.state, self.pixels = state, pixels
        self.deviance = self.last = np.inf
        self.kept: Kept | None = None

    def judge(self, deviance: float, kept: Kept | None = None) -> None:
        """Take note of a deviance, summed over the pixels.

        Args:
            deviance: of `kept`.
            kept: None: the state as it is.
        """
        self.last = deviance
        if deviance < self.deviance:
            self.deviance, self.kept = deviance, kept or Kept.of(self.state)

    def return_to(self, settings: ReconstructionSettings) -> bool:
        """Go back to the best state, and note it, where the one that was judged last is clearly worse.

        Args:
            settings: of the reconstruction; what they refine is named in the note.

        Returns:
            Whether it was.
        """
        worse = WORSE if settings.loss == "poisson" else WORSE_OF_ANOTHER_LOSS
        within = self.last - self.deviance <= worse * self.deviance + NOISE  # false where it is not a number
        if self.kept is None or within:
            return False
        best, last = self.deviance / self.pixels, self.last / self.pixels
        note = (
            f"the deviance rose from {best:.3g} after pass {self.kept.passes} to {last:.3g} after pass {self.state.passes}, so "
            f"the result is that of pass {self.kept.passes}; {_advice(settings)}"
        )
        self.state.notes[:] = [note]
        self.kept.restore(self.state)
        return True


def _advice(settings: ReconstructionSettings) -> str:
    """What may help, beginning with what is likeliest."""
    refined = [
        name
        for name, is_on in (
            ("variable_modes", settings.variable_modes > 0),
            ("refine_positions", settings.refine_positions is not None),
            ("refine_intensity", settings.refine_intensity),
            ("probe_modes", settings.probe_modes > 1),
            ("slices", settings.slices > 1),
            ("refine_probe", settings.refine_probe),
        )
        if is_on
    ]
    return f"try it without {' or '.join(refined)}" if refined else "check defocus, step and pixel size"
