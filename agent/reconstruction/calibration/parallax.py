"""Parallax: the bright-field images are one image, each shifted by its detector angle (README, "Parallax")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.reconstruction.calibration.bright_field import BrightFieldDisc
from agent.reconstruction.model.windows import window_of

_IMAGES = 64  # transformed at once
_LARGEST_TRANSFORM = 60_000_000  # complex numbers of the search's detector transforms: 240 MB of powers


@dataclass(frozen=True)
class BrightFieldSpectra:
    """Fourier transforms of the bright-field images.

    Attributes:
        values: (n_y, n_x, q) complex64, corner-centred scan frequencies of pixel q's image, mean removed, edges tapered.
        angles: (q, 2) (row, column) of the pixel from the disc's centre, in units of the disc's radius.
        pixels: (q, 2) integer (row, column) offsets on the detector grid.
        counts: (q,) mean counts of the pixel per pattern.
        radius: of the disc in detector pixels.
    """

    values: NDArray[np.complex64]
    angles: NDArray[np.float64]
    pixels: NDArray[np.intp]
    counts: NDArray[np.float64]
    radius: float

    @property
    def frequencies(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(n_y, 1) and (1, n_x) scan frequencies, cycles per scan step."""
        n_y, n_x = self.values.shape[:2]
        return np.asarray(np.fft.fftfreq(n_y)[:, None]), np.asarray(np.fft.fftfreq(n_x)[None, :])


@dataclass(frozen=True)
class ShiftMap:
    """Shift of a bright-field image, scan steps, per angle in units of the disc's radius: s = matrix @ angle.

    Attributes:
        matrix: (2, 2), (y, x) from (row, column).
        covariance: (4, 4) of matrix.ravel().
        significance: height of the maximum over chance, in standard deviations of chance.
        handedness: height of the maximum over the best of the other hand, in standard deviations of chance.
        rival: likelihood of the best quite different map relative to this one's; 0 before disc_overlap has judged.
    """

    matrix: NDArray[np.float64]
    covariance: NDArray[np.float64]
    significance: float
    handedness: float
    rival: float = 0.0


def bright_field_spectra(
    patterns: NDArray[Any], disc: BrightFieldDisc, mask: NDArray[np.bool_] | None = None
) -> BrightFieldSpectra:
    """Fourier transform over the scan of every pixel inside the disc.

    Args:
        patterns: (scan_y, scan_x, ky, kx) counts.
        disc: the bright-field disc.
        mask: (ky, kx), True where the detector counts.
    """
    from scipy import fft

    n_y, n_x, *detector = patterns.shape
    rows, columns = disc.offsets((detector[0], detector[1]))
    inside = np.hypot(rows, columns) < 0.95 * disc.radius  # the rim's intensity moves with lens charging and descan
    if mask is not None:
        inside &= mask
    images = np.empty((int(inside.sum()), n_y, n_x), dtype=np.float32)
    for i in range(n_y):  # row by row: the patterns may lie on disk
        images[:, i] = np.asarray(patterns[i])[:, inside].T
    counts = images.mean(axis=(1, 2), dtype=np.float64)
    images -= counts[:, None, None].astype(np.float32)
    images *= np.outer(*(window_of(np.linspace(0, 1, n), 0.3) for n in (n_y, n_x))).astype(np.float32)
    values = np.empty((n_y, n_x, len(images)), dtype=np.complex64)
    for first in range(0, len(images), _IMAGES):
        part = slice(first, first + _IMAGES)
        values[..., part] = np.moveaxis(fft.fft2(images[part], axes=(1, 2)), 0, -1)
    offsets = np.stack([rows[inside], columns[inside]], axis=-1)
    return BrightFieldSpectra(
        values=values,
        angles=offsets / disc.radius,
        pixels=np.argwhere(inside) - np.rint(disc.centre).astype(np.intp),
        counts=counts,
        radius=disc.radius,
    )


def find_shift_map(
    spectra: BrightFieldSpectra, largest_shift: float | None = None, expected_shift: float | None = None
) -> ShiftMap:
    """The linear map from angle to shift that adds the bright-field images up to the largest power.

    `largest_shift` of the disc's edge in scan steps bounds the search (default: half the scan, at most what neighbouring pixels
    resolve); `expected_shift` narrows it to half … twice that.
    """
    g, values = chosen_frequencies(spectra)
    ring = np.rint(np.hypot(g[:, 0], g[:, 1]) * max(spectra.values.shape[:2])).astype(np.intp)
    power = _ring_mean(ring, (np.abs(values) ** 2).sum(axis=1))
    smallest, largest = search_range(spectra, largest_shift, expected_shift)
    matrix, significance, handedness = _search(spectra, g, values, 1 / power, smallest, largest)
    covariance = np.zeros((4, 4))
    for _ in range(3):
        matrix, covariance = refine(spectra, g, values, ring, matrix)
    return ShiftMap(matrix, covariance, significance, handedness)


