"""A partially coherent probe in few modes: the coherence they describe, and that passes leave it as it is."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from agent.reconstruction import ReconstructionSettings, Reconstructor, reconstruct
from agent.reconstruction.calibration import parameters
from agent.reconstruction.model import coherence, forward, probe
from instrument import optics

sys.path.insert(0, str(Path(__file__).parents[4] / "physics"))
import phantom

VOLTAGE, SEMIANGLE, PIXEL, N = 60e3, 31.0, 2.0, 64
QUICK = ReconstructionSettings(max_passes=6, stop_early=False, quantitative=False, device="cpu")


@pytest.mark.parametrize("source", [0.0, 0.5, (0.9, 0.3, 0.7)])
@pytest.mark.parametrize("focus", [0.0, 40.0])
@pytest.mark.parametrize("centre", [(0.0, 0.0), (3.3, -2.6)])
def test_few_modes_describe_source_and_focal_spread(
    source: coherence.SourceSize, focus: float, centre: tuple[float, float]
) -> None:
    wave = probe.aperture_wave((N, N), PIXEL, VOLTAGE, SEMIANGLE, {"C10": 80.0}, centre)
    factors = coherence.factors(wave, coherence.Spread(source, focus), PIXEL, VOLTAGE, centre)
    assert len(factors) < 20
    # the density matrix of shifted and defocused probes, averaged over both, on pairs of aperture points
    lit = np.flatnonzero(np.abs(wave.ravel()) > 0.01 * np.abs(wave).max())
    one, other = np.random.default_rng(0).choice(lit, (2, 2000))
    ky, kx = (np.broadcast_to(k, (N, N)) for k in probe.frequencies((N, N), PIXEL, VOLTAGE))
    dk = optics.spatial_frequency(PIXEL, VOLTAGE)
    k = np.stack([ky.ravel() - centre[0] * dk, kx.ravel() - centre[1] * dk], axis=-1)
    root = coherence.source_matrix(source) / (2 * np.sqrt(2 * np.log(2)))
    apart = np.linalg.norm((k[one] - k[other]) @ root, axis=1)
    rings = (k[one] ** 2).sum(axis=1) - (k[other] ** 2).sum(axis=1)
    expected = np.exp(-2 * (np.pi * apart) ** 2 - 0.5 * (np.pi * optics.wavelength(VOLTAGE) * focus * rings) ** 2)
    flat = factors.reshape(len(factors), -1)
    found = (flat[:, one] * flat[:, other]).sum(axis=0)
    assert np.sqrt(((found - expected) ** 2).mean()) < 0.015
    assert (flat**2).sum(axis=0) == pytest.approx(1.0, abs=1e-5)


def test_an_ellipse_is_the_same_however_it_is_told() -> None:
    matrix = coherence.source_matrix((0.9, 0.4, 0.6))
    assert matrix == pytest.approx(coherence.source_matrix((0.4, 0.9, 0.6 + np.pi / 2)))
    assert coherence.source_of(matrix) == pytest.approx((0.9, 0.4, 0.6))
    assert coherence.source_of(0.7 * np.eye(2)) == pytest.approx(0.7)
    data = replace(phantom.experiment(dose=100.0), source_size=(0.9, 0.4, 0.6), focal_spread=30.0)
    names = (*parameters.SOURCE, "focus_variance")
    values = {name: parameters.value(data, name) for name in names}
    again = parameters.with_values(replace(data, source_size=0.0, focal_spread=0.0), values)
    assert again.source_size == pytest.approx((0.9, 0.4, 0.6))
    assert again.focal_spread == pytest.approx(30.0)
    # what noise makes of a small variance is none
    assert parameters.with_values(data, {"source_variance": -0.1, "focus_variance": -3.0}).focal_spread == 0
    told = parameters.deviations(replace(data, source_size=0.8), {"source_variance": 0.002, "focus_variance": 60.0})
    assert told["source_size"] == pytest.approx(0.002 * 8 * np.log(2) / (2 * 0.8), rel=0.02)
    assert told["focal_spread"] == pytest.approx(1.0, rel=0.03)


def test_the_slope_of_the_aperture_function_is_that_of_finite_differences() -> None:
    data = replace(phantom.experiment(dose=1e3), source_size=0.8, focal_spread=40.0)
    worker = Reconstructor(data, replace(QUICK, probe_modes=2))
    given, found = worker.experiment, worker.state.unknowns
    assert given.tied is not None
    tied = coherence.TiedModes(given.tied.factors.astype(np.float64))
    rng = np.random.default_rng(0)
    found.object = np.exp(1j * rng.normal(0, 0.2, found.object.shape))
    found.count_offset = 1e-3
    waves, direction = (tied.common(found.apertures.astype(np.complex128)) for _ in range(2))
    direction = direction * (rng.normal(size=waves.shape) + 1j * rng.normal(size=waves.shape))
    index = np.arange(40)
    problem = replace(given.problem(), counts=np.roll(data.patterns, (N // 2, N // 2), axis=(1, 2)))

    def deviance(step: float) -> float:
        at = replace(found, apertures=tied.spread(waves + step * direction))
        return float(forward.accumulate(problem, at, index, forward.Wanted(adjoint=False), np).deviance)

    at = replace(found, apertures=tied.spread(waves))
    sums = forward.accumulate(problem, at, index, forward.Wanted(), np)
    slope = -8 * (tied.common(sums.aperture_numerator).conj() * direction).real.sum()
    assert (deviance(1e-4) - deviance(-1e-4)) / 2e-4 == pytest.approx(slope, rel=1e-4)


@pytest.mark.parametrize("change", [{}, {"probe_modes": 3}, {"variable_modes": 1}, {"slices": 2}], ids=str)
def test_passes_refine_one_aperture_function_and_leave_the_coherence(change: dict[str, int]) -> None:
    data = replace(phantom.experiment(dose=1e4, defocus=100.0), source_size=0.8, focal_spread=30.0)
    worker = Reconstructor(data, replace(QUICK, **change))
    worker.run()
    tied, modes = worker.experiment.tied, worker.state.unknowns.apertures[: worker.experiment.n_modes]
    assert tied is not None
    assert modes == pytest.approx(tied.spread(tied.common(modes)), abs=1e-4 * float(np.abs(modes).max()))
    assert np.abs(modes - worker.experiment.apertures[: len(modes)]).max() > 1e-3 * np.abs(modes).max()
    m = len(tied.factors)
    for free in modes[m:]:
        for other in modes[:m]:
            assert abs(np.vdot(other, free)) < 0.02 * np.linalg.norm(other) * np.linalg.norm(free)


def test_the_next_reconstruction_starts_from_the_same_aperture_and_coherence() -> None:
    data = phantom.experiment(dose=1e4, defocus=100.0)
    told = replace(data, source_size=0.8, focal_spread=30.0)
    learned = reconstruct(told, replace(QUICK, probe_modes=2))
    again = reconstruct(data, replace(QUICK, max_passes=1), warm_start=learned)
    assert again.source_size == 0.8
    assert again.focal_spread == 30.0
    assert again.probe.shape == learned.probe.shape
    assert learned.free_waves is not None
    assert again.free_waves is not None
    assert len(again.free_waves) == 2
    size = np.linalg.norm
    overlap = abs(np.vdot(again.free_waves[0], learned.free_waves[0]))
    assert overlap > 0.995 * size(again.free_waves[0]) * size(learned.free_waves[0])


def test_known_jitter_keeps_positions_from_following_noise() -> None:
    jitter = 0.1
    believed = phantom.raster()
    truth = believed + np.random.default_rng(3).normal(0, jitter, believed.shape)
    data = phantom.experiment(dose=1e3, true_positions=truth)
    free = replace(QUICK, max_passes=16, refine_positions="free")

    def error(found: NDArray[np.float64]) -> float:
        off = found - truth
        return float(np.std(off - off.mean(axis=0)))

    alone = error(reconstruct(data, free).positions)
    held = error(reconstruct(replace(data, position_jitter=jitter), free).positions)
    assert held < 0.9 * jitter
    assert held < 0.8 * alone
