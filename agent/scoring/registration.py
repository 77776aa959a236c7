"""Two pictures of one specimen on top of each other, and what finding that place adds to their correlation by chance.

Two passes see the specimen at two times, and each reconstruction is free to move its picture against its probe. The shift that
correlates best also fits noise, the more the less there is to see; `chance` measures by how much, on pairs of images that are
made like the two: the first as it is, the second with the correlation found, noise of its own, and a shift that is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.config import ScoreChoice
from agent.reconstruction import tukey
from agent.scoring.information import LARGEST_FRC, score_spectrum
from agent.scoring.ring_correlation import Spectrum, independent_pairs, rings_of, tapered

REACH = 1.2
"""Å; shifts are looked for up to here. A crystal repeats itself a little farther away."""
USUAL = 0.3
"""Å along each axis, standard deviation of the shifts that are expected before anything is seen."""
_LEAST_FRC = 0.02
_NOTHING = 1.5
"""Standard deviations below which a score counts as chance, as far as looking for the shift is concerned."""
_COARSE, _FINE, _FINEST = 0.12, 0.03, 0.006  # Å, steps of the search
_DRAWS = 16
"""Pairs of images from which the part of chance is taken."""

Pairs = Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]]


@dataclass(frozen=True)
class Shift:
    """Where the second picture lies.

    Attributes:
        by: (y, x), Å: what the first picture has at r, the second has at r + `by`.
        sd: (y, x), Å.
    """

    by: tuple[float, float]
    sd: tuple[float, float]

    @property
    def size(self) -> float:
        """Å."""
        return float(np.hypot(*self.by))

    def plus(self, further: Shift) -> Shift:
        """This shift and one that is left after it, whose uncertainty is that of both."""
        return Shift((self.by[0] + further.by[0], self.by[1] + further.by[1]), further.sd)


def moved(image: NDArray[Any], shift: Shift, pixel_size: tuple[float, float]) -> NDArray[np.float64]:
    """The second picture on top of the first.

    Args:
        image: (y, x) second picture.
        shift: of it.
        pixel_size: (y, x), Å.
    """
    from scipy.ndimage import shift as shifted

    pixels = [-by / pixel for by, pixel in zip(shift.by, pixel_size, strict=True)]
    return np.asarray(shifted(np.asarray(image, np.float64), pixels, order=5, mode="nearest"))


def find_shift(
    pairs: Pairs, pixel_size: tuple[float, float], choice: ScoreChoice, left_out: NDArray[np.bool_] | None = None
) -> Shift:
    """The shift of the second images that correlates best with the first.

    Rings are weighted as they correlate, so that noise has little to say.

    Args:
        pairs: (first, second) image of each square, all (y, x) of one shape.
        pixel_size: (y, x), Å.
        choice: rings and taper.
        left_out: (y, x) Fourier pixels that do not count; None: all do.
    """
    spectra = _Spectra.of(pairs, pixel_size, choice, left_out)
    by = spectra.best_shift()
    frc = np.clip(spectra.correlation(by), 0, LARGEST_FRC)
    # Fisher information on the shift of a pair with coherence F: (2πk)² · 2F²/(1 − F²)
    known = (2 * frc**2 / (1 - frc**2) * spectra.pairs / np.maximum(spectra.members, 1))[spectra.ring]
    inside = spectra.ring >= 0
    sd = [
        float(1 / np.sqrt(max((known * (2 * np.pi * k) ** 2)[inside].sum(), 1e-12)))
        for k in np.broadcast_arrays(spectra.ky[:, None], spectra.kx[None, :])
    ]
    return Shift(by, (min(sd[0], REACH), min(sd[1], REACH)))


def chance(
    pairs: Pairs,
    pixel_size: tuple[float, float],
    choice: ScoreChoice,
    found: Spectrum,
    seed: int,
    left_out: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What looking for the shift adds to atanh F of each ring by chance.

    Args:
        pairs: (first, second) image of each square, registered.
        pixel_size: (y, x), Å.
        choice: rings and taper.
        found: their correlation.
        seed: of the noise.
        left_out: as for `find_shift`.

    Returns:
        Mean (rings,), and (draws, rings) of single ones.
    """
    spectra = _Spectra.of(pairs, pixel_size, choice, left_out)
    rng = np.random.default_rng(seed)
    added = np.zeros((_DRAWS, len(found.frc)))
    score = score_spectrum(found)
    # What is not significant would pull the images of the draws together where there may be nothing.
    believed = max(0.0, 1 - (_NOTHING * score.sd / max(score.value, score.sd)) ** 2)
    for number in range(_DRAWS):
        drawn = spectra.like(np.clip(believed * found.frc, 0, LARGEST_FRC), rng)
        best, true = (_fisher(drawn.correlation(by)) for by in (drawn.best_shift(), (0.0, 0.0)))
        added[number] = best - true
    return added.mean(axis=0), added


def _fisher(frc: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.arctanh(np.clip(frc, -LARGEST_FRC, LARGEST_FRC)))


