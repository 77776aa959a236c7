"""What noise does to a reconstruction, found by reconstructing simulated counts (parametric bootstrap).

The maximum of the likelihood is biased at low dose: noise in the object scatters electrons of its own, and the counts they
explain are missing in the signal. On thin specimens the phase comes out 5 % too weak at 1e3 e/Å² and 20 % at 1e2. The
bias depends on dose, specimen and optics, but a reconstruction knows all three: counts simulated from it and
reconstructed in the same way come out too weak by the same factor (Efron & Tibshirani, An Introduction to the Bootstrap,
ch. 10). What is simulated has the spectrum of the signal, not that of signal and noise; the difference between what was
simulated and what came out is the noise, ring by ring. Regularisation has freed the picture of most of it, but weakens every
ring by a factor of its own: there the picture is simulated as it is, and then with each ring's loss made good.

One simulation's factor has an error of its own, which that noise tells as well: at high dose it is larger than the bias. So the
factor is believed as far as it stands out of its error, with the gain of a Wiener filter.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from instrument import optics

if TYPE_CHECKING:
    from agent.reconstruction.solver.reconstructor import Reconstructor

PATTERNS = 400
"""Patterns of the middle of the scan that are simulated; with fewer their rim, where less light falls, tells too much."""
SMALLEST = 32
"""Edge in pixels of the smallest field that tells something."""
NEGLIGIBLE = 0.015
"""Bias below which a second simulation would change nothing."""
UNLIKE = 2.0
"""Factor by which rings may differ from all of them together in how much weaker they have become; few pixels tell little."""


def scale(worker: Reconstructor) -> float:
    """Simulate counts of the finished reconstruction, reconstruct them, compare.

    Phase of the reconstruction over that of the truth, in the sense of Re Σ R T* / Σ|T|² over the frequencies between half the
    aperture and twice the aperture; 1 where too little is lit to tell, or nothing but noise is there.
    """
    index = _middle(worker.data.positions)
    phase = _phases(worker, worker.backend.to_host(worker.reached().object))
    window, frequency = _window(worker, index)
    if np.count_nonzero(window) < SMALLEST**2:
        return 1.0
    limit = (window**2).sum() / np.prod(worker.geometry.pixel_size) / (2 * _dose(worker))
    noise = np.full(frequency.shape, 0.0 if worker.settings.regularise else limit)
    aperture = optics.spatial_frequency(worker.data.semiangle, worker.data.voltage)
    band = (frequency >= 0.5 * aperture) & (frequency <= 2 * aperture)
    power = _ring_mean(np.abs(_spectrum(phase.sum(axis=0), window)) ** 2, frequency)
    found, weaker = 1.0, np.ones_like(power)
    for attempt in range(2):
        gain = np.sqrt(np.clip(1 - noise / np.maximum(power, 1e-30), 0, 1)) / weaker
        truth = _filtered(phase, np.where(frequency < 0.5 / max(worker.geometry.pixel_size), gain, 0.0))
        again = _phases(worker, _again(worker, truth, index, attempt))
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
        if worker.settings.regularise:
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


def _phases(worker: Reconstructor, obj: NDArray[np.complex64]) -> NDArray[np.float64]:
    """(S, y, x) rad, the mean phase of what is lit removed from each slice."""
    lit = worker.illumination()
    mean = (obj * lit).sum(axis=(1, 2), keepdims=True)
    return np.asarray(np.angle(obj * mean.conj()) * (lit > 0.02), np.float64)


def _window(worker: Reconstructor, index: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A taper over the middle of what the patterns `index` light up, (y, x), and the frequency of each pixel, 1/Å."""
    pixel, shape = worker.geometry.pixel_size, worker.geometry.object_shape
    centres = worker.geometry.corners[index] + np.array(worker.shape) // 2
    tapers = []
    for axis in (0, 1):
        low, high = int(centres[:, axis].min()), int(centres[:, axis].max())
        taper = np.zeros(shape[axis])
        taper[low : high + 1] = np.hanning(high - low + 3)[1:-1]
        tapers.append(taper)
    k_y, k_x = (np.fft.fftfreq(n, p) for n, p in zip(shape, pixel, strict=True))
    return np.outer(*tapers), np.hypot(k_y[:, None], k_x[None, :])


def _dose(worker: Reconstructor) -> float:
    """Counts per Å² where most fall."""
    lit = worker.illumination().astype(np.float64)
    return float(worker.totals.sum() / lit.sum() / np.prod(worker.geometry.pixel_size))


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


def _again(
    worker: Reconstructor, phase: NDArray[np.float64], index: NDArray[np.int64], attempt: int
) -> NDArray[np.complex64]:
    """Simulate the patterns `index` of an object with the phases (S, y, x), and reconstruct them as `worker` did."""
    xp = worker.backend.xp
    # noise in the probe that was found would count twice: as the truth's and as the replica's own
    apertures = worker.reached().apertures.copy()
    apertures[: worker.n_modes] = worker.start_probe
    law = worker.ascent.law
    truth = replace(
        worker.unknowns,
        object=xp.asarray(np.exp(1j * phase).astype(np.complex64)) if law is None else law.of(xp.asarray(phase)),
        apertures=apertures,
        corners=worker.unknowns.corners[index],
        fractions=worker.unknowns.fractions[index],
        weights=worker.unknowns.weights[index],
    )
    model = worker.backend.expected(worker.problem, truth, np.arange(len(index)))
    return worker.replica(worker.backend.drawn(model, (worker.settings.seed, attempt)), truth)
