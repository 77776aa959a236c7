"""The forward model and its adjoint in plain array code: the readable reference and the oracle of the fused kernels.

One position j with window W_j of the object O, probe modes P_m shifted by the position's sub-pixel part:

    ψ_jm = P_m(r − r_j) · O(r),   Ψ_jm = FFT ψ_jm,   I_j = Σ_m |Ψ_jm|² + B

With counts n_j the Poisson log-likelihood Σ n log I − I has the Wirtinger gradient (n/I − 1) Ψ. Half of it,
χ = IFFT ½ (n/I − 1) Ψ, is to first order the step to the measured amplitude (Thibault & Guizar-Sicairos, New J. Phys.
14 (2012) 063004). Its back-projections on object and probe are accumulated with their illuminations, which
precondition the update (Odstrčil, Menzel & Guizar-Sicairos, Opt. Express 26 (2018) 3108).

Runs on NumPy and CuPy arrays alike: every function takes the array module `xp`. All FFTs are unitary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass
class Sums:
    """What one batch adds up to.

    Attributes:
        object_numerator: (y, x) complex, Σ_jm conj(P) χ.
        illumination: (y, x), Σ_jm |P|².
        probe_numerator: (modes, ky, kx) complex in the aperture plane, Σ_j of conj(O) χ with the shift undone; None: not wanted.
        ratio: (ky, kx), Σ_j (n + g)/(I + g): how much more was counted than modelled.
        deviance: Poisson deviance summed over patterns and counting pixels.
    """

    object_numerator: Any
    illumination: Any
    probe_numerator: Any
    ratio: Any
    deviance: float


def shift_ramp(fractions: Any, shape: tuple[int, int], xp: Any) -> Any:
    """exp(−2πi (k·f)) for sub-pixel shifts: (b, 2) -> (b, ky, kx) complex64."""
    ky = xp.fft.fftfreq(shape[0]).astype(xp.float32)
    kx = xp.fft.fftfreq(shape[1]).astype(xp.float32)
    rows = xp.exp(-2j * xp.pi * fractions[:, :1] * ky).astype(xp.complex64)
    columns = xp.exp(-2j * xp.pi * fractions[:, 1:] * kx).astype(xp.complex64)
    return rows[:, :, None] * columns[:, None, :]


def windows(corners: Any, shape: tuple[int, int], object_shape: tuple[int, int], xp: Any) -> Any:
    """Flat indices of each window's pixels, corner-centred like the probe: (b, ky, kx) int32."""
    y = (xp.arange(shape[0]) + shape[0] // 2) % shape[0]
    x = (xp.arange(shape[1]) + shape[1] // 2) % shape[1]
    rows = corners[:, :1].astype(xp.int64) + y
    columns = corners[:, 1:].astype(xp.int64) + x
    return rows[:, :, None] * object_shape[1] + columns[:, None, :]


def intensities(
    obj: Any, probe_k: Any, corners: Any, fractions: Any, background: Any, xp: Any
) -> tuple[Any, Any, Any, Any, Any]:
    """Modelled counts (b, ky, kx), and what the adjoint needs: waves, shifted probes, windows of the object, ramps."""
    shape = probe_k.shape[1:]
    ramp = shift_ramp(fractions, shape, xp)
    probes = xp.fft.ifft2(probe_k[None] * ramp[:, None], norm="ortho").astype(xp.complex64)
    patch = obj.ravel()[windows(corners, shape, obj.shape, xp)]
    waves = xp.fft.fft2(probes * patch[:, None], norm="ortho").astype(xp.complex64)
    model = (waves.real**2 + waves.imag**2).sum(axis=1) + background
    return model, waves, probes, patch, ramp


def accumulate(
    obj: Any,
    probe_k: Any,
    corners: Any,
    fractions: Any,
    counts: Any,
    background: Any,
    mask: Any,
    guard: float,
    want_probe: bool,
    xp: Any,
) -> Sums:
    """One batch through the model and back.

    Args:
        obj: (y, x) complex64.
        probe_k: (modes, ky, kx) complex64, aperture plane, corner-centred.
        corners, fractions: (b, 2), see `Geometry`.
        counts: (b, ky, kx), corner-centred.
        background: (ky, kx) counts.
        mask: (ky, kx) float32, 1 where the detector counts.
        guard: counts added to data and model, so that a model near 0 cannot blow the residual up.
    """
    shape = probe_k.shape[1:]
    model, waves, probes, patch, ramp = intensities(obj, probe_k, corners, fractions, background, xp)
    counted = counts.astype(xp.float32)
    ratio = (counted + guard) / (model + guard)
    residual = (0.5 * (ratio - 1.0) * mask).astype(xp.float32)
    chi = xp.fft.ifft2(waves * residual[:, None], norm="ortho").astype(xp.complex64)
    index = windows(corners, shape, obj.shape, xp).ravel()
    numerator = _scatter((chi * probes.conj()).sum(axis=1), index, obj.shape, xp)
    illumination = _scatter((probes.real**2 + probes.imag**2).sum(axis=1), index, obj.shape, xp)
    probe_numerator = None
    if want_probe:
        back = xp.fft.fft2(chi * patch.conj()[:, None], norm="ortho")
        probe_numerator = (back * ramp.conj()[:, None]).sum(axis=0).astype(xp.complex64)
    deviance = 2 * ((counted + guard) * xp.log(xp.maximum(ratio, 1e-30)) - (counted - model)) * mask
    return Sums(numerator, illumination, probe_numerator, ratio.sum(axis=0), float(deviance.sum()))


def _scatter(values: Any, index: Any, shape: tuple[int, int], xp: Any) -> Any:
    """Add (b, ky, kx) values into an image of `shape` at flat `index`."""
    flat = values.ravel()
    size = shape[0] * shape[1]
    if values.dtype.kind == "c":
        real = xp.bincount(index, weights=flat.real, minlength=size)
        imag = xp.bincount(index, weights=flat.imag, minlength=size)
        return (real + 1j * imag).astype(xp.complex64).reshape(shape)
    return xp.bincount(index, weights=flat, minlength=size).astype(xp.float32).reshape(shape)
