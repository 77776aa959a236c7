"""What is expected of a specimen: the Wiener filter where everything is known, slices that differ only where there is signal."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from agent.reconstruction.model.depth import Depths
from agent.reconstruction.solver.prior import REAL, Prior

N, LIGHT = 128, 500.0
NOISE = REAL / (2 * LIGHT)
"""Variance per pixel that the prior takes for noise."""


def depths(slices: int) -> Depths:
    """Of slices 6 Å apart."""
    return Depths(np, 6.0 * np.arange(slices), 0.04, (0.3, 0.3))


def white(variance: float, seed: int) -> NDArray[np.float64]:
    image = np.random.default_rng(seed).normal(0, np.sqrt(variance), (N, N))
    return image - image.mean()


def reflection(amplitude: float) -> NDArray[np.float64]:
    """(y, x) rad, a wave of 20 periods along the columns."""
    return amplitude * np.cos(2 * np.pi * 20 * np.arange(N) / N)[None, :] * np.ones((N, 1))


def posterior(
    measured: NDArray[np.float64], regularise: bool, steps: int, amplitudes: bool = False
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(phases, log amplitudes) (S, y, x) after gradient steps towards `measured` phases, each followed by the prior's."""
    prior, size, illumination = Prior(np, depths(len(measured))), 1.0, np.full(measured.shape, LIGHT, np.float32)
    goal = np.exp((1j + amplitudes) * measured)
    obj = np.ones(measured.shape, np.complex64)
    for _ in range(steps):
        # half of the preconditioner's curvature is there: half of the information about a phase is lost
        step = 0.5 * size * np.log(goal / obj) / len(obj)
        obj = (obj * np.exp(step if amplitudes else 1j * step.imag)).astype(np.complex64)
        obj = prior.imposed(obj, illumination, size, phase_only=not amplitudes, regularise=regularise)
    return np.angle(obj).astype(np.float64), np.log(np.abs(obj)).astype(np.float64)


@pytest.mark.parametrize("ratio", [3.0, 10.0])
def test_power_above_the_noise_is_filtered_as_wiener_says(ratio: float) -> None:
    measured = white(ratio * NOISE, seed=0)
    found, _ = posterior(measured[None], regularise=True, steps=60)
    gain = (found[0] * measured).sum() / (measured**2).sum()
    assert gain == pytest.approx(1 - 1 / ratio, abs=0.02)


def test_a_reflection_is_kept_and_the_noise_beside_it_goes() -> None:
    signal, noise = reflection(0.2), white(NOISE / REAL, seed=1)
    found, _ = posterior((signal + noise)[None], regularise=True, steps=60)
    assert (found[0] * signal).sum() / (signal**2).sum() == pytest.approx(1, abs=0.01)
    # a patch of 5 × 5 frequencies round it keeps its noise
    assert ((found[0] - signal) ** 2).mean() < 0.15 * (noise**2).mean()


def test_noise_beside_what_is_in_few_places_goes() -> None:
    y, x = np.mgrid[:N, :N]
    places = np.random.default_rng(9).uniform(10, N - 10, (8, 2))
    vacancies = sum(np.exp(-((y - row) ** 2 + (x - column) ** 2) / 2) for row, column in places)
    crystal, vacancies = reflection(0.2), -0.8 * (vacancies - vacancies.mean())
    noise = white(NOISE / REAL, seed=10)
    found, _ = posterior((crystal + vacancies + noise)[None], regularise=True, steps=60)
    # the best that one and the same filter for all places can do, knowing the power of each frequency
    k2 = np.fft.fftfreq(N)[:, None] ** 2 + np.fft.fftfreq(N) ** 2
    power = len(places) * (0.8 * 2 * np.pi * np.exp(-2 * np.pi**2 * k2)) ** 2 / N**2
    filtered = np.fft.ifft2(np.fft.fft2(vacancies + noise) * power / (power + NOISE / REAL)).real
    error, of_a_filter = (float((image**2).mean()) for image in (found[0] - crystal - vacancies, filtered - vacancies))
    assert error < 0.6 * of_a_filter
    lost = 1 - ((found[0] - crystal) * vacancies).sum() / (vacancies**2).sum()
    assert abs(lost) < 0.05