def search_range(
    spectra: BrightFieldSpectra, largest_shift: float | None = None, expected_shift: float | None = None
) -> tuple[float, float]:
    """Smallest and largest shift of the disc's edge, scan steps, that are searched (see find_shift_map)."""
    limit = min(spectra.radius, 0.5 * min(spectra.values.shape[:2]))
    limit = limit if largest_shift is None else min(limit, largest_shift)
    smallest = 0.25
    if expected_shift is not None:
        smallest, limit = max(0.5 * expected_shift, 0.25), min(max(2 * expected_shift, 1.0), limit)
    return smallest, max(limit, 2 * smallest)


def chosen_frequencies(spectra: BrightFieldSpectra) -> tuple[NDArray[np.float64], NDArray[np.complex64]]:
    """Half of the frequency plane without the lowest, which drift and thickness own; the strongest where it is large."""
    g_y, g_x = spectra.frequencies
    distance = np.hypot(g_y, g_x)
    half = (g_y > 0) | ((g_y == 0) & (g_x > 0))
    half &= (distance >= 1.5 / min(spectra.values.shape[:2])) & (distance <= 0.5)
    values = spectra.values[half]
    g = np.stack([(g_y + 0 * g_x)[half], (g_x + 0 * g_y)[half]], axis=-1)
    most = max(200, _LARGEST_TRANSFORM // _padded(spectra) ** 2)
    if len(g) > most:
        strongest = np.argsort(-(np.abs(values) ** 2).sum(axis=1))[:most]
        g, values = g[strongest], values[strongest]
    return g, values


def _padded(spectra: BrightFieldSpectra) -> int:
    from scipy import fft

    return int(fft.next_fast_len(2 * (2 * int(np.abs(spectra.pixels).max()) + 1)))


def _ring_mean(ring: NDArray[np.intp], value: NDArray[Any]) -> NDArray[Any]:
    """Each value replaced by the mean over its ring."""
    return (np.bincount(ring, value) / np.maximum(np.bincount(ring), 1))[ring]


def detector_transforms(spectra: BrightFieldSpectra, values: NDArray[np.complex64]) -> NDArray[np.float32]:
    """Power of every candidate shift of each frequency, by one Fourier transform over the detector.

    Args:
        spectra: of the bright-field images.
        values: (f, q) of the images at f frequencies.

    Returns:
        (f, p, p) powers |Σ_q I_q(g) exp(2πi ρ·α_q)|²: at ρ = m · radius / p for pixel m, corner-centred.
    """
    from scipy import fft

    padded = _padded(spectra)
    powers = np.empty((len(values), padded, padded), dtype=np.float32)
    for start in range(0, len(values), 128):
        chunk = np.zeros((len(values[start : start + 128]), padded, padded), dtype=np.complex64)
        chunk[:, spectra.pixels[:, 0], spectra.pixels[:, 1]] = values[start : start + 128]
        powers[start : start + 128] = np.abs(fft.ifft2(chunk, axes=(1, 2), norm="forward", overwrite_x=True)) ** 2
    return powers


def _search(
    spectra: BrightFieldSpectra,
    g: NDArray[np.float64],
    values: NDArray[np.complex64],
    weight: NDArray[np.float64],
    smallest: float,
    largest: float,
) -> tuple[NDArray[np.float64], float, float]:
    """Best of all maps without astigmatism, c · rotation · hand, on a grid fine enough for a quarter of a cycle.

    Returns it with its height above chance and above the best of the other hand.
    """
    powers = detector_transforms(spectra, values)
    padded = powers.shape[1]
    index = np.arange(len(g))
    to_index = padded / spectra.radius
    found: list[tuple[float, NDArray[np.float64]]] = []
    for size in np.arange(smallest, largest + 0.5, 0.5):
        n_angles = max(16, int(4 * np.pi * size))
        for angle in np.arange(n_angles) * (2 * np.pi / n_angles):
            c, s = size * np.cos(angle), size * np.sin(angle)
            for matrix in (np.array([[c, -s], [s, c]]), np.array([[-c, -s], [-s, c]])):
                at = np.rint(g @ matrix * to_index).astype(np.intp) % padded
                found.append((float(weight @ powers[index, at[:, 0], at[:, 1]]), matrix))
    scores = np.array([score for score, _ in found])
    best = int(np.argmax(scores))
    # What no shift map gives: at every frequency the power at a place of its own.
    random = np.random.default_rng(0)
    chance = [weight @ powers[index, *random.integers(padded, size=(2, len(g)))] for _ in range(400)]
    spread = max(float(np.std(chance)), 1e-30)
    mirrored = np.array([np.linalg.det(matrix) < 0 for _, matrix in found])
    other = scores[mirrored != mirrored[best]].max()
    return found[best][1], float((scores[best] - np.mean(chance)) / spread), float((scores[best] - other) / spread)


def refine(
    spectra: BrightFieldSpectra,
    g: NDArray[np.float64],
    values: NDArray[np.complex64],
    ring: NDArray[np.intp],
    start: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Maximum likelihood of the shift map's four numbers.

    The spectra are shifted back by `start` and then added in blocks of the disc, between which only the small remaining
    shift counts. With noise of variance σ² the log-likelihood of the shifts, J profiled out, is Σ_g |Σ_q I_q exp(…)|² / (q σ²).

    Args:
        spectra: of the bright-field images.
        g: (f, 2) frequencies, cycles per scan step.
        values: (f, q) of the images at these frequencies.
        ring: (f,) number of the ring that each frequency lies in.
        start: (2, 2) shift map.

    Returns:
        The shift map (2, 2) and the covariance (4, 4) of its numbers.
    """
    from scipy.optimize import minimize

    aligned = values * np.exp(2j * np.pi * (g @ start) @ spectra.angles.T).astype(np.complex64)
    n_pixels = aligned.shape[1]
    total = np.abs(aligned.sum(axis=1)) ** 2 / n_pixels
    noise = _ring_mean(ring, ((np.abs(aligned) ** 2).sum(axis=1) - total) / max(n_pixels - 1, 1))
    weight = 1 / (n_pixels * noise)
    cell = np.floor(spectra.angles * 5).astype(np.intp)
    _, block = np.unique((cell - cell.min()) @ np.array([1000, 1]), return_inverse=True)
    size = np.bincount(block)
    angles = np.stack([np.bincount(block, spectra.angles[:, i]) / size for i in (0, 1)], axis=-1)
    order = np.argsort(block, kind="stable")
    blocks = np.add.reduceat(aligned[:, order], np.concatenate([[0], np.cumsum(size)[:-1]]), axis=1)

    def loss(p: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        terms = blocks * np.exp(2j * np.pi * (g @ p.reshape(2, 2)) @ angles.T)
        amplitude = terms.sum(axis=1)
        slope = np.real(np.conj(amplitude)[:, None] * 2j * np.pi * (terms @ angles)) * weight[:, None]
        return -float(weight @ np.abs(amplitude) ** 2), -2 * (g.T @ slope).ravel()

    scale = max(abs(loss(np.zeros(4))[0]), 1e-30)
    fit = minimize(lambda p: tuple(v / scale for v in loss(p)), np.zeros(4), jac=True, method="BFGS")
    step = 1e-3
    hessian = np.stack([(loss(fit.x + d)[1] - loss(fit.x - d)[1]) / (2 * step) for d in step * np.eye(4)])
    covariance = np.asarray(np.linalg.pinv(0.5 * (hessian + hessian.T)), dtype=np.float64)
    return start + fit.x.reshape(2, 2), covariance


def shift_and_add(
    spectra: BrightFieldSpectra, matrix: NDArray[np.float64], upsampling: int = 1
) -> NDArray[np.complex128]:
    """Fourier transform of the sum of the images shifted back, relative to the mean intensity.

    Args:
        spectra: of the bright-field images.
        matrix: (2, 2) shift map, scan steps per disc radius.
        upsampling: of the picture; images are shifted by different fractions of a step, so aliases cancel beyond the scan's
            own frequencies.

    Returns:
        (upsampling · n_y, upsampling · n_x), corner-centred.
    """
    n_y, n_x, _ = spectra.values.shape
    shift = spectra.angles @ matrix.T
    spectrum = np.empty((upsampling * n_y, upsampling * n_x), dtype=np.complex128)
    g_y = np.fft.fftfreq(upsampling * n_y, 1 / upsampling)
    g_x = np.fft.fftfreq(upsampling * n_x, 1 / upsampling)
    for tile_y in range(upsampling):
        rows = slice(tile_y * n_y, (tile_y + 1) * n_y)
        phased = spectra.values * np.exp(2j * np.pi * g_y[rows, None] * shift[:, 0])[:, None, :].astype(np.complex64)
        for tile_x in range(upsampling):
            columns = slice(tile_x * n_x, (tile_x + 1) * n_x)
            phase_x = np.exp(2j * np.pi * g_x[columns, None] * shift[:, 1]).astype(np.complex64)
            spectrum[rows, columns] = np.einsum("yxq,xq->yx", phased, phase_x)
    return np.asarray(spectrum * (upsampling**2 / spectra.counts.sum()))
