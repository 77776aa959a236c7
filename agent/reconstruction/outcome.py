"""From the state of a reconstruction to what the caller gets: turned into the scan's frame, and quantitative."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from agent.reconstruction import geometry, probe, transmission
from agent.reconstruction.types import Reconstruction

if TYPE_CHECKING:
    from agent.reconstruction.engine import Reconstructor


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
