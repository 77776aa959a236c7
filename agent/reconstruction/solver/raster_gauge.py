"""What a raster cannot tell: a pattern with the scan's own periods in the object, and its inverse in the probe.

From positions p of a lattice, P(r − p) f(r − p) · O(r) / f(r) gives the same counts for every f with the lattice's periods
(Thibault et al., Ultramicroscopy 109 (2009) 338). Passes that refine the probe drift along f without end; README, "The raster's
gauge".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.reconstruction.solver.experiment import Experiment
from agent.reconstruction.solver.state import SolverState
from instrument import optics

FEWEST_LINES = 8
"""Positions along an axis that make a raster."""
TOGETHER = 0.9
"""|Σ exp(2πi g·p)|/n from which on g is a harmonic of the positions."""
EVERY = 4
"""Passes from one look to the next; a grid grows a few times over in so many."""
MOST = 96
"""Harmonics looked after at most, the lowest first."""
SAMPLED = 768
"""Frequencies of a ring that tell what is usual there."""
LIKE_NOISE, LIKE_CRYSTAL = (7.0, 0.3), (12.0, 0.6)
"""Largest power of a ring over its mean: up to the first a harmonic may have the mean, from the second on, where a crystal's
reflections lie, the largest; at least, and in units of what six reflections in a ring have."""
SIX_PEAKS = 1.45
"""That is so many times the ring's radius over the width of a peak."""


@dataclass(frozen=True)
class RasterGauge:
    """The harmonics of a raster on the object grid; arrays of the backend.

    Attributes:
        along: (G, y) and (G, x) exp(−2πi g·r) of each harmonic along either axis of the object grid.
        here: (G, ky) and (G, kx) exp(2πi g·s) on the probe's grid, corner-centred, with the phase of the positions.
        window: (y, x) taper over the scan, sum 1.
        like: (G,) and (G,) largest power of a ring over its mean that noise has, and a crystal.
        ring: (G, SAMPLED) flat indices of the object's transform, at the harmonic's distance from 0 and off the harmonics.
    """

    along: tuple[Any, Any]
    here: tuple[Any, Any]
    window: Any
    like: tuple[Any, Any]
    ring: Any

    @classmethod
    def of(cls, experiment: Experiment) -> RasterGauge | None:
        """Those of an experiment; None where its positions are no raster or its probe stays.

        None for several slices too: what they scatter more than once stands out at harmonics without being a grid.
        """
        data, geo, xp = experiment.data, experiment.geometry, experiment.backend.xp
        if not experiment.settings.refine_probe or experiment.settings.slices > 1:
            return None
        reach = 2 * optics.spatial_frequency(data.semiangle, data.voltage)
        harmonics = lattice_harmonics(np.asarray(data.positions, np.float64), reach)
        if len(harmonics) == 0:
            return None
        pixel = np.asarray(geo.pixel_size)
        cycles = (harmonics @ geo.matrix) * pixel  # per pixel of the object
        cycles = cycles[(np.abs(cycles) < 0.5).all(axis=1)]
        window = _taper(experiment)
        wide = 2.0 / np.sqrt((window > 0.01).sum())  # of a peak, cycles per pixel
        ring = _rings(cycles, geo.object_shape, wide) if len(cycles) else None
        if ring is None:
            return None
        places = geo.corners + np.asarray(experiment.shape) // 2 + geo.subpixel_shifts
        phase = np.exp(2j * np.pi * (places @ cycles.T)).mean(axis=0)
        phase /= np.abs(phase)
        along = [np.exp(-2j * np.pi * np.outer(cycles[:, a], np.arange(geo.object_shape[a]))) for a in (0, 1)]
        here = [
            np.exp(2j * np.pi * np.outer(cycles[:, a], np.fft.fftfreq(n, 1 / n)))
            for a, n in enumerate(experiment.shape)
        ]
        here[0] *= phase[:, None]
        peaks = SIX_PEAKS * np.hypot(*cycles.T) / wide
        like = [
            xp.asarray(np.maximum(least, part * peaks).astype(np.float32)) for least, part in (LIKE_NOISE, LIKE_CRYSTAL)
        ]
        loaded = [xp.asarray(array.astype(np.complex64)) for array in (*along, *here)]
        return cls(
            (loaded[0], loaded[1]),
            (loaded[2], loaded[3]),
            xp.asarray((window / window.sum()).astype(np.float32)),
            (like[0], like[1]),
            xp.asarray(ring),
        )

    def fix(self, experiment: Experiment, state: SolverState) -> None:
        """Take what stands out at the harmonics out of the object that was reached last, into the probe; the momentum follows.

        Args:
            experiment: what is given.
            state: changed in place, after a full pass.
        """
        xp, last, found = experiment.backend.xp, state.reached, state.unknowns
        if last is None:
            return
        whole = last.object.prod(axis=0)
        whole = whole * (whole * self.window).sum().conj()
        parts = [(1j, xp.angle(whole))]
        if not experiment.phase_only:
            parts.append((1.0, xp.log(xp.maximum(xp.abs(whole), 1e-3 * xp.abs(whole).mean()))))
        in_object, in_probe = 0.0, 0.0
        for unit, image in parts:
            excess = self._excess(image, xp)
            in_object = in_object + unit * self._field(excess, self.along[0].conj(), self.along[1].conj())
            in_probe = in_probe + unit * self._field(excess, *self.here)
        for_object = xp.exp(-in_object / len(found.object)).astype(np.complex64)
        for_probe = xp.exp(in_probe).astype(np.complex64)
        for one in (last, found):
            one.object *= for_object
            if experiment.settings.positivity:
                one.object[...] = xp.where(one.object.imag < 0, xp.abs(one.object), one.object)
            waves = xp.fft.ifft2(one.apertures) * for_probe
            one.apertures[...] = xp.fft.fft2(waves) * experiment.support
            experiment.tie(one.apertures)

    def _excess(self, image: Any, xp: Any) -> Any:
        """(G,) amplitudes that the harmonics of an image (y, x) have beyond what is usual in their rings."""
        tapered = (image - (image * self.window).sum()) * self.window
        amplitude = ((self.along[0] @ tapered) * self.along[1]).sum(axis=1)
        power = xp.abs(amplitude) ** 2
        usual = (xp.abs(xp.fft.fft2(tapered)) ** 2).ravel()[self.ring]
        mean, largest = usual.mean(axis=1), usual.max(axis=1)
        like_noise, like_crystal = self.like
        crystal = (largest / xp.maximum(mean, 1e-30) - like_noise) / (like_crystal - like_noise)
        most = mean + (largest - mean) * xp.clip(crystal, 0, 1)
        return amplitude * (1 - xp.sqrt(xp.minimum(1.0, most / xp.maximum(power, 1e-30))))

    @staticmethod
    def _field(amplitude: Any, along_y: Any, along_x: Any) -> Any:
        """2 Re Σ amplitude exp(2πi g·r) (y, x)."""
        return 2 * ((amplitude[:, None] * along_y).T @ along_x).real


