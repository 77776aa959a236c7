"""Evidence against a score, from counts: does the model describe what it was fitted to, and does it predict what it was not?

Only the built-in reconstruction is examined; one of the user's own has no model that could be asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.config import ScoreChoice
from agent.reconstruction import (
    DiffractionData,
    Reconstruction,
    ReconstructionSettings,
    Reconstructor,
    expected_deviance,
)
from agent.records import Score
from agent.scoring.harmonics import excess_at_harmonics
from agent.scoring.regions import crop
from agent.scoring.ring_correlation import rings_of
from agent.scoring.shared_error import Seen
from instrument.models import Rectangle

MISFIT = 5.0
"""Deviance over its expectation above which a score is vetoed: the model does not describe these data."""
GRID = 10.0
"""Power at the scan's harmonics over that of the rest of their rings above which a score is vetoed."""
_EXAMINED = 64
"""Patterns, spread over the scan, from which the misfit is taken."""


@dataclass(frozen=True)
class Examined:
    """A half that was reconstructed, and what its model made of counts.

    Attributes:
        reconstruction: of the half.
        evidence: from the counts of both.
        seen: some patterns of the half and what the model expects of them; None where the other half has other positions.
    """

    reconstruction: Reconstruction
    evidence: Evidence
    seen: Seen | None


@dataclass(frozen=True)
class Evidence:
    """How well the reconstruction of the first half explains counts, and what is odd about the picture.

    Attributes:
        misfit: Poisson deviance of its own counts over what counting noise alone explains; 1 is perfect.
        heldout_gain: log-likelihood of the second half's counts over that of an empty specimen, nat per electron.
        fourier_error: Σ(√n − √I)²/Σn of its own counts n and their model I.
        grid: power of the picture at the scan's harmonics over that of the rest of their rings, about 1 where there is no grid.
    """

    misfit: float
    heldout_gain: float
    fourier_error: float
    grid: float = 0.0


def reconstruct_examined(
    first: DiffractionData,
    second: DiffractionData,
    settings: ReconstructionSettings,
    seed: int,
    *,
    same_positions: bool,
) -> Examined:
    """Reconstruct the first half and ask it for both halves' counts.

    Args:
        first: the half to reconstruct.
        second: the other half, which is predicted.
        settings: of the reconstruction.
        seed: of the first half's mini-batches.
        same_positions: whether the halves were drawn from the counts of each pattern, or from the positions.
    """
    solver = Reconstructor(first, replace(settings, seed=seed))
    predictor = solver if same_positions else Reconstructor(second, settings)
    empty = predictor.deviance_of(second.patterns)
    solver.run()
    found = solver.result()
    if predictor is not solver:
        predictor.take_over(solver)
    gained = empty - predictor.deviance_of(second.patterns)
    per_electron = second.patterns.size / max(float(second.patterns.sum(dtype=np.float64)), 1.0)
    seen = solver.compared(_spread(len(first.patterns)))
    misfit = relative_deviance(*seen) / max(first.counts_per_electron, 1.0)
    evidence = Evidence(misfit, 0.5 * gained * per_electron, fourier_error(*seen))
    return Examined(found, evidence, Seen.of(solver, len(first.patterns)) if same_positions else None)


def apply_vetoes(score: Score, evidence: Evidence) -> Score:
    """The score with the evidence and, where that speaks against it, the veto; one that it has already stays."""
    veto = None
    if evidence.misfit > MISFIT:
        veto = (
            f"the model does not describe the data: deviance {evidence.misfit:.1f} times what counting noise explains"
        )
    elif evidence.grid > GRID:
        veto = f"the picture shows the scan's grid: {evidence.grid:.0f} times the power of its rings at the scan's harmonics"
    elif evidence.heldout_gain <= 0 and score.value > 2 * score.sd:
        veto = (
            "overfit: the picture predicts held-out counts worse than an empty specimen "
            f"({evidence.heldout_gain:.2g} nat per electron)"
        )
    return score.model_copy(
        update={
            "heldout_gain": evidence.heldout_gain,
            "deviance": evidence.misfit,
            "fourier_error": evidence.fourier_error,
            "veto": score.veto or veto,
        }
    )


def grid_of(
    picture: Reconstruction, squares: Sequence[Rectangle], harmonics: NDArray[np.bool_], choice: ScoreChoice
) -> float:
    """Power of a picture at the scan's harmonics, see `Evidence.grid`.

    Args:
        picture: from all counts.
        squares: that are scored, Å.
        harmonics: (y, x) Fourier pixels of a square at which the scan repeats itself.
        choice: rings and taper.
    """
    tiles = [crop(picture.phase, picture.origin, picture.pixel_size, square) for square in squares]
    if tiles[0].shape != harmonics.shape:  # a reconstruction of the user's own may have other pixels
        return 0.0
    rings, _ = rings_of(harmonics.shape, picture.pixel_size, choice)
    return excess_at_harmonics(tiles, harmonics, rings, choice.taper)


def relative_deviance(
    counts: NDArray[np.unsignedinteger[Any]], model: NDArray[np.float32], mask: NDArray[np.bool_]
) -> float:
    """Poisson deviance over its expectation if `model` were the truth; 1 is perfect.

    Args:
        counts: (b, ky, kx).
        model: (b, ky, kx), expected counts.
        mask: (ky, kx), False where a pixel is not used.
    """
    seen = np.broadcast_to(mask > 0, counts.shape)
    n, mean = counts[seen].astype(np.float64), np.maximum(model[seen].astype(np.float64), 1e-9)
    observed = 2 * (n * np.log(np.maximum(n, 1e-300) / mean) - (n - mean))
    observed = np.where(n > 0, observed, 2 * mean)
    return float(observed.sum() / expected_deviance(mean).sum())


def fourier_error(
    counts: NDArray[np.unsignedinteger[Any]], model: NDArray[np.float32], mask: NDArray[np.bool_]
) -> float:
    """Σ(√n − √I)²/Σn, the error in Fourier space of iterative ptychography.

    Args:
        counts: (b, ky, kx).
        model: (b, ky, kx), expected counts.
        mask: (ky, kx), False where a pixel is not used.
    """
    seen = np.broadcast_to(mask > 0, counts.shape)
    n, mean = counts[seen].astype(np.float64), np.maximum(model[seen].astype(np.float64), 0.0)
    return float(((np.sqrt(n) - np.sqrt(mean)) ** 2).sum() / max(n.sum(), 1.0))


def _spread(n: int) -> NDArray[np.int64]:
    """Numbers of _EXAMINED of n patterns, spread over the scan."""
    return np.linspace(0, n - 1, min(_EXAMINED, n)).astype(np.int64)
