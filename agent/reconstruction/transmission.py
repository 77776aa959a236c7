"""What slices do to a wave: they shift its phase, and absorb in proportion to it, with one number for the whole specimen.

What atoms scatter beyond the detector is missing behind them, however thin the specimen. A pure phase object cannot say so and
comes out too weak instead; an amplitude of its own for every pixel of every slice is mostly noise. In between lies the
absorptive potential V' = κV (Hashimoto, Howie & Whelan, Proc. R. Soc. Lond. A 269 (1962) 80): transmission exp((i − κ)φ),
with κ found from the counts like every other unknown.

Runs on NumPy and CuPy arrays alike and never waits for the device.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.reconstruction.forward import Sums
from instrument import optics


def phases(obj: Any, light: Any, xp: Any) -> Any:
    """(S, y, x) rad of the slices (S, y, x), less each slice's mean where `light` (S, y, x) falls."""
    angle = xp.angle(obj)
    return angle - (angle * light).sum(axis=(1, 2), keepdims=True) / light.sum(axis=(1, 2), keepdims=True)


def absorption_step(obj: Any, sums: Sums, xp: Any) -> Any:
    """What the likelihood adds to κ: a Gauss–Newton step along −φO in every slice at once, divided by their number."""
    phase = phases(obj, sums.illumination, xp)
    gradient = -(phase * (obj.conj() * sums.object_numerator).real).sum(dtype=np.float64)
    curvature = (phase**2 * sums.illumination).sum(dtype=np.float64)
    return gradient / (len(obj) * xp.maximum(curvature, 1e-30))


def absorbing(obj: Any, kappa: Any, light: Any, xp: Any) -> Any:
    """The slices with their phases as they are and the amplitudes exp(−κφ) that these have."""
    return obj * (xp.exp(-kappa.astype(np.float32) * phases(obj, light, xp)) / xp.abs(obj)).astype(np.float32)


def within_slab(
    shape: tuple[int, ...], pixel_size: tuple[float, float], thickness: float, voltage: float
) -> NDArray[np.float64]:
    """What is left of a phase's spatial frequencies (y, x), when a slab of so many Å stands for one thin slice: sin(x)/x.

    Atoms z Å above or below the middle of the slab scatter by cos(πλzk²) into the phase seen there. The mean over a slab that
    is filled evenly is sin(x)/x with x = πλk²t/2. Frequencies beyond x = π/2, which the slab hardly shows, are left at 2/π.
    """
    k_y, k_x = (np.fft.fftfreq(n, p) for n, p in zip(shape, pixel_size, strict=True))
    k2 = k_y[:, None] ** 2 + k_x[None, :] ** 2
    x = np.pi * optics.wavelength(voltage) * thickness * k2 / 2
    return np.sinc(np.minimum(x / np.pi, 0.5))
