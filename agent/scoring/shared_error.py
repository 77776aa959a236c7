"""What halves of the counts of one scan get wrong alike, from their counts alone: wrong positions, a model that is too simple.

Both halves have the same expected counts. Where a model fits them, what is left of one half is not related to what is left of the
other; the sum of their products, each in units of counting noise, is the power of what both models miss. The README has the
derivation and what it does to a score.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.reconstruction import DiffractionData, Reconstruction, ReconstructionSettings, Reconstructor
from agent.scoring.information import LARGEST_FRC
from agent.scoring.ring_correlation import Spectrum

EXAMINED = 192
"""Patterns, spread over the scan, from which it is taken."""
_CHUNK = 32
_SIGNIFICANT = 2.0
_FEWEST_VIEWS = 1.5
"""Patterns that light a place, below which what they miss is taken as if they were so many."""
_LEAST_COUNTS = 1e-3
"""Expected counts of a pixel that counting noise is taken from at least."""


@dataclass(frozen=True)
class Seen:
    """Some patterns of a half and what its model expects of them.

    Attributes:
        counts: (b, pixels), those of the detector that count.
        model: (b, pixels), expected counts.
    """

    counts: NDArray[np.float32]
    model: NDArray[np.float32]

    @classmethod
    def of(cls, solver: Reconstructor, patterns: int) -> Seen:
        """What a solver that has run makes of `EXAMINED` of its patterns."""
        chosen = np.linspace(0, patterns - 1, min(EXAMINED, patterns)).astype(np.int64)
        counts, model = [], []
        for first in range(0, len(chosen), _CHUNK):
            counted, expected, mask = solver.compared(chosen[first : first + _CHUNK])
            counts.append(counted[:, mask > 0].astype(np.float32))
            model.append(expected[:, mask > 0])
        return cls(np.concatenate(counts), np.concatenate(model))


def reconstruct_seen(half: DiffractionData, settings: ReconstructionSettings) -> tuple[Reconstruction, Seen]:
    """Reconstruct a half, and see what its model makes of its counts.

    Args:
        half: of the counts.
        settings: of the reconstruction.
    """
    solver = Reconstructor(half, settings)
    solver.run()
    return solver.result(), Seen.of(solver, len(half.patterns))


def shared_error(first: Seen, second: Seen, views: float) -> float:
    """Power of what both pictures get wrong alike, over that of the noise of one of them.

    Args:
        first: of one half.
        second: of the other, the same patterns.
        views: patterns that light a place.

    Returns:
        κC/p: C the power that both models miss, p that of the noise that a half's model has taken for the specimen, κ = 1/(v − 1)
        the part of the error that v views of a place agree on, relative to the rest of it. 0 where C is not significant.
    """
    noise = np.sqrt(np.maximum((first.model + second.model) / 2, _LEAST_COUNTS))
    one, other = ((half.counts - half.model) / noise for half in (first, second))
    products = (one * other).astype(np.float64)
    missed, chance = float(products.sum()), float(np.sqrt((products**2).sum()))
    if missed < _SIGNIFICANT * chance:
        return 0.0
    fitted = 0.5 * (_fitted(first, second, noise) + _fitted(second, first, noise))
    return missed / (max(fitted, chance) * (max(views, _FEWEST_VIEWS) - 1))


def _fitted(own: Seen, other: Seen, noise: NDArray[np.float32]) -> float:
    """Power of the noise that a model has taken for the specimen: it fits its own counts better by twice that than others."""
    errors = [float((((half.counts - own.model) / noise) ** 2).sum(dtype=np.float64)) for half in (own, other)]
    return 0.5 * (errors[1] - errors[0])


def without_shared(spectrum: Spectrum, ratio: float) -> Spectrum:
    """The correlation of halves that would have nothing wrong in common.

    With F = (P + V)/(P + V + N), P the power of the specimen, N of the noise of a half and V = `ratio` · N of what both get
    wrong, all counts have S = P/(V + N/2). What comes back is the F that has this S.

    Args:
        spectrum: as found.
        ratio: V/N.
    """
    found = np.clip(spectrum.frc, -LARGEST_FRC, LARGEST_FRC)
    size = np.abs(found)
    noise = 1 - size
    signal = np.maximum(size - ratio * noise, 0) / (noise * (ratio + 0.5))
    frc: NDArray[Any] = np.sign(found) * signal / (2 + signal)
    return Spectrum(spectrum.edges, frc, spectrum.pairs)
