"""Small scans whose specimen, positions and intensities are known, steady or not: for options that follow what is not steady."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import phantom
from numpy.typing import NDArray

from agent.reconstruction import DiffractionData, Reconstruction
from agent.reconstruction.model import forward, geometry, probe

VOLTAGE, SEMIANGLE, ANGULAR_PIXEL, DEFOCUS, STEP = 80e3, 20.0, 2.0, 200.0, 1.5
SHAPE, LINES, COLUMNS, ATOMS = (32, 32), 14, 20, 40

Specimen = Callable[[tuple[int, int], tuple[float, float], tuple[float, float]], NDArray[np.float64]]
"""Shape, origin and pixel size (y, x) of a grid to the phase on it, rad."""


@dataclass(frozen=True)
class Scan:
    """Patterns and what they were made from.

    Attributes:
        data: what a microscopist believes of it.
        specimen: the true phase.
        positions: (n, 2), Å, where the probe was.
        field: (2, 2), Å, first and last corner of what is compared.
    """

    data: DiffractionData
    specimen: Specimen
    positions: NDArray[np.float64]
    field: NDArray[np.float64]

    def phase_error(self, result: Reconstruction) -> float:
        """Of the phase, rms over that of the truth; their means aside."""
        first, last = (
            np.rint((corner - np.asarray(result.origin)) / result.pixel_size).astype(int) for corner in self.field
        )
        corner = np.asarray(result.origin) + first * result.pixel_size
        shape, origin = (int(last[0] - first[0]), int(last[1] - first[1])), (float(corner[0]), float(corner[1]))
        truth = self.specimen(shape, origin, result.pixel_size)
        found = result.phase[first[0] : last[0], first[1] : last[1]]
        return float(np.std(found - truth) / np.std(truth))

    def position_error(self, result: Reconstruction) -> float:
        """Å, the largest distance of a position from where it was, a shift of all aside."""
        off = result.positions - self.positions
        return float(np.hypot(*(off - off.mean(axis=0)).T).max())


def scan(
    *, jitter: float = 0.0, flicker: float = 0.0, electrons: float = 2e4, seed: int = 0, padded: float = 0.0
) -> Scan:
    """A scan of 14 × 20 positions over 40 atoms.

    Args:
        jitter: Å, standard deviation of each position along either axis.
        flicker: standard deviation of each pattern's intensity, relative.
        electrons: a pattern, on average.
        seed: of everything.
        padded: counts added to the model everywhere, a background.
    """
    rng = np.random.default_rng(seed)
    axes = (np.arange(n) * STEP for n in (LINES, COLUMNS))
    nominal = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    where = rng.uniform(size=(ATOMS, 2)) * nominal.max(axis=0)
    heights = rng.uniform(0.1, 0.35, ATOMS)
    off = jitter * rng.normal(size=nominal.shape)
    intensity = np.clip(1 + flicker * rng.normal(size=len(nominal)), 0.2, 2)
    data = DiffractionData(
        np.zeros((len(nominal), *SHAPE), np.uint16),
        nominal + off - off.mean(axis=0),
        VOLTAGE,
        SEMIANGLE,
        ANGULAR_PIXEL,
        DEFOCUS,
    )

    def specimen(
        shape: tuple[int, int], origin: tuple[float, float], pixel: tuple[float, float]
    ) -> NDArray[np.float64]:
        rows, columns = (
            np.exp(-((origin[i] + pixel[i] * np.arange(shape[i])[:, None] - where[:, i]) ** 2) / (2 * 0.9**2))
            for i in (0, 1)
        )
        return np.asarray((rows * heights) @ columns.T)

    geo = geometry.locate(data)
    wave = probe.aperture_wave(SHAPE, ANGULAR_PIXEL, VOLTAGE, SEMIANGLE, {"C10": -DEFOCUS}) * np.float32(
        np.sqrt(electrons)
    )
    obj = np.exp(1j * specimen(geo.object_shape, geo.origin, geo.pixel_size))
    problem, unknowns = forward.known(obj[None], wave[None], geo.corners, geo.subpixel_shifts)
    model = forward.expected_counts(problem, unknowns, np.arange(len(nominal)), np) * intensity[:, None, None] + padded
    patterns = np.fft.fftshift(rng.poisson(np.maximum(model, 0)).astype(np.uint16), axes=(1, 2))
    field = np.stack([nominal.min(axis=0) + 1.0, nominal.max(axis=0) - 1.0])
    return Scan(replace(data, patterns=patterns, positions=nominal), specimen, data.positions, field)


def drifting() -> Scan:
    """Lines that drift at random, 0.15 Å from one to the next, under a beam that flickers by a tenth; on 64 × 64 pixels."""
    nominal = phantom.raster(2.0)
    rng = np.random.default_rng(3)
    lines = len(np.unique(nominal[:, 0]))
    walk = np.cumsum(rng.normal(size=(lines, 2)) * 0.15 / np.sqrt(2), axis=0)
    off = np.repeat(walk, lines, axis=0)
    positions = nominal + off - off.mean(axis=0)
    intensity = np.clip(1 + 0.1 * rng.normal(size=len(nominal)), 0.5, 1.5)
    data = phantom.experiment(
        step=2.0, positions=nominal, true_positions=positions, intensity=intensity / intensity.mean()
    )
    field = np.stack([nominal.min(axis=0) + 1.0, nominal.max(axis=0) - 1.0])
    return Scan(data, lambda *grid: phantom.atoms(*grid), positions, field)
