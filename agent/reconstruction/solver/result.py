"""From the state of a reconstruction to what the caller gets: turned into the scan's frame, and quantitative."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from agent.reconstruction.model import geometry, probe, transmission

if TYPE_CHECKING:
    from agent.reconstruction.solver.reconstructor import Reconstructor


@dataclass(frozen=True)
class Reconstruction:
    """What the patterns say.

    Attributes:
        object: (slices, y, x) complex transmission. Of thin slices, what lies beyond the frequencies that the detector resolves
            is not measured but follows from the rest (`transmission`).
        phase: (y, x), rad, summed over the slices, constant offset removed; without what only follows.
        pixel_size: (y, x), Å.
        origin: (y, x), Å, coordinate of the first pixel in the frame of `positions`.
        probe: (modes, ky, kx) complex, real space, centred at N//2, Σ|probe|² = mean counts per pattern.
        positions: (n, 2), Å, as used.
        defocus: Å, that the probe was started with: as given, or as measured where `refine_optics` asks for it.
        aberrations: Krivanek polar coefficients besides defocus that the probe was started with.
        optics_sd: parameter (see `parameters`) -> standard deviation, of the optics that were measured.
        background: (ky, kx) counts per pattern that the coherent model does not explain, centred at N//2; None: not modelled.
        phase_scale: how much too weak noise had made the phases; they have been divided by it.
        deviance: Poisson deviance per detector pixel, one value a pass.
        passes: number of passes made.
        illuminated: (y, x) Σ|probe|² of all positions relative to its maximum.
        device: what computed it.
        seconds: wall-clock time.
        notes: what the user should know, one sentence each.
    """

    object: NDArray[np.complex64]
    phase: NDArray[np.float32]
    pixel_size: tuple[float, float]
    origin: tuple[float, float]
    probe: NDArray[np.complex64]
    positions: NDArray[np.float64]
    defocus: float
    aberrations: Mapping[str, float]
    background: NDArray[np.float32] | None
    deviance: tuple[float, ...]
    passes: int
    illuminated: NDArray[np.float32]
    device: str
    seconds: float
    phase_scale: float = 1.0
    optics_sd: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def of(worker: Reconstructor) -> Reconstruction:
    """The state of `worker` as a finished reconstruction. Raises ArithmeticError where it holds values that are not numbers."""
    data, geo, host = worker.data, worker.geometry, worker.backend.to_host
    obj = host(worker.reached().object)
    apertures = host(worker.reached().apertures)[: worker.n_modes]
    if not (np.isfinite(obj).all() and np.isfinite(apertures).all()):
        msg = "the reconstruction diverged (values that are not numbers); lower step_size or check the calibration"
        raise ArithmeticError(msg)
    illumination = worker.illumination()
    obj, scale = _corrected(worker, obj, illumination)
    margin = 0.1 * min(n * p for n, p in zip(geo.object_shape, geo.pixel_size, strict=True))
    lit, origin = geometry.to_scan_frame(illumination, geo, data.positions, margin)
    lit = np.clip(lit, 0, None)
    turned = [geometry.to_scan_frame(layer, geo, data.positions, margin)[0] for layer in obj]
    seen = _seen(worker, obj, illumination)
    shown = turned if seen is obj else [geometry.to_scan_frame(layer, geo, data.positions, margin)[0] for layer in seen]
    phase = np.zeros(lit.shape, np.float32)
    for layer in shown:
        phase += np.angle(layer * np.conj((layer * lit).sum())).astype(np.float32)
    haze = np.fft.fftshift(host(worker.unknowns.background)) if worker.settings.background else None
    return Reconstruction(
        object=np.stack(turned).astype(np.complex64),
        phase=phase,
        pixel_size=geo.pixel_size,
        origin=origin,
        probe=probe.to_real_space(probe.orthogonalised(apertures)),
        positions=worker.per_pattern.positions(worker.unknowns, worker.backend),
        defocus=data.defocus,
        aberrations=dict(data.aberrations),
        background=haze,
        phase_scale=scale,
        deviance=worker.deviance,
        passes=worker.passes,
        illuminated=lit.astype(np.float32),
        device=worker.backend.name,
        seconds=worker.seconds,
        notes=worker.notes,
    )


def _seen(worker: Reconstructor, obj: NDArray[np.complex64], lit: NDArray[np.float32]) -> NDArray[np.complex64]:
    """The slices (S, y, x) without what only follows from their resolved frequencies (`transmission`)."""
    law = worker.ascent.law
    if law is None or not law.extended:
        return obj
    mean = (obj * lit).sum(axis=(1, 2), keepdims=True)
    phase = law.seen(worker.backend.xp.asarray(np.angle(obj * mean.conj())))
    return np.asarray(np.exp(1j * worker.backend.to_host(phase)), np.complex64)


def _corrected(
    worker: Reconstructor, obj: NDArray[np.complex64], lit: NDArray[np.float32]
) -> tuple[NDArray[np.complex64], float]:
    """The object (S, y, x) with what weakened its phases undone where the settings ask for it, and the scale that noise left."""
    if not worker.settings.quantitative:
        return obj, 1.0
    scale = worker.noise_scale
    mean = (obj * lit).sum(axis=(1, 2), keepdims=True)
    before = np.angle(obj * mean.conj())
    after = before
    if len(obj) > 1:
        k_y, k_x = (np.fft.fftfreq(n, p) for n, p in zip(lit.shape, worker.geometry.pixel_size, strict=True))
        thick = worker.settings.thicknesses[:, None, None]
        slab = transmission.of_slab(k_y[:, None] ** 2 + k_x**2, thick, worker.data.voltage)
        after = np.fft.ifft2(np.fft.fft2(before) / slab).real
    return (obj * np.exp(1j * (after / scale - before))).astype(np.complex64), scale
