"""From the state of a reconstruction to what the caller gets: turned into the scan's frame, and quantitative."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from agent.reconstruction.model import geometry, probe, transmission
from agent.reconstruction.model.coherence import SourceSize
from agent.reconstruction.solver import oddities, picture
from agent.reconstruction.solver.experiment import Experiment
from agent.reconstruction.solver.state import SolverState, deviances, illumination, last_reached, positions


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
        free_waves: (free modes, ky, kx) complex, as `probe`: the wave of a point source without focal spread, which the data's
            source size and focal spread make several modes of, then further free modes. What the next reconstruction of the
            same column starts from; None: `probe` itself.
        positions: (n, 2), Å, as used.
        defocus: Å, that the probe was started with: as given, or as measured where `refine_optics` asks for it.
        aberrations: Krivanek polar coefficients besides defocus that the probe was started with.
        source_size: FWHM, Å, as used: see `DiffractionData`.
        focal_spread: standard deviation of the defocus, Å, as used.
        optics_sd: parameter (see `parameters`), `source_size` or `focal_spread` -> standard deviation, of the optics that were
            measured.
        background: (ky, kx) counts per pattern that the coherent model does not explain, centred at N//2; None: not modelled.
        phase_scale: how much too weak noise had made the phases; they have been divided by it.
        deviance: Poisson deviance per detector pixel where a pass began: every fourth full pass up to the last one; where
            held-out counts choose the number of passes, the first and the last of those that use all counts. After a return to
            an earlier pass (see `notes`), the value of that one is the last.
        passes: number of passes that the result is made by.
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
    source_size: SourceSize = 0.0
    focal_spread: float = 0.0
    free_waves: NDArray[np.complex64] | None = None

    def _repr_html_(self) -> str:
        """What a notebook shows: the phase in grey, and the numbers."""
        sd = self.optics_sd.get("defocus")
        numbers = {
            "pixel": " × ".join(f"{p:.4g}" for p in self.pixel_size) + " Å",
            "defocus": f"{self.defocus:+.4g}" + ("" if sd is None else f" ± {sd:.2g}") + " Å",
            **{n: f"{v:.4g} {'rad' if n.startswith('phi') else 'Å'}" for n, v in self.aberrations.items()},
            "slices": f"{len(self.object)}",
            "probe states": f"{len(self.probe)}",
            "deviance": f"{self.deviance[-1]:.4g} a pixel" if self.deviance else "not known",
            "made of": f"{len(self.positions)} patterns in {self.passes} passes, {self.seconds:.3g} s on the {self.device}",
        }
        numbers |= {f"note {number}": note for number, note in enumerate(self.notes, 1)}
        return picture.phase_html(self.phase, self.illuminated, self.pixel_size, numbers)


def finished(experiment: Experiment, state: SolverState, phase_scale: float, seconds: float) -> Reconstruction:
    """The state as a reconstruction in the scan's frame, quantitative where the settings ask for it.

    Args:
        experiment: what is given.
        state: not changed.
        phase_scale: by what noise has weakened the phases.
        seconds: wall-clock time that it took.

    Raises:
        ArithmeticError: it holds values that are not numbers.
    """
    data, geo, host = experiment.data, experiment.geometry, experiment.backend.to_host
    last = last_reached(state)
    obj, apertures = host(last.object), host(last.apertures)[: experiment.n_modes]
    if not (np.isfinite(obj).all() and np.isfinite(apertures).all()):
        msg = "the reconstruction diverged (values that are not numbers); lower step_size or check the calibration"
        raise ArithmeticError(msg)
    if not experiment.settings.quantitative:
        phase_scale = 1.0
    lit = illumination(experiment, state)
    obj = _corrected(experiment, obj, lit, phase_scale)
    margin = 0.1 * min(n * p for n, p in zip(geo.object_shape, geo.pixel_size, strict=True))
    illuminated, origin = geometry.to_scan_frame(lit, geo, data.positions, margin)
    illuminated = np.clip(illuminated, 0, None)
    turned = [geometry.to_scan_frame(layer, geo, data.positions, margin)[0] for layer in obj]
    seen = _resolved(experiment, state, obj, lit)
    shown = turned if seen is obj else [geometry.to_scan_frame(layer, geo, data.positions, margin)[0] for layer in seen]
    phase = np.zeros(illuminated.shape, np.float32)
    for layer in shown:
        phase += np.angle(layer * np.conj((layer * illuminated).sum())).astype(np.float32)
    modelled, deviance = experiment.settings.background, deviances(experiment, state)
    return Reconstruction(
        object=np.stack(turned).astype(np.complex64),
        phase=phase,
        pixel_size=geo.pixel_size,
        origin=origin,
        probe=probe.to_real_space(probe.orthogonalised(apertures)),
        free_waves=probe.to_real_space(
            apertures if experiment.tied is None else host(experiment.tied.common(last.apertures[: experiment.n_modes]))
        ),
        source_size=data.source_size,
        focal_spread=data.focal_spread,
        positions=positions(experiment, state),
        defocus=data.defocus,
        aberrations=dict(data.aberrations),
        background=np.fft.fftshift(host(state.unknowns.background)) if modelled else None,
        phase_scale=phase_scale,
        deviance=deviance,
        passes=state.passes,
        illuminated=illuminated.astype(np.float32),
        device=experiment.backend.name,
        seconds=seconds,
        notes=(
            *experiment.counts.notes,
            *oddities.zero_beam(experiment),
            *state.notes,
            *(oddities.misfit(experiment, deviance[-1]) if deviance else ()),
        ),
    )


def _resolved(
    experiment: Experiment, state: SolverState, obj: NDArray[np.complex64], lit: NDArray[np.float32]
) -> NDArray[np.complex64]:
    """The slices (S, y, x) without what only follows from their resolved frequencies (`model.transmission`)."""
    law = state.law
    if law is None or not law.extended:
        return obj
    mean = (obj * lit).sum(axis=(1, 2), keepdims=True)
    phase = law.seen(experiment.backend.xp.asarray(np.angle(obj * mean.conj())))
    return np.asarray(np.exp(1j * experiment.backend.to_host(phase)), np.complex64)


def _corrected(
    experiment: Experiment, obj: NDArray[np.complex64], lit: NDArray[np.float32], phase_scale: float
) -> NDArray[np.complex64]:
    """The object (S, y, x) with what weakened its phases undone: noise, and slices that stand for slabs."""
    settings = experiment.settings
    if not settings.quantitative:
        return obj
    mean = (obj * lit).sum(axis=(1, 2), keepdims=True)
    before = np.angle(obj * mean.conj())
    after = before
    if len(obj) > 1:
        k_y, k_x = (np.fft.fftfreq(n, p) for n, p in zip(lit.shape, experiment.geometry.pixel_size, strict=True))
        thick = settings.thicknesses[:, None, None]
        slab = transmission.of_slab(k_y[:, None] ** 2 + k_x**2, thick, experiment.data.voltage)
        after = np.fft.ifft2(np.fft.fft2(before) / slab).real
    return np.asarray((obj * np.exp(1j * (after / phase_scale - before))).astype(np.complex64))
