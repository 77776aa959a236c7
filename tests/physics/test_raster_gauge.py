"""What a raster cannot tell stays out of the picture: the scan's own grid, however many passes refine the probe."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from phantom import CRYSTAL, experiment, raster

from agent.reconstruction import DiffractionData, Reconstruction, ReconstructionSettings, reconstruct
from agent.reconstruction.solver.raster_gauge import lattice_harmonics

STEP = 1.5
SETTINGS = ReconstructionSettings(device="cpu", stop_early=False, quantitative=False)


def powers(found: Reconstruction, step: float = STEP, field: float = 24.0) -> tuple[float, float]:
    """Power of the phase at the scan's first harmonics: the largest over the mean of their rings, and that at (0, 1/step)."""
    shape = [int(field / p) for p in found.pixel_size]
    first = [round(-o / p) for o, p in zip(found.origin, found.pixel_size, strict=True)]
    image = found.phase[first[0] : first[0] + shape[0], first[1] : first[1] + shape[1]].astype(np.float64)
    taper = np.outer(*(np.hanning(n) for n in image.shape))
    image = (image - (image * taper).sum() / taper.sum()) * taper
    y, x = (np.arange(n) * p for n, p in zip(image.shape, found.pixel_size, strict=True))

    def power(g: NDArray[np.float64]) -> float:
        return float(np.abs(np.exp(-2j * np.pi * g[0] * y) @ image @ np.exp(-2j * np.pi * g[1] * x)) ** 2)

    ratios = []
    for g in np.array([[0, 1], [1, 0], [1, 1], [1, -1]]) / step:
        angles = np.linspace(0.1, np.pi - 0.1, 60) + np.arctan2(g[0], g[1])
        angles = angles[np.abs(np.sin(2 * angles)) > 0.35] if 0 in g else angles[np.abs(np.cos(2 * angles)) > 0.35]
        ring = np.hypot(*g) * np.stack([np.sin(angles), np.cos(angles)], axis=-1)
        ratios.append(power(g) / np.mean([power(k) for k in ring]))
    return max(ratios), power(np.array([0, 1 / step])) / taper.sum() ** 2


@pytest.mark.parametrize("defocus", [150.0, 230.0])
def test_passes_that_refine_a_wrong_probe_put_no_grid_into_the_picture(defocus: float) -> None:
    data = replace(
        experiment(dose=1e4, step=STEP, defocus=defocus), defocus=defocus - 25, aberrations={"C12": 20.0, "phi12": 0.4}
    )
    assert powers(reconstruct(data, replace(SETTINGS, max_passes=40)))[0] < 3


def test_a_reflection_of_a_crystal_that_falls_on_a_harmonic_stays() -> None:
    step = 3.16 / 2  # the lattice's second order along x
    data = experiment(dose=3e4, step=step, layers=(CRYSTAL,))
    with_probe, without = (
        powers(reconstruct(data, replace(SETTINGS, max_passes=20, refine_probe=refined)), step)[1]
        for refined in (True, False)
    )
    assert with_probe > 0.5 * without


def test_counts_are_explained_as_well_without_the_grid() -> None:
    data: DiffractionData = experiment(dose=1e4, step=STEP)
    shaken = data.positions + np.random.default_rng(0).uniform(-0.4, 0.4, data.positions.shape)
    assert len(lattice_harmonics(shaken, 1.0)) == 0
    on_raster = reconstruct(data, replace(SETTINGS, max_passes=30)).deviance[-1]
    off_raster = reconstruct(experiment(dose=1e4, positions=shaken), replace(SETTINGS, max_passes=30)).deviance[-1]
    assert on_raster == pytest.approx(off_raster, rel=0.02)


def test_harmonics_of_one_raster_of_two_passes_and_of_none() -> None:
    once = raster(STEP)
    g = lattice_harmonics(once, 1.5 / STEP)
    assert {tuple(np.rint(k * STEP).astype(int)) for k in g} == {(0, 1), (1, 0), (1, 1), (-1, 1)}
    assert g == pytest.approx(np.rint(g * STEP) / STEP, abs=1e-4)
    twice = np.concatenate([once - STEP / 4, once + STEP / 4])
    assert {tuple(np.rint(k * STEP).astype(int)) for k in lattice_harmonics(twice, 1.5 / STEP)} == {(1, 1), (-1, 1)}
    assert len(lattice_harmonics(np.random.default_rng(1).uniform(0, 20, (300, 2)), 1.0)) == 0
    assert len(lattice_harmonics(raster(STEP, 6.0), 1.0)) == 0, "4 × 4 positions are no raster to speak of"
