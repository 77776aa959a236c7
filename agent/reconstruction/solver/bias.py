"""How much noise weakens the phases, found by reconstructing simulated counts (README, "A quantitative phase")."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.reconstruction.solver.experiment import Experiment
from agent.reconstruction.solver.passes import make_pass, planned
from agent.reconstruction.solver.state import SolverState, illumination, last_reached, start
from instrument import optics

PATTERNS = 400
"""Patterns of the middle of the scan that are simulated; with fewer their rim, where less light falls, tells too much."""
SMALLEST = 32
"""Edge in pixels of the smallest field that tells something."""
NEGLIGIBLE = 0.015
"""Bias below which a second simulation would change nothing."""
UNLIKE = 2.0
"""Factor by which rings may differ from all of them together in how much weaker they have become; few pixels tell little."""


def phase_scale(experiment: Experiment, state: SolverState) -> float:
    """By what factor noise has weakened the phases: counts of the finished reconstruction are simulated and reconstructed.

    Args:
        experiment: what is given.
        state: a finished reconstruction; not changed.

    Returns:
        Phase of the reconstruction over that of the truth, Re Σ R T* / Σ|T|² over the frequencies between half the aperture and
        twice the aperture; 1 where too little is lit to tell, or nothing but noise is there.
    """
    pixel_size, regularise = experiment.geometry.pixel_size, experiment.settings.regularise
    lit = illumination(experiment, state)
    index = _middle(experiment.data.positions)
    phase = _phases(experiment.backend.to_host(last_reached(state).object), lit)
    window, frequency = _window(experiment, index)
    if np.count_nonzero(window) < SMALLEST**2:
        return 1.0
    dose = _dose(experiment, lit) / experiment.data.counts_per_electron
    limit = (window**2).sum() / np.prod(pixel_size) / (2 * dose)
    noise = np.full(frequency.shape, 0.0 if regularise else limit)
    aperture = optics.spatial_frequency(experiment.data.semiangle, experiment.data.voltage)
    band = (frequency >= 0.5 * aperture) & (frequency <= 2 * aperture)
    power = _ring_mean(np.abs(_spectrum(phase.sum(axis=0), window)) ** 2, frequency)
    found, weaker = 1.0, np.ones_like(power)
    for attempt in range(2):
        gain = np.sqrt(np.clip(1 - noise / np.maximum(power, 1e-30), 0, 1)) / weaker
        truth = _filtered(phase, np.where(frequency < 0.5 / max(pixel_size), gain, 0.0))
        again = _phases(_simulated_again(experiment, state, truth, index, attempt), lit)
        expected, got = (_spectrum(image.sum(axis=0), window) for image in (truth, again))
        simulated, common = np.abs(expected) ** 2, (got * expected.conj()).real
        energy = float(simulated[band].sum())
        ratio = float(common[band].sum()) / energy if energy > 0 else 0.0
        if not 0.2 < ratio < 2:  # nothing but noise in the band
            return 1.0
        noise = _ring_mean(np.abs(got - ratio * expected) ** 2, frequency)
        # a taper lets neighbouring frequencies scatter together
        together = window.size * (window**4).sum() / (window**2).sum() ** 2
        variance = float((noise * simulated)[band].sum()) * together / energy**2
        found = 1 + believed(ratio - 1, variance)
        if abs(found - 1) < NEGLIGIBLE:
            break
        weaker = np.full_like(power, found)
        if regularise:
            rings = _ring_mean(common, frequency) / np.maximum(_ring_mean(simulated, frequency), 1e-30)
            weaker = np.clip(rings, ratio / UNLIKE, ratio * UNLIKE)
            noise = _ring_mean(np.abs(got - weaker * expected) ** 2, frequency)
    return found


def believed(bias: float, variance: float) -> float:
    """A bias that was found with an error of this variance, as far as it stands out of it."""
    return bias * max(0.0, 1 - variance / max(bias**2, 1e-30))


def _middle(positions: NDArray[np.float64]) -> NDArray[np.int64]:
    """Indices of the PATTERNS positions nearest the middle of the scan: a dense square."""
    centre = (positions.min(axis=0) + positions.max(axis=0)) / 2
    distance = np.abs(positions - centre).max(axis=1)
    return np.sort(np.argsort(distance, kind="stable")[:PATTERNS])


def _phases(obj: NDArray[np.complex64], lit: NDArray[np.float32]) -> NDArray[np.float64]:
    """(S, y, x) rad of the slices (S, y, x), the mean phase of what is lit (y, x) removed from each."""
    mean = (obj * lit).sum(axis=(1, 2), keepdims=True)
    return np.asarray(np.angle(obj * mean.conj()) * (lit > 0.02), np.float64)


def _window(experiment: Experiment, index: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A taper over the middle of what the patterns `index` light up, (y, x), and the frequency of each pixel, 1/Å."""
    pixel, shape = experiment.geometry.pixel_size, experiment.geometry.object_shape
    centres = experiment.geometry.corners[index] + np.array(experiment.shape) // 2
    tapers = []
    for axis in (0, 1):
        low, high = int(centres[:, axis].min()), int(centres[:, axis].max())
        taper = np.zeros(shape[axis])
        taper[low : high + 1] = np.hanning(high - low + 3)[1:-1]
        tapers.append(taper)
    k_y, k_x = (np.fft.fftfreq(n, p) for n, p in zip(shape, pixel, strict=True))
    return np.outer(*tapers), np.hypot(k_y[:, None], k_x[None, :])


