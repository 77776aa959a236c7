"""What slices do to a wave: slopes against finite differences, and atoms that are sharper than what is seen of them."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from agent.reconstruction.model.transmission import WRAPPED, TransmissionLaw

PIXEL, SHAPE = (0.2, 0.25), (60, 48)
RESOLVED = (0.6, 0.7)


def atoms(n: int, seed: int) -> NDArray[np.float32]:
    """(2, y, x) rad, n atoms of one shape in each of two slices, up to 0.5."""
    rng, phase = np.random.default_rng(seed), np.zeros((2, *SHAPE))
    y, x = (np.arange(size) * p for size, p in zip(SHAPE, PIXEL, strict=True))
    for layer in phase:
        for row, column in zip(rng.uniform(2, 10, n), rng.uniform(2, 10, n), strict=True):
            layer += 0.5 * np.outer(np.exp(-((y - row) ** 2) / 0.05), np.exp(-((x - column) ** 2) / 0.05))
    return phase.astype(np.float32)


def law(kappa: float, sigma: float, resolved: tuple[float, float] = RESOLVED) -> TransmissionLaw:
    found = TransmissionLaw(np, PIXEL, resolved)
    found.numbers = np.array([kappa, sigma])
    return found


@pytest.mark.parametrize("resolved", [RESOLVED, (1.0, 1.0)], ids=["extended detector", "as it is"])
def test_slopes_are_those_of_finite_differences(resolved: tuple[float, float]) -> None:
    rng, numbers = np.random.default_rng(0), (0.02, 0.8)
    numerator = rng.normal(size=(2, *SHAPE)) + 1j * rng.normal(size=(2, *SHAPE))
    illumination = rng.uniform(1, 2, (2, *SHAPE)).astype(np.float32)
    known = law(*numbers, resolved)
    seen = known.seen(atoms(8, seed=1))
    # absorption does not know which phase is called 0
    seen = seen - (seen * illumination).sum(axis=(1, 2), keepdims=True) / illumination.sum(axis=(1, 2), keepdims=True)
    change = known.seen(rng.normal(size=seen.shape).astype(np.float32))

    def likelihood(step: float, *numbers: float) -> float:
        return float((numerator.conj() * law(*numbers, resolved).of(seen + step * change)).real.sum())

    obj = known.of(seen)
    uphill = known.take_step(obj, obj.conj() * numerator, illumination, size=1.0)
    h = 1e-2
    slope = (likelihood(h, *numbers) - likelihood(-h, *numbers)) / (2 * h)
    assert (uphill * change).sum() == pytest.approx(slope, rel=2e-3)
    for i in (0, 1):
        there, back = (np.array(numbers) + sign * 0.1 * (np.arange(2) == i) for sign in (1, -1))
        climbed = (likelihood(0, *there) - likelihood(0, *back)) / 0.2
        gained = known.numbers[i] - numbers[i]
        assert gained * climbed > 0 or climbed == gained == 0
    assert (known.numbers[1] == numbers[1]) == (resolved == (1.0, 1.0))


def test_numbers_are_found_in_a_step() -> None:
    illumination, known = np.ones((2, *SHAPE), np.float32), law(0.0, 0.0)
    phase = known.seen(atoms(8, seed=2))
    truth, guess = law(2e-4, 0.1).of(phase), known.of(phase)
    # what the counts ask for is the difference, where there is light
    known.take_step(guess, guess.conj() * (truth - guess), illumination, size=1.0)
    np.testing.assert_allclose(known.numbers, [2e-4, 0.1], rtol=0.15)


def test_atoms_are_as_much_sharper_as_their_square() -> None:
    phase = atoms(12, seed=3)
    phase[1] *= 1.4  # another element
    missing = phase - law(0, 0).seen(phase)
    assert np.std(missing) > 0.1 * np.std(phase)
    follows = np.angle(law(0, 0.1).of(phase)) - law(0, 0).seen(phase)
    correlation = (missing * follows).sum() / np.sqrt((missing**2).sum() * (follows**2).sum())
    assert correlation > 0.9
    offset = np.angle(law(0, 0.1).of(phase + 0.3)) - law(0, 0).seen(phase + 0.3)
    np.testing.assert_allclose(offset, follows, atol=1e-5)


def test_what_is_resolved_stays_as_it_is() -> None:
    phase = law(0, 0).seen(atoms(8, seed=4))
    illumination = np.ones(phase.shape, np.float32)
    once = law(0.01, 0.5).imposed(np.exp(1j * phase), illumination)
    np.testing.assert_allclose(law(0, 0).seen(np.angle(once)), phase, atol=1e-5)
    np.testing.assert_allclose(law(0.01, 0.5).imposed(once, illumination), once, atol=1e-5)


def test_phases_that_may_have_wrapped_are_left_alone() -> None:
    phase = atoms(3, seed=5)
    wrapped = np.exp(1j * phase * (WRAPPED + 0.1) / phase.max()).astype(np.complex64)
    known, illumination = law(0.01, 0.5), np.ones(phase.shape, np.float32)
    np.testing.assert_array_equal(known.imposed(wrapped, illumination), wrapped)
    known.take_step(wrapped, wrapped * 0.1j, illumination, size=1.0)
    np.testing.assert_array_equal(known.numbers, [0.01, 0.5])


@pytest.mark.parametrize("resolved", [RESOLVED, (1.0, 1.0)], ids=["extended detector", "as it is"])
def test_what_a_slice_loses_does_not_depend_on_what_phase_is_called_0(resolved: tuple[float, float]) -> None:
    phase, illumination = atoms(8, seed=7), np.random.default_rng(1).uniform(1, 2, (2, *SHAPE)).astype(np.float32)
    here, there = (law(0.05, 0.5, resolved).imposed(np.exp(1j * (phase + zero)), illumination) for zero in (0.0, 0.7))
    np.testing.assert_allclose(there, here * np.exp(0.7j), atol=1e-5)


def test_no_number_makes_a_slice_overflow() -> None:
    assert np.isfinite(law(1e6, 0.5).of(atoms(8, seed=6))).all()
