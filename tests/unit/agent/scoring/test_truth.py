"""The information in a picture, from its correlation with the true phase."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates

from agent.config import ScoreChoice
from agent.scoring.ring_correlation import ring_correlation
from agent.scoring.truth import true_information

FINE, PIXEL, MARGIN = 0.1, 0.28, 2.5
CHOICE = ScoreChoice()


def specimen() -> NDArray[np.float64]:
    """(y, x) atoms on a square lattice of 3 Å, some of them missing, 18 Å and a margin."""
    edge = round((18 + 2 * MARGIN) / FINE)
    atoms = np.zeros((edge, edge))
    rng = np.random.default_rng(4)
    atoms[8::30, 8::30] = rng.random(atoms[8::30, 8::30].shape) > 0.2
    atoms[20::30, 15::30] = 0.6
    return gaussian_filter(atoms, 3.0) * 60


def seen(
    truth: NDArray[np.float64], shift: tuple[float, float], noise: float = 0.0, shear: float = 0.0
) -> NDArray[np.float64]:
    n = round(18 / PIXEL)
    axis = np.arange(n) * PIXEL + MARGIN
    y, x = np.meshgrid(axis + shift[0], axis + shift[1], indexing="ij")
    picture = map_coordinates(truth, [y / FINE, (x + shear * (y - y.mean())) / FINE], order=3)
    return picture + noise * np.random.default_rng(1).standard_normal(picture.shape)


def information(picture: NDArray[np.float64]) -> float:
    return true_information(picture, (PIXEL, PIXEL), specimen(), FINE, CHOICE)


@pytest.mark.parametrize("shift", [(0.0, 0.0), (1.3, -0.7), (-1.9, 1.75)])
def test_a_shift_costs_nothing(shift: tuple[float, float]) -> None:
    truth = specimen()
    still = seen(truth, (0.0, 0.0), noise=0.2)
    found = information(seen(truth, shift, noise=0.2))
    assert found == pytest.approx(information(still), rel=0.2)


def test_a_shear_costs_information() -> None:
    truth = specimen()
    assert information(seen(truth, (0.2, 0.1), 0.1, shear=0.06)) < 0.7 * information(seen(truth, (0.2, 0.1), 0.1))


def test_noise_leaves_what_a_channel_of_that_noise_carries() -> None:
    truth = specimen()
    clean, noisy = seen(truth, (0.0, 0.0)), seen(truth, (0.0, 0.0), noise=0.3)
    spectrum = ring_correlation([(noisy, clean)], (PIXEL, PIXEL), CHOICE)
    c = np.clip(spectrum.frc, 0, 0.9995)
    expected = (-0.5 * np.log2(1 - c**2) * np.pi * np.diff(spectrum.edges**2)).sum()
    assert information(noisy) == pytest.approx(expected, rel=0.05)


def test_pure_noise_carries_next_to_nothing() -> None:
    noise = np.random.default_rng(2).standard_normal((64, 64))
    assert information(noise) < 0.1 * information(seen(specimen(), (0.0, 0.0), noise=0.1))
