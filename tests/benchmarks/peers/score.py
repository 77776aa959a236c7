"""How far a reconstructed phase is from the truth: NRMSE after alignment, and the phase scale."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from recording import Recording

BANDS = ((0.25, 0.5), (0.5, 0.75), (0.75, 1.0))
"""1/Å, in which the error is compared with the diffraction-plane limit."""
_PADDING = 4  # pixels, so that a Fourier shift of the truth does not wrap into the scored field


@dataclass(frozen=True)
class Score:
    """Error of one picture.

    Attributes:
        nrmse: RMS difference to the truth over the truth's standard deviation, inner 24 Å, after the best sub-pixel
            shift, offset and factor.
        scale: Re Σ R T* / Σ |T|² over 0.25–1.0 1/Å, without that factor; 1 is quantitative, below 1 too weak.
        shift: (y, x) pixels, by which the picture was off.
        limits: power of the phase error, as returned, over the diffraction-plane limit 1/(2 dose), in `BANDS`.
    """

    nrmse: float
    scale: float
    shift: tuple[float, float]
    limits: tuple[float, ...]


def unwrapped(transmission: NDArray[np.complexfloating]) -> NDArray[np.float64]:
    """(y, x) rad, Σ over slices (slices, y, x) of the angle against each slice's mean transmission."""
    slices = transmission if transmission.ndim == 3 else transmission[None]
    means = (slices * np.abs(slices)).sum(axis=(1, 2), keepdims=True)
    return np.angle(slices * np.conj(means)).sum(axis=0)


def evaluate(phase: NDArray[np.floating], first: tuple[float, float], recording: Recording) -> Score:
    """Compare `phase` (y, x), whose pixel `first` (row, column, fractional) is the first scan position, with the truth."""
    from scipy.optimize import minimize

    pixel = recording.pixel_size
    field = recording.n * recording.step
    size = min(24.0, field - 6.0)
    margin = (field - size) / 2
    n = round(size / pixel)
    corner = np.asarray(first, float) + margin / pixel
    whole = np.floor(corner).astype(int)
    if (whole < 0).any() or (whole + n > np.array(phase.shape)).any():
        msg = f"the picture of {phase.shape} pixels does not hold the scored field from {whole} on"
        raise ValueError(msg)
    picture = np.asarray(phase, np.float64)[whole[0] : whole[0] + n, whole[1] : whole[1] + n]
    picture = picture - picture.mean()
    start = (recording.scan_start + margin) / pixel + (whole - corner)

    def moved(shift: NDArray[np.float64]) -> NDArray[np.float64]:
        truth = sample(recording.truth, start + shift - _PADDING, n + 2 * _PADDING)
        truth = truth[_PADDING:-_PADDING, _PADDING:-_PADDING]
        return truth - truth.mean()

    def disagreement(shift: NDArray[np.float64]) -> float:
        truth = moved(shift)
        return -float((picture * truth).sum() / np.sqrt((picture**2).sum() * (truth**2).sum() + 1e-30))

    offsets = np.arange(-2.5, 2.6, 0.5)
    best = min(((y, x) for y in offsets for x in offsets), key=lambda s: disagreement(np.array(s)))
    simplex = np.array(best) + np.array([[0, 0], [0.3, 0], [0, 0.3]])
    options = {"xatol": 0.01, "fatol": 1e-5, "initial_simplex": simplex}
    shift = minimize(disagreement, best, method="Nelder-Mead", options=options).x
    truth = moved(shift)
    factor = (picture * truth).sum() / max((picture**2).sum(), 1e-12)
    nrmse = np.sqrt(((factor * picture - truth) ** 2).mean()) / truth.std()
    limits = error_over_limit(picture, truth, pixel, recording.dose)
    return Score(float(nrmse), phase_scale(picture, truth, pixel), (float(shift[0]), float(shift[1])), limits)


def error_over_limit(
    picture: NDArray[np.float64],
    truth: NDArray[np.float64],
    pixel_size: float,
    dose: float,
    bands: tuple[tuple[float, float], ...] = BANDS,
) -> tuple[float, ...]:
    """Power spectral density of the error of an aligned image (n, n), rad²Å², times 2 · dose, mean over bands of 1/Å."""
    n = len(picture)
    window = np.hanning(n)[:, None] * np.hanning(n)[None, :]
    error = picture - truth
    spectrum = np.abs(np.fft.fft2((error - (error * window).sum() / window.sum()) * window)) ** 2
    density = spectrum * pixel_size**2 / (window**2).sum() * 2 * dose
    k = np.fft.fftfreq(n, pixel_size)
    radius = np.hypot(k[:, None], k[None, :])
    return tuple(float(density[(radius >= low) & (radius < high)].mean()) for low, high in bands)


def phase_scale(picture: NDArray[np.float64], truth: NDArray[np.float64], pixel_size: float) -> float:
    """Re Σ R T* / Σ |T|² over 0.25–1.0 1/Å of two aligned images (n, n), in a Hann window."""
    n = len(picture)
    window = np.hanning(n)[:, None] * np.hanning(n)[None, :]
    k = np.fft.fftfreq(n, pixel_size)
    radius = np.hypot(k[:, None], k[None, :])
    band = (radius >= 0.25) & (radius <= 1.0)
    R, T = (np.fft.fft2((image - image.mean()) * window)[band] for image in (picture, truth))
    return float((R * T.conj()).real.sum() / (np.abs(T) ** 2).sum())


def sample(periodic: NDArray[np.float64], corner: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    """n × n pixels of a periodic image from a fractional corner on."""
    whole = np.floor(corner).astype(int)
    ky, kx = (np.fft.fftfreq(size) * part for size, part in zip(periodic.shape, corner - whole, strict=True))
    ramp = np.exp(2j * np.pi * (ky[:, None] + kx[None, :]))
    shifted = np.fft.ifft2(np.fft.fft2(periodic) * ramp).real
    rows, columns = ((first + np.arange(n)) % size for first, size in zip(whole, periodic.shape, strict=True))
    return shifted[np.ix_(rows, columns)]