def _dose(experiment: Experiment, lit: NDArray[np.float32]) -> float:
    """Counts per Å² where most fall."""
    return float(experiment.counts.totals.sum() / lit.sum(dtype=np.float64) / np.prod(experiment.geometry.pixel_size))


def _spectrum(image: NDArray[np.float64], window: NDArray[np.float64]) -> NDArray[np.complex128]:
    return np.asarray(np.fft.fft2((image - (image * window).sum() / window.sum()) * window))


def _rings(frequency: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.asarray(frequency / frequency.max() * 48, np.int64)


def _ring_mean(image: NDArray[np.float64], frequency: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over rings of frequency, as an image."""
    ring = _rings(frequency)
    return np.asarray((np.bincount(ring.ravel(), image.ravel()) / np.maximum(np.bincount(ring.ravel()), 1))[ring])


def _filtered(phase: NDArray[np.float64], gain: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.fft.ifft2(np.fft.fft2(phase) * gain).real)


def _drawn(experiment: Experiment, model: Any, attempt: int) -> Any:
    """Counts (b, …) with the mean `model` that scatter as the experiment's do: whole electrons of several counts each."""
    backend, xp, several = experiment.backend, experiment.backend.xp, experiment.data.counts_per_electron
    seed = (experiment.settings.seed, attempt)
    if several <= 1:
        return backend.draw_counts(model, seed)
    counts = backend.draw_counts(model / np.float32(several), seed).astype(np.float32) * np.float32(several)
    rounded = xp.floor(counts + xp.asarray(np.random.default_rng((*seed, 1)).random(counts.shape, np.float32)))
    return rounded.astype(np.uint16) if float(rounded.max()) < 2**16 else rounded.astype(np.float32)


def _simulated_again(
    experiment: Experiment, state: SolverState, phase: NDArray[np.float64], index: NDArray[np.int64], attempt: int
) -> NDArray[np.complex64]:
    """Simulate the patterns `index` of an object with the phases (S, y, x), and reconstruct them in as many passes."""
    backend, settings = experiment.backend, experiment.settings
    # noise in the probe that was found would count twice: as the truth's and as the replica's own
    apertures = last_reached(state).apertures.copy()
    apertures[: experiment.n_modes] = experiment.apertures[: experiment.n_modes]
    phase = backend.xp.asarray(phase)
    known = state.unknowns
    truth = replace(
        known,
        object=backend.xp.exp(1j * phase).astype(np.complex64) if state.law is None else state.law.of(phase),
        apertures=apertures,
        corners=known.corners[index],
        subpixel_shifts=known.subpixel_shifts[index],
        weights=known.weights[index],
    )
    model = backend.expected_counts(experiment.problem(), truth, np.arange(len(index)))
    counts = _drawn(experiment, model, attempt)
    replica = replace(
        experiment,
        counts=experiment.counts.replaced(counts, experiment.counts.totals[index]),
        settings=replace(
            settings,
            max_passes=max(state.passes, 1),
            refine_positions=None,
            refine_intensity=False,
            variable_modes=0,
        ),
    )
    begin = replace(
        truth,
        object=backend.xp.ones_like(truth.object),
        apertures=apertures.copy(),
        background=truth.background.copy(),
    )
    again = start(replica, begin)
    for step in planned(replica, again):
        make_pass(replica, again, step)
    return backend.to_host(last_reached(again).object)
