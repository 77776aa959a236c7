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

from agent.reconstruction.forward import Sums


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


def turn(angle: Any, xp: Any) -> Any:
    """exp(i angle) in single precision; the complex exponential takes ten times as long."""
    result = xp.empty(angle.shape, xp.complex64)
    result.real, result.imag = xp.cos(angle), xp.sin(angle)
    return result