@dataclass(frozen=True)
class _Spectra:
    """Fourier transforms of tapered pairs, each ring scaled to unit power.

    Attributes:
        first: (tiles, y, x), zero outside the rings.
        second: likewise.
        ring: (y, x), −1 outside.
        members: (rings,) Fourier pixels.
        pairs: (rings,) independent pairs of one tile.
        ky: (y,) 1/Å.
        kx: (x,) 1/Å.
        window: (y, x) taper.
    """

    first: NDArray[np.complex128]
    second: NDArray[np.complex128]
    ring: NDArray[np.int64]
    members: NDArray[np.int64]
    pairs: NDArray[np.float64]
    ky: NDArray[np.float64]
    kx: NDArray[np.float64]
    window: NDArray[np.float64]

    @classmethod
    def of(
        cls,
        pairs: Pairs,
        pixel_size: tuple[float, float],
        choice: ScoreChoice,
        left_out: NDArray[np.bool_] | None,
    ) -> _Spectra:
        shape = pairs[0][0].shape
        ring, edges = rings_of(shape, pixel_size, choice)
        if left_out is not None:
            ring = np.where(left_out, -1, ring)
        first, second = (np.stack([np.fft.fft2(tapered(pair[i], choice.taper)) for pair in pairs]) for i in (0, 1))
        ky, kx = (np.fft.fftfreq(n, p) for n, p in zip(shape, pixel_size, strict=True))
        return cls(
            _unit_power(first, ring, len(edges) - 1),
            _unit_power(second, ring, len(edges) - 1),
            ring,
            np.bincount(ring[ring >= 0], minlength=len(edges) - 1),
            independent_pairs(ring, len(edges) - 1, choice.taper) * len(pairs),
            np.asarray(ky, np.float64),
            np.asarray(kx, np.float64),
            tukey(shape[0], choice.taper)[:, None] * tukey(shape[1], choice.taper)[None, :],
        )

    def correlation(self, by: tuple[float, float]) -> NDArray[np.float64]:
        """(rings,) correlation with the second images moved back by (y, x), Å."""
        ramp = np.exp(-2j * np.pi * (self.ky[:, None] * by[0] + self.kx[None, :] * by[1]))
        inside = self.ring >= 0
        cross = ((self.first * self.second.conj()).sum(axis=0) * ramp).real
        total = np.bincount(self.ring[inside], weights=cross[inside], minlength=len(self.members))
        return np.asarray(total / np.maximum(self.members * len(self.first), 1))

    def best_shift(self) -> tuple[float, float]:
        """(y, x), Å, of the largest posterior, each ring correlating as it did where the last look found it.

        The log-likelihood of a shift is Σ 2F/(1 − F²) Re(a b* e^{−2πik·s}) over independent pairs of unit power.
        """
        cross = (self.first * self.second.conj()).sum(axis=0)
        independent = self.pairs / np.maximum(self.members * len(self.first), 1)
        by = (0.0, 0.0)
        for _ in range(3):
            frc = np.clip(self.correlation(by), _LEAST_FRC, LARGEST_FRC)
            weight = 2 * frc / (1 - frc**2) * independent
            by = self._search(cross * np.append(weight, 0.0)[self.ring])
        return by

    def _search(self, cross: NDArray[np.complex128]) -> tuple[float, float]:
        centre, reach = np.zeros(2), REACH
        for step in (_COARSE, _FINE, _FINEST):
            grid = np.arange(-round(reach / step), round(reach / step) + 1) * step
            along_y, along_x = (
                np.exp(-2j * np.pi * np.outer(grid + middle, k))
                for middle, k in zip(centre, (self.ky, self.kx), strict=True)
            )
            value = (along_y @ cross @ along_x.T).real
            squares = [(grid + middle) ** 2 for middle in centre]
            value -= (squares[0][:, None] + squares[1][None, :]) / (2 * USUAL**2)
            row, column = np.unravel_index(int(value.argmax()), value.shape)
            centre, reach = centre + np.array([grid[row], grid[column]]), step
        return float(centre[0]), float(centre[1])

    def like(self, frc: NDArray[np.float64], rng: np.random.Generator) -> _Spectra:
        """The first images with others that correlate with them by `frc` (rings,) where they are, and with nothing else."""
        noise = np.fft.fft2(rng.standard_normal(self.first.shape) * self.window)
        noise = _unit_power(noise, self.ring, len(self.members))
        shared = np.append(frc, 0.0)[self.ring]
        return replace(self, second=shared * self.first + np.sqrt(1 - shared**2) * noise)


def _unit_power(spectra: NDArray[np.complex128], ring: NDArray[np.int64], n_rings: int) -> NDArray[np.complex128]:
    """Spectra (tiles, y, x) with a mean power of 1 in each ring, over all tiles, and 0 outside the rings."""
    inside = ring >= 0
    power = (np.abs(spectra) ** 2).mean(axis=0)
    members = np.maximum(np.bincount(ring[inside], minlength=n_rings), 1)
    mean = np.bincount(ring[inside], weights=power[inside], minlength=n_rings) / members
    return np.asarray(spectra * np.append(1 / np.sqrt(np.maximum(mean, 1e-300)), 0.0)[ring])