def test_the_rim_of_what_is_lit_does_not_hide_noise_beside_a_reflection() -> None:
    inside = np.abs(np.arange(N) - N / 2) < N / 3
    illumination = (LIGHT * np.outer(inside, inside))[None].astype(np.float32)
    signal = 0.2 * np.cos(2 * np.pi * (19.3 * np.arange(N)[None, :] + 7.6 * np.arange(N)[:, None]) / N)
    measured = (signal + white(NOISE / REAL, seed=7)) * illumination[0] / LIGHT
    obj, prior = np.exp(1j * measured)[None].astype(np.complex64), Prior(np, depths(1))
    for _ in range(20):
        obj = prior.imposed(obj, illumination, 1.0, phase_only=True, regularise=True)
    taper, k = np.outer(np.hanning(N), np.hanning(N)), np.abs(np.fft.fftfreq(N, 1 / N))
    in_its_row = (np.abs(k - 19.3) > 10)[None, :] & (np.abs(k - 7.6) < 2)[:, None]
    before, after = (np.abs(np.fft.fft2(image * taper)) ** 2 for image in (measured, np.angle(obj[0])))
    # a thirtieth where the spectrum is looked at without a taper
    assert after[in_its_row].mean() < 1e-3 * before[in_its_row].mean()


def test_amplitudes_have_a_power_of_their_own() -> None:
    noise = white(NOISE / REAL, seed=2)
    phases, amplitudes = posterior((reflection(0.2) + noise)[None], regularise=True, steps=60, amplitudes=True)
    assert amplitudes[0] == pytest.approx(phases[0], abs=1e-3)
    quiet = np.exp(1j * reflection(0.2) + noise)[None].astype(np.complex64)
    prior = Prior(np, depths(1))
    for _ in range(20):
        quiet = prior.imposed(quiet, np.full(quiet.shape, LIGHT, np.float32), 1.0, phase_only=False, regularise=True)
    assert np.std(np.log(np.abs(quiet))) < 0.2 * noise.std()
    assert np.std(np.angle(quiet)) == pytest.approx(reflection(0.2).std(), rel=0.01)


def test_slices_differ_where_there_is_signal_and_nowhere_else() -> None:
    upper, noise = reflection(0.2), white(NOISE / REAL, seed=3)
    slices = np.stack([upper + noise, -noise + white(NOISE / REAL, seed=4)])
    obj = np.exp(1j * slices).astype(np.complex64)
    prior = Prior(np, depths(2))
    for _ in range(60):
        obj = prior.imposed(obj, np.full(obj.shape, LIGHT, np.float32), 1.0, phase_only=True, regularise=False)
    phases = np.angle(obj).astype(np.float64)
    np.testing.assert_allclose(phases.sum(axis=0), slices.sum(axis=0), atol=1e-4)
    difference = phases[0] - phases[1]
    assert (difference * upper).sum() / (upper**2).sum() == pytest.approx(1, abs=0.02)
    assert np.std(difference - upper) < 0.3 * np.std(2 * noise)


def test_frequencies_beyond_the_detector_are_left_alone() -> None:
    noise = white(NOISE / REAL, seed=6)
    obj = np.exp(1j * noise)[None].astype(np.complex64)
    prior = Prior(np, depths(1), resolved=(0.5, 0.75))
    for _ in range(20):
        obj = prior.imposed(obj, np.full(obj.shape, LIGHT, np.float32), 1.0, phase_only=True, regularise=True)
    left = np.abs(np.fft.fft2(np.angle(obj[0]))) / np.abs(np.fft.fft2(noise)).clip(1e-6)
    k = np.abs(np.fft.fftfreq(N))
    resolved = (k[:, None] <= 0.25) & (k[None, :] <= 0.375)
    assert left[~resolved] == pytest.approx(1, abs=1e-3)
    assert np.median(left[resolved]) < 0.3


def test_phases_do_not_drift() -> None:
    illumination = np.full((2, N, N), LIGHT, np.float32)
    illumination[:, : N // 3] *= 0.01  # nobody knows the phase there; it differs from that of the rest
    slices = np.stack([reflection(0.2), white(NOISE, seed=8)]) + 0.4 * (illumination < LIGHT)
    obj, prior = np.exp(1j * slices).astype(np.complex64), Prior(np, depths(2))
    for _ in range(10):
        after = prior.imposed(obj, illumination, 1.0, phase_only=True, regularise=True)
        means = [
            (np.angle(image) * illumination).sum(axis=(1, 2)) / illumination.sum(axis=(1, 2)) for image in (obj, after)
        ]
        np.testing.assert_allclose(means[1], means[0], atol=1e-5)
        obj = after


def test_phases_that_may_have_wrapped_are_left_alone() -> None:
    obj = np.exp(1j * (reflection(3.0) + white(NOISE, seed=5)))[None].astype(np.complex64)
    after = Prior(np, depths(1)).imposed(
        obj, np.full(obj.shape, LIGHT, np.float32), 1.0, phase_only=True, regularise=True
    )
    np.testing.assert_allclose(after, obj, rtol=1e-5)
