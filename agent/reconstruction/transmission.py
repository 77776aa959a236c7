"""What slices do to a wave: they shift its phase, and absorb what goes with it, with one number κ for the whole specimen.

A pure phase object comes out too weak where electrons are missing; an amplitude of its own for every pixel of every slice is
mostly noise. In between lie amplitudes that follow from the phases φ, with κ found from the counts like every other unknown.

- What atoms scatter further than the object's grid reaches is missing behind them, however thin they are. For a layer of MoS₂ cut
  off at 2.5 1/Å the logarithm of the amplitude that is left follows k²φ(k), ring by ring from 0.35 1/Å on, by 0.93 to 0.98
  (correlation; the Laplacian of a potential is the charge that makes it, which sits on the nuclei). So amplitudes are
  exp(−κ k²φ) from slices that are thin (`start.thin`) where the detector is extended.
- Where it is not, exp(−κφ): an absorptive potential V' = κV (Hashimoto, Howie & Whelan, Proc. R. Soc. Lond. A 269 (1962) 80).

Runs on NumPy and CuPy arrays alike and never waits for the device.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from instrument import optics


def phases(obj: Any, light: Any, xp: Any) -> Any:
    """(S, y, x) rad of the slices (S, y, x), less each slice's mean where `light` (S, y, x) falls."""
    angle = xp.angle(obj)
    return angle - (angle * light).sum(axis=(1, 2), keepdims=True) / light.sum(axis=(1, 2), keepdims=True)


def frequency_squared(shape: tuple[int, ...], pixel_size: tuple[float, float], xp: Any) -> Any:
    """k² (y, x//2 + 1), 1/Å², of images of `shape`, in the layout of `rfft2`."""
    k_y, k_x = xp.fft.fftfreq(shape[-2], pixel_size[0]), xp.fft.rfftfreq(shape[-1], pixel_size[1])
    return (k_y[:, None] ** 2 + k_x**2).astype(np.float32)


def absorption(phase: Any, law: Any, xp: Any) -> Any:
    """(S, y, x) The images φ (S, y, x) with each spatial frequency times `law` (y, x//2 + 1), or φ itself where that is None.

    Its own adjoint.
    """
    return phase if law is None else xp.fft.irfft2(xp.fft.rfft2(phase) * law, s=phase.shape[-2:])


def absorption_step(absorbed: Any, slope: Any, light: Any) -> Any:
    """What the likelihood adds to κ: a Gauss–Newton step in every slice at once.

    Args:
        absorbed: (S, y, x), the `absorption` of κ = 1.
        slope: (S, y, x) Re conj(O) N, by which the likelihood grows with log |O|.
        light: (S, y, x) Σ|ψ incident|².
    """
    curvature = (absorbed**2 * light).sum(dtype=np.float64)
    return -(absorbed * slope).sum(dtype=np.float64) / (curvature + 1e-30)


def absorbing(obj: Any, kappa: Any, light: Any, law: Any, xp: Any) -> Any:
    """The slices (S, y, x) with their phases as they are and the amplitudes exp(−κ absorption) that these have."""
    amount = kappa.astype(np.float32) * absorption(phases(obj, light, xp), law, xp)
    return obj * (xp.exp(-amount) / xp.abs(obj))


def of_slab(k2: Any, thickness: Any, voltage: float) -> Any:
    """What is left of a phase at spatial frequencies k (k² in 1/Å²), when one thin slice stands for a slab: sin(x)/x.

    Atoms z Å above or below the middle of the slab scatter by cos(πλzk²) into the phase seen there. The mean over a slab that
    is filled evenly is sin(x)/x with x = πλk²t/2. Frequencies beyond x = π/2, which the slab hardly shows, are left at 2/π.
    """
    return np.sinc(np.minimum(optics.wavelength(voltage) * thickness * k2 / 2, 0.5))
