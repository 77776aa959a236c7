"""From data to a finished reconstruction: optics first where asked for, a warm start, another device where one fails."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from agent.reconstruction.kernels import cuda
from agent.reconstruction.kernels.cuda import GpuFailedError
from agent.reconstruction.model import geometry, probe, start
from agent.reconstruction.model.checks import check_data
from agent.reconstruction.model.data import DiffractionData
from agent.reconstruction.model.settings import ReconstructionSettings
from agent.reconstruction.solver.passes import Progress
from agent.reconstruction.solver.reconstructor import Reconstructor
from agent.reconstruction.solver.result import Reconstruction
from instrument import optics
from instrument.errors import BadInputError


def reconstruct(
    data: DiffractionData,
    settings: ReconstructionSettings | None = None,
    *,
    warm_start: Reconstruction | None = None,
    on_progress: Progress | None = None,
) -> Reconstruction:
    """Patterns to object and probe.

    Args:
        data: patterns, positions and optics.
        settings: how; the defaults suit live use.
        warm_start: an earlier result of the same column: its probe is the start (propagated to `data.defocus` where
            the two differ).
        on_progress: called after each pass.

    Raises:
        BadInputError: where the data cannot be reconstructed; the message says why.
        ArithmeticError: where the result would not be finite.
    """
    chosen = settings or ReconstructionSettings()
    wave: NDArray[np.complex128] | None = None
    if warm_start is not None:
        check_data(data, chosen.slices)
        chosen = replace(chosen, padding=start.choose_padding(data, chosen))
        wave = _known_probe(data, chosen, warm_start)
        chosen = replace(chosen, probe_modes=len(wave))
        data = _as_learned(data, warm_start)
    optics_sd: Mapping[str, float] = {}
    doubts: tuple[str, ...] = ()
    if chosen.refine_optics:
        from agent.reconstruction.calibration.finding import measure
        from agent.reconstruction.calibration.parameters import deviations

        tuned = measure(data, chosen, {} if warm_start is None else warm_start.optics_sd)
        data, optics_sd = tuned.data, {**tuned.uncertainty, **deviations(tuned.data, tuned.uncertainty)}
        doubts = (f"optics not refined, the counts do not tell them: {tuned.doubt}",) if tuned.doubt else ()
    probe_k = None if wave is None or warm_start is None else _propagated(wave, data, warm_start)
    try:
        with cuda.failures():
            result = _finished(data, chosen, probe_k, on_progress)
            return replace(result, notes=(*doubts, *result.notes), optics_sd=optics_sd)
    except GpuFailedError as error:
        note = f"{error}; reconstructed on the CPU"
        result = _finished(data, replace(chosen, device="cpu"), probe_k, on_progress)
        return replace(result, device="cpu", notes=(*doubts, note, *result.notes), optics_sd=optics_sd)


def carried_probe(earlier: Reconstruction, data: DiffractionData) -> NDArray[np.complex64]:
    """An earlier probe at the optics of other data, for `DiffractionData.probe`.

    Args:
        earlier: of the same column and camera length.
        data: whose defocus and aberrations the probe is propagated to.

    Returns:
        (modes, y, x), real space, centred at N//2.

    Raises:
        BadInputError: it fills another window, or is none.
    """
    wave = _known_probe(data, ReconstructionSettings(padding=1.0), earlier)
    return probe.to_real_space(_propagated(wave, data, earlier))


def _known_probe(
    data: DiffractionData, settings: ReconstructionSettings, warm_start: Reconstruction
) -> NDArray[np.complex128]:
    """The warm start's free waves (modes, ky, kx) in the aperture plane of `data`. Raises BadInputError where they do not fit."""
    known = warm_start.probe if warm_start.free_waves is None else warm_start.free_waves
    wave = np.fft.fft2(np.fft.ifftshift(known, axes=(-2, -1)), norm="ortho")
    window = np.multiply(data.pixel_size, data.patterns.shape[1:])
    known = np.multiply(warm_start.pixel_size, wave.shape[1:])
    if not np.allclose(known, window, rtol=0.01):
        msg = (
            f"the warm start's probe fills a window of {known[0]:.4g} × {known[1]:.4g} Å, these patterns have one of "
            f"{window[0]:.4g} × {window[1]:.4g} Å; it has to be of the same column and camera length"
        )
        raise BadInputError(msg)
    wave = probe.resized(wave, geometry.extended(data.patterns.shape, settings.padding or 1.0))
    if not (np.isfinite(wave).all() and wave.any()):
        msg = "the warm start's probe is 0 everywhere or holds values that are not numbers; leave it out"
        raise BadInputError(msg)
    return wave


def _as_learned(data: DiffractionData, warm_start: Reconstruction) -> DiffractionData:
    """The data with the warm start's aberrations, and with its source size and focal spread where they have none."""
    return replace(
        data,
        aberrations=warm_start.aberrations,
        source_size=data.source_size or warm_start.source_size,
        focal_spread=data.focal_spread or warm_start.focal_spread,
    )


def _propagated(
    wave: NDArray[np.complex128], data: DiffractionData, warm_start: Reconstruction
) -> NDArray[np.complex64]:
    """The probe (modes, ky, kx) from the warm start's optics to those of `data`."""
    ky, kx = probe.frequencies((wave.shape[1], wave.shape[2]), data.angular_pixel, data.voltage)
    change = probe.difference(
        {**data.aberrations, "C10": -data.defocus}, {**warm_start.aberrations, "C10": -warm_start.defocus}
    )
    return np.asarray((wave * np.exp(-1j * optics.aberration_phase(ky, kx, data.voltage, change))).astype(np.complex64))


def _finished(
    data: DiffractionData,
    settings: ReconstructionSettings,
    probe_k: NDArray[np.complex64] | None,
    on_progress: Progress | None,
) -> Reconstruction:
    reconstructor = Reconstructor(data, settings, probe_k)
    reconstructor.run(on_progress)
    return reconstructor.result()