def lattice_harmonics(positions: NDArray[np.float64], reach: float) -> NDArray[np.float64]:
    """Frequencies (G, 2), 1/Å, at which all positions are in phase, one of each pair ±g, up to `reach`; none if no raster.

    Args:
        positions: (n, 2), Å.
        reach: 1/Å.
    """
    pitches = [_pitch(positions[:, axis]) for axis in (0, 1)]
    if None in pitches:
        return np.zeros((0, 2))
    step = [0.5 * float(pitch or 0.0) for pitch in pitches]  # rows of a second pass may lie between those of the first
    count = [min(int(reach / s), 64) for s in step]
    m, n = np.meshgrid(np.arange(-count[0], count[0] + 1), np.arange(count[1] + 1), indexing="ij")
    half = (n > 0) | (m > 0)
    found = np.stack([m[half] * step[0], n[half] * step[1]], axis=-1)
    length = np.hypot(*found.T)
    found = found[length <= reach][np.argsort(length[length <= reach], kind="stable")][: 4 * MOST]
    together = np.abs(np.exp(2j * np.pi * (positions @ found.T)).mean(axis=0))
    return np.asarray(found[together > TOGETHER][:MOST])


def _pitch(along: NDArray[np.float64]) -> float | None:
    """Lowest frequency, 1/Å, at which coordinates (n,) are in phase; None where there is none, or too few lines."""
    gaps = np.diff(np.sort(along))
    span = float(gaps.sum())
    if span <= 0:
        return None
    first = 1 / float(np.median(gaps[gaps > 0.25 * gaps.max()]))  # the others lie within a line
    near = first + np.linspace(-0.5, 0.5, 101) / span
    some = along[np.linspace(0, len(along) - 1, min(len(along), 2048)).astype(np.int64)]
    together = np.abs(np.exp(2j * np.pi * np.outer(near, some)).mean(axis=1))
    best = int(together.argmax())
    return float(near[best]) if together[best] > TOGETHER and near[best] * span > FEWEST_LINES - 1.5 else None


def _taper(experiment: Experiment) -> NDArray[np.float64]:
    """(y, x) on the object grid: a half-wave of a squared sine along either axis of the scan, 0 beyond it."""
    geo, positions = experiment.geometry, experiment.data.positions
    axes = [geo.origin[a] + np.arange(geo.object_shape[a]) * geo.pixel_size[a] for a in (0, 1)]
    taper = np.ones(geo.object_shape)
    for a in (0, 1):  # row a of the matrix turns object coordinates into the scan's
        where = geo.matrix[a, 0] * axes[0][:, None] + geo.matrix[a, 1] * axes[1][None]
        low, high = positions[:, a].min(), positions[:, a].max()
        part = np.clip((where - low) / max(high - low, 1e-9), 0, 1)
        taper *= np.sin(np.pi * part) ** 2
    return taper


def _rings(cycles: NDArray[np.float64], shape: tuple[int, int], wide: float) -> NDArray[np.int64] | None:
    """(G, SAMPLED) flat indices of frequencies as far from 0 as each harmonic; None where too few lie off the harmonics.

    Args:
        cycles: (G, 2) of the harmonics, per pixel.
        shape: (y, x) of the transform.
        wide: width of a peak, cycles per pixel.
    """
    random, rings = np.random.default_rng(0), []
    near = np.concatenate([cycles, -cycles, np.zeros((1, 2))])
    for g in cycles:
        angle = random.uniform(0, np.pi, 3 * SAMPLED)
        radius = np.hypot(*g) + wide * random.uniform(-1, 1, 3 * SAMPLED)
        there = np.stack([radius * np.sin(angle), radius * np.cos(angle)], axis=-1)
        off = (np.hypot(*(there[:, None] - near[None]).T) > 1.5 * wide).all(axis=0)
        there = there[off & (np.abs(there) < 0.5).all(axis=1)]
        if len(there) < SAMPLED // 8:
            return None
        row, column = (
            np.rint(np.resize(k, SAMPLED) * n).astype(np.int64) % n for k, n in zip(there.T, shape, strict=True)
        )
        rings.append(row * shape[1] + column)
    return np.stack(rings)
