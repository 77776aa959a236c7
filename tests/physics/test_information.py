"""The Cramér–Rao bound that the physical limit's table starts with: the Fisher information against finite differences."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from information import Information

from agent.reconstruction.model import forward

N, SIDE = 16, 28


@pytest.fixture(scope="module")
def experiment() -> tuple[forward.Problem, forward.Unknowns]:
    """Two slices of random phases under a defocused probe at 25 places, in float64."""
    rng = np.random.default_rng(0)
    k = np.fft.fftfreq(N)
    k2 = k[:, None] ** 2 + k[None, :] ** 2
    aperture = 40.0 * (np.sqrt(k2) < 0.2) * np.exp(-60j * k2)
    corners = np.stack(np.meshgrid(*2 * [np.arange(5) * 3], indexing="ij"), axis=-1).reshape(-1, 2)
    phases = rng.normal(0, 0.2, (2, SIDE, SIDE))
    problem, unknowns = forward.known(
        np.exp(1j * phases), aperture[None], corners, rng.uniform(-0.5, 0.5, corners.shape)
    )
    problem.propagators = np.exp(-20j * k2)[None]
    problem.mask = (np.sqrt(k2) < 0.45).astype(np.float32)
    return problem, replace(unknowns, object=np.exp(1j * phases))


def slope(experiment: tuple[forward.Problem, forward.Unknowns], direction: np.ndarray) -> np.ndarray:
    """(n, ky, kx) counts per rad along a change of the phases (S, y, x)."""
    problem, unknowns = experiment
    plus, minus = (
        forward.intensities(
            problem, replace(unknowns, object=unknowns.object * np.exp(step * direction)), np.arange(25), np
        )[0]
        for step in (1e-5j, -1e-5j)
    )
    return (plus - minus) / 2e-5


def test_information_is_what_finite_differences_say(experiment: tuple[forward.Problem, forward.Unknowns]) -> None:
    problem, unknowns = experiment
    rng = np.random.default_rng(1)
    one, other = rng.normal(size=(2, *unknowns.object.shape))
    model = forward.intensities(problem, unknowns, np.arange(25), np)[0]
    expected = (problem.mask * slope(experiment, one) * slope(experiment, other) / model).sum()
    found = (Information(problem, unknowns).times(one.astype(np.float32)) * other).sum()
    assert found == pytest.approx(expected, rel=1e-3)


def test_an_error_as_large_as_the_bound_has_its_covariance(
    experiment: tuple[forward.Problem, forward.Unknowns],
) -> None:
    """The variance of Fx over draws x is that of F itself, and so is the one along any direction."""
    information = Information(*experiment)
    direction = np.random.default_rng(2).normal(size=information.shape).astype(np.float32)
    scores = np.array([(information.score(seed) * direction).sum() for seed in range(200)])
    expected = (information.times(direction) * direction).sum()
    assert scores.std() == pytest.approx(np.sqrt(expected), rel=0.15)  # 200 draws tell it to 5 %
    solved = information.drawn(0, alike=True)
    both = np.repeat(solved[None] / 2, 2, axis=0)
    left = (information.times(both) - information.score(0)).mean(axis=0)
    assert np.linalg.norm(left) < 0.02 * np.linalg.norm(information.score(0).mean(axis=0))
