"""Evidence against a score, from counts: does the model describe what it was fitted to, and does it predict what it was not?

Only the built-in reconstruction is examined; one of the user's own has no model that could be asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.config import ScoreChoice
from agent.reconstruction import (
    DiffractionData,
    Learned,
    Reconstruction,
    ReconstructionSettings,
    Reconstructor,
    expected_deviance,
)
from agent.records import Score
from agent.scoring.harmonics import excess_at_harmonics
from agent.scoring.information import LARGEST_FRC
from agent.scoring.regions import crop, scanned_area
from agent.scoring.ring_correlation import Spectrum, rings_of
from agent.scoring.shared_error import Seen
from instrument.models import Rectangle

MISFIT = 5.0
"""Deviance over its expectation above which a score is vetoed: the model does not describe these data."""
GRID = 10.0
"""Power at the scan's harmonics over that of the rest of their rings above which a score is vetoed."""
SIGNIFICANT = 2.0
"""Standard deviations of the correlation in a ring below which it predicts nothing."""
CHANCE = 3.0
"""Standard deviations by which the gain may stay below what the correlation promises."""
_EXAMINED = 64
"""Patterns, spread over the scan, from which the misfit is taken."""


@dataclass(frozen=True)
class Examined:
    """A half that was reconstructed, and what its model makes of its counts.

    Attributes:
        reconstruction: of the half.
        learned: what the other half is predicted from.
        settings: of the reconstruction.
        misfit: Poisson deviance of its own counts over what counting noise alone explains; 1 is perfect.
        fourier_error: Σ(√n − √I)²/Σn of its own counts n and their model I.
        seen: some patterns of the half and what the model expects of them; None where the other half has other positions.
    """

    reconstruction: Reconstruction
    learned: Learned
    settings: ReconstructionSettings
    misfit: float
    fourier_error: float
    seen: Seen | None


@dataclass(frozen=True)
class Evidence:
    """How well the reconstruction of the first half explains counts, and what is odd about the picture.

    Attributes:
        misfit, fourier_error: see `Examined`.
        heldout_gain: log-likelihood of the second half's counts over that of an empty specimen, nat per electron.
        least_gain: below which `heldout_gain` contradicts the ring correlation.
        grid: power of the picture at the scan's harmonics over that of the rest of their rings, about 1 where there is no grid.
    """

    misfit: float
    fourier_error: float
    heldout_gain: float
    least_gain: float
    grid: float = 0.0


def reconstruct_examined(half: DiffractionData, settings: ReconstructionSettings, *, of_one_scan: bool) -> Examined:
    """Reconstruct a half and ask its model for its counts.

    Args:
        half: of the counts.
        settings: of the reconstruction.
        of_one_scan: whether the other half has the same positions.
    """
    solver = Reconstructor(half, settings)
    solver.run()
    seen = solver.compared(_spread(len(half.patterns)))
    misfit = relative_deviance(*seen) / max(half.counts_per_electron, 1.0)
    of_half = Seen.of(solver, len(half.patterns)) if of_one_scan else None
    return Examined(solver.result(), solver.learned(), settings, misfit, fourier_error(*seen), of_half)


def predict(first: Examined, second: DiffractionData, spectrum: Spectrum) -> Evidence:
    """Ask what the first half has taught for the counts of the second.

    A picture of which noise is a larger part than the specimen predicts worse than none, though it may hold much: the noise is of
    the first half alone. So its Fourier components are weighted with the correlation F of the halves, as N. Wiener would have it,
    where that is significant. Then, if F is as it is because both show the specimen, the log-likelihood gains ½ F²/(1 − F) nat
    of each, with twice that as its variance; agreement that is not of the specimen gains nothing or loses.

    Args:
        first: half.
        second: the other half's counts, at positions in the frame of the first.
        spectrum: correlation of the two.
    """
    weight = _wiener(spectrum)
    per_area = np.pi * np.diff(spectrum.edges**2)
    information = scanned_area(second.positions) * float((per_area * weight**2 / (1 - weight)).sum())
    predictor = Reconstructor(second, first.settings)
    predictor.take_over(first.learned, empty=True)
    empty = predictor.deviance_of(second.patterns)
    predictor.take_over(first.learned.weighted(spectrum.edges, weight))
    pixels, per_electron = (
        len(second.patterns) * float(predictor.experiment.mask.sum()),
        max(second.counts_per_electron, 1.0),
    )
    gained = 0.5 * pixels * (empty - predictor.deviance_of(second.patterns)) / per_electron
    least = min(0.0, information / 2 - CHANCE * float(np.sqrt(information)))
    electrons = max(float(second.patterns.sum(dtype=np.float64)) / per_electron, 1.0)
    return Evidence(first.misfit, first.fourier_error, gained / electrons, least / electrons)


def _wiener(spectrum: Spectrum) -> NDArray[np.float64]:
    """(rings,) the correlation F; 0 where it is not significant."""
    chance = 1 / np.sqrt(2 * np.maximum(spectrum.pairs, 1.0))
    return np.where(spectrum.frc > SIGNIFICANT * chance, np.minimum(spectrum.frc, LARGEST_FRC), 0.0)


def apply_vetoes(score: Score, evidence: Evidence) -> Score:
    """The score with the evidence and, where that speaks against it, the veto; one that it has already stays."""
    veto = None
    if evidence.misfit > MISFIT:
        veto = (
            f"the model does not describe the data: deviance {evidence.misfit:.1f} times what counting noise explains"
        )
    elif evidence.grid > GRID:
        veto = f"the picture shows the scan's grid: {evidence.grid:.0f} times the power of its rings at the scan's harmonics"
    elif evidence.heldout_gain < evidence.least_gain and score.value > 2 * score.sd:
        veto = (
            "overfit: the picture predicts held-out counts worse than an empty specimen "
            f"({evidence.heldout_gain:.2g} nat per electron)"
        )
    return score.model_copy(
        update={
            "heldout_gain": evidence.heldout_gain,
            "deviance": evidence.misfit,
            "fourier_error": evidence.fourier_error,
            "grid": evidence.grid,
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
