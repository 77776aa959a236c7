"""The forward model and its adjoint in plain array code: the readable reference and the oracle of the fused kernels.

Position j sees the window W_j of the object's slices O_s through probe modes P_jm, shifted by the position's sub-pixel part:

    ψ_1 = P_jm(r − r_j) · O_1,   ψ_s+1 = IFFT(H_s FFT ψ_s) · O_s+1,   Ψ_jm = FFT ψ_S,   I_j = T ∗ Σ_m |Ψ_jm|² + B

Adjoint, preconditioning and their sources are in the README of this room. Runs on NumPy and CuPy arrays alike: every
function takes the array module `xp`. All FFTs are unitary. Sums hold half the Wirtinger gradient of the log-likelihood L:
dL = 4 Re Σ conj(sum) dz.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Loss = Literal["poisson", "amplitude", "gaussian"]
LOSSES: tuple[Loss, ...] = ("poisson", "amplitude", "gaussian")
"""Their codes in the kernels are their places in this tuple."""


@dataclass
class Problem:
    """What a reconstruction takes as given. Arrays of the backend, corner-centred.

    Attributes:
        counts: (n, ky, kx), or what the backend's `load` has made of it.
        mask: (ky, kx) float32, 1 where the detector counts.
        n_modes: probe modes P; further apertures are variations of the first.
        propagators: (S − 1, ky, kx) complex64, from slice to slice.
        support: (ky, kx) bool, on the host: where apertures may be other than 0; None: where they are. Sums elsewhere
            mean nothing.
        transfer: (ky, kx) float32, transfer function of the detector's point spread, corner-centred; None: a perfect detector.
        loss: what is minimised.
        variance: of the counts, where the loss is Gaussian.
    """

    counts: Any
    mask: Any
    n_modes: int
    propagators: Any
    support: NDArray[np.bool_] | None = None
    transfer: Any = None
    loss: Loss = "poisson"
    variance: float = 1.0


@dataclass
class Unknowns:
    """What a reconstruction finds.

    Attributes:
        object: (S, y, x) complex64.
        apertures: (V, ky, kx) complex64 in the aperture plane, corner-centred: P probe modes, then variations of the first.
        corners: (n, 2) int32, first object pixel of each window.
        subpixel_shifts: (n, 2) float32, shift of the probe from the window's pixel N//2.
        weights: (n, V) float32, of each aperture in each pattern.
        background: (ky, kx) float32 counts.
        count_offset: counts added to data and model, so that a model near 0 cannot blow the residual up.
    """

    object: Any
    apertures: Any
    corners: Any
    subpixel_shifts: Any
    weights: Any
    background: Any
    count_offset: float


@dataclass
class Sums:
    """What one batch of b patterns adds up to.

    Attributes:
        object_numerator: (S, y, x) complex, Σ_jm conj(ψ incident on the slice) χ.
        illumination: (S, y, x), Σ_jm |ψ incident|².
        aperture_numerator: (V, ky, kx) complex, Σ_j w of conj(O) χ in the aperture plane with the shift undone; None: not wanted.
        ratio: (ky, kx), Σ_j (n + g)/(I + g): how much more was counted than modelled; None: not wanted.
        deviance: Poisson deviance summed over patterns and counting pixels, on the device; 0 where not wanted.
        slopes: (b, 2 + V), a quarter of dL by (y, x) shift in pixels and by each weight; None: not wanted.
        modelled: (b,) counts expected in each pattern, in the counting pixels.
    """

    object_numerator: Any
    illumination: Any
    aperture_numerator: Any
    ratio: Any
    deviance: Any
    slopes: Any
    modelled: Any


@dataclass(frozen=True)
class Wanted:
    """Which sums a batch is asked for."""

    adjoint: bool = True
    probe: bool = True
    ratio: bool = True
    deviance: bool = True


def known(obj: Any, apertures: Any, corners: Any, subpixel_shifts: Any) -> tuple[Problem, Unknowns]:
    """The model of a known object and probe, without counts or propagators: to simulate with.

    Args:
        obj: (S, y, x) complex transmission.
        apertures: (P, ky, kx) probe modes in the aperture plane, corner-centred.
        corners: (n, 2) first object pixel of each window.
        subpixel_shifts: (n, 2) shift of the probe in pixels.
    """
    n, shape = len(corners), apertures.shape[1:]
    problem = Problem(np.zeros((n, 1, 1)), np.ones(shape, np.float32), len(apertures), [])
    weights, nothing = np.ones((n, len(apertures)), np.float32), np.zeros(shape, np.float32)
    return problem, Unknowns(obj.astype(np.complex64), apertures, corners, subpixel_shifts, weights, nothing, 0.0)


def shift_ramp(subpixel_shifts: Any, shape: tuple[int, int], xp: Any) -> Any:
    """exp(−2πi k·f), the shift of probes.

    Args:
        subpixel_shifts: (b, 2) pixels.
        shape: (ky, kx) pixels.
        xp: array module.

    Returns:
        (b, ky, kx) complex, corner-centred.
    """
    ky, kx = xp.fft.fftfreq(shape[0]), xp.fft.fftfreq(shape[1])
    rows, columns = xp.exp(-2j * xp.pi * subpixel_shifts[:, :1] * ky), xp.exp(-2j * xp.pi * subpixel_shifts[:, 1:] * kx)
    return rows[:, :, None] * columns[:, None, :]


def windows(corners: Any, shape: tuple[int, int], object_shape: tuple[int, int], xp: Any) -> Any:
    """Where the pixels of windows are in the object.

    Args:
        corners: (b, 2) first object pixel.
        shape: (ky, kx) pixels of a window.
        object_shape: (y, x) pixels.
        xp: array module.

    Returns:
        (b, ky, kx) flat indices, corner-centred like the probe.
    """
    y = (xp.arange(shape[0]) + shape[0] // 2) % shape[0]
    x = (xp.arange(shape[1]) + shape[1] // 2) % shape[1]
    rows = corners[:, :1].astype(xp.int64) + y
    columns = corners[:, 1:].astype(xp.int64) + x
    return rows[:, :, None] * object_shape[1] + columns[:, None, :]


@dataclass
class Waves:
    """What the adjoint needs of a forward calculation.

    Attributes:
        incident: S arrays (b, P, ky, kx), the wave in front of each slice.
        patches: (S, b, ky, kx) windows of the object.
        detector: (b, P, ky, kx).
        ramp: (b, ky, kx).
    """

    incident: list[Any]
    patches: Any
    detector: Any
    ramp: Any


def intensities(problem: Problem, unknowns: Unknowns, index: Any, xp: Any) -> tuple[Any, Waves]:
    """The patterns of the model.

    Args:
        problem, unknowns: what is given and what is found.
        index: (b,) numbers of the patterns.
        xp: array module.

    Returns:
        (b, ky, kx) expected counts, corner-centred, and the waves on the way.
    """
    apertures, obj = unknowns.apertures, unknowns.object
    shape, modes = apertures.shape[1:], problem.n_modes
    kind = xp.result_type(obj, apertures)
    ramp = shift_ramp(unknowns.subpixel_shifts[index], shape, xp)
    weights = unknowns.weights[index]
    waves = weights[:, :modes, None, None] * apertures[None, :modes]
    if len(apertures) > modes:
        waves[:, 0] += (weights[:, modes:, None, None] * apertures[None, modes:]).sum(axis=1)
    wave = xp.fft.ifft2((waves * ramp[:, None]).astype(kind), norm="ortho")
    place = windows(unknowns.corners[index], shape, obj.shape[1:], xp)
    patches = obj.reshape(len(obj), -1)[:, place]
    incident = []
    for s in range(len(obj)):
        if s > 0:
            wave = xp.fft.ifft2(xp.fft.fft2(wave) * problem.propagators[s - 1])
        incident.append(wave.astype(kind))
        wave = (wave * patches[s][:, None]).astype(kind)
    detector = xp.fft.fft2(wave, norm="ortho").astype(kind)
    model = blurred((detector.real**2 + detector.imag**2).sum(axis=1), problem.transfer, xp) + unknowns.background
    return model, Waves(incident, patches, detector, ramp)


def blurred(patterns: Any, transfer: Any, xp: Any) -> Any:
    """Patterns after the detector's point spread; its own adjoint, since `transfer` is real and even.

    Args:
        patterns: (b, ky, kx) counts.
        transfer: (ky, kx); None: a perfect detector.
        xp: array module.
    """
    return patterns if transfer is None else xp.fft.ifft2(xp.fft.fft2(patterns) * transfer).real


def residual(counted: Any, model: Any, problem: Problem, count_offset: float, xp: Any) -> tuple[Any, Any]:
    """The derivative of the likelihood by the modelled counts, as the factor that makes χ of Ψ.

    Args:
        counted: (b, ky, kx) counts n.
        model: (b, ky, kx) expected counts I.
        problem: mask and likelihood.
        count_offset: counts g added to both.
        xp: array module.

    Returns:
        The factor, before the detector's adjoint, and (n + g)/(I + g); each (b, ky, kx).
    """
    ratio = (counted + count_offset) / (model + count_offset)
    if problem.loss == "poisson":
        factor = 0.5 * (ratio - 1.0)
    elif problem.loss == "amplitude":
        factor = xp.sqrt(ratio) - 1.0
    else:
        factor = 0.5 * (counted - model) / problem.variance
    return factor * problem.mask, ratio


def expected_counts(problem: Problem, unknowns: Unknowns, index: Any, xp: Any, chunk: int = 64) -> Any:
    """Expected counts of many patterns.

    Args:
        problem, unknowns: what is given and what is found.
        index: (b,) numbers of the patterns.
        xp: array module.
        chunk: patterns at a time.

    Returns:
        (b, ky, kx) float32, corner-centred.
    """
    parts = [xp.asarray(index[i : i + chunk]) for i in range(0, len(index), chunk)]
    return xp.concatenate([intensities(problem, unknowns, part, xp)[0].astype(xp.float32) for part in parts])


def accumulate(problem: Problem, unknowns: Unknowns, index: Any, wanted: Wanted, xp: Any) -> Sums:
    """Patterns through the model and back.

    Args:
        problem, unknowns: what is given and what is found.
        index: (b,) numbers of the patterns, of the array module.
        wanted: which sums.
        xp: array module.

    Returns:
        The sums; those that are not wanted are None, or 0.
    """
    model, waves = intensities(problem, unknowns, index, xp)
    counted = problem.counts[index].astype(model.dtype)
    factor, ratio = residual(counted, model, problem, unknowns.count_offset, xp)
    count_offset, mask = unknowns.count_offset, problem.mask
    deviance: Any = 0.0
    if wanted.deviance:
        terms = (counted + count_offset) * xp.log(xp.maximum(ratio, 1e-30)) - (counted - model)
        deviance = 2 * (terms * mask).sum()
    sums = Sums(
        None, None, None, ratio.sum(axis=0) if wanted.ratio else None, deviance, None, (model * mask).sum((1, 2))
    )
    if wanted.adjoint:
        _adjoint(sums, blurred(factor, problem.transfer, xp), waves, problem, unknowns, index, wanted.probe, xp)
    return sums


def _adjoint(
    sums: Sums, factor: Any, waves: Waves, problem: Problem, unknowns: Unknowns, index: Any, probe: bool, xp: Any
) -> None:
    """Carry factor · Ψ back through the slices and add it up where it belongs."""
    obj, apertures, modes = unknowns.object, unknowns.apertures, problem.n_modes
    place = windows(unknowns.corners[index], apertures.shape[1:], obj.shape[1:], xp).ravel()
    sums.object_numerator, sums.illumination = xp.zeros_like(obj), xp.zeros(obj.shape, obj.real.dtype)
    chi = xp.fft.ifft2(waves.detector * factor[:, None], norm="ortho")
    for s in range(len(obj) - 1, -1, -1):
        incident = waves.incident[s]
        sums.object_numerator[s] = _scatter((chi * incident.conj()).sum(axis=1), place, obj.shape[1:], xp)
        intensity = (incident.real**2 + incident.imag**2).sum(axis=1)
        sums.illumination[s] = _scatter(intensity, place, obj.shape[1:], xp)
        chi = chi * waves.patches[s].conj()[:, None]
        if s > 0:
            chi = xp.fft.ifft2(xp.fft.fft2(chi) * problem.propagators[s - 1].conj())
    if not probe:
        return
    shape, weights = apertures.shape[1:], unknowns.weights[index]
    back = xp.fft.fft2(chi, norm="ortho") * waves.ramp.conj()[:, None]
    sums.aperture_numerator = xp.zeros_like(apertures)
    sums.aperture_numerator[:modes] = (back * weights[:, :modes, None, None]).sum(axis=0)
    sums.slopes = xp.zeros((len(weights), 2 + len(apertures)), weights.dtype)
    sums.slopes[:, 2 : 2 + modes] = (back.conj() * apertures[None, :modes]).real.sum(axis=(2, 3))
    shifted = weights[:, :modes, None, None] * apertures[None, :modes]
    if len(apertures) > modes:
        first = back[:, 0]
        sums.aperture_numerator[modes:] = xp.einsum("bv,byx->vyx", weights[:, modes:], first)
        sums.slopes[:, 2 + modes :] = xp.einsum("byx,vyx->bv", first.conj(), apertures[modes:]).real
        shifted[:, 0] += (weights[:, modes:, None, None] * apertures[None, modes:]).sum(axis=1)
    product = (back.conj() * shifted).imag.sum(axis=1)  # conj(b) · (−2πi k) · p has the real part 2πk · Im(conj(b) p)
    sums.slopes[:, 0] = 2 * xp.pi * (product * xp.fft.fftfreq(shape[0])[:, None]).sum(axis=(1, 2))
    sums.slopes[:, 1] = 2 * xp.pi * (product * xp.fft.fftfreq(shape[1])[None, :]).sum(axis=(1, 2))


def step_phases(obj: Any, sums: Sums, size: float, floor: Any, positive: bool, xp: Any) -> None:
    """Step the phases of the object, in place, along the preconditioned gradient Im(conj(O) N)/(L + floor).

    A step φ is taken as 2 arctan(φ/2), which needs no sine: exp(2i arctan a) = (1 + ia)²/(1 + a²).

    Args:
        obj: (S, y, x) complex64.
        sums: N and L, numerator and illumination.
        size: fraction of the gradient.
        floor: added to the illumination.
        positive: whether no phase may fall below 0.
        xp: array module.
    """
    a = (obj.conj() * sums.object_numerator).imag * (np.float32(0.5 * size) / (sums.illumination + floor))
    if positive:
        a = xp.maximum(a, -half_tangent(obj, xp))
    obj *= phasor(a, xp)


def half_tangent(z: Any, xp: Any) -> Any:
    """tan(arg(z)/2) of complex numbers; bounded where z is negative."""
    return z.imag / xp.maximum(xp.abs(z) + z.real, np.float32(1e-6))


def phasor(half: Any, xp: Any) -> Any:
    """exp(2i arctan(half)), complex64: the phase factor of angles whose half tangents are `half`."""
    out = xp.empty(half.shape, xp.complex64)
    squared = half * half
    scale = 1 / (1 + squared)
    out.real, out.imag = (1 - squared) * scale, 2 * half * scale
    return out


def _scatter(values: Any, index: Any, shape: tuple[int, int], xp: Any) -> Any:
    """Add (b, ky, kx) values into an image of `shape` at flat `index`."""
    flat, size = values.ravel(), shape[0] * shape[1]
    if values.dtype.kind == "c":
        real = xp.bincount(index, weights=flat.real, minlength=size)
        return (real + 1j * xp.bincount(index, weights=flat.imag, minlength=size)).reshape(shape)
    return xp.bincount(index, weights=flat, minlength=size).reshape(shape)
