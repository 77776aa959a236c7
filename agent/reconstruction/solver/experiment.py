"""What is given: an experiment, validated and loaded once, shared by every state that reconstructs it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.reconstruction.backends import choice
from agent.reconstruction.backends.protocol import Backend
from agent.reconstruction.counts.layout import framed, two_by_two
from agent.reconstruction.model import binning, forward, geometry, start
from agent.reconstruction.model.background import Rings
from agent.reconstruction.model.background import start as initial_background
from agent.reconstruction.model.checks import check_data, check_memory
from agent.reconstruction.model.coherence import TiedModes
from agent.reconstruction.model.data import DiffractionData
from agent.reconstruction.model.depth import Depths
from agent.reconstruction.model.settings import ReconstructionSettings
from agent.reconstruction.solver.loaded_counts import LoadedCounts
from agent.reconstruction.solver.positions import spare_pixels
from instrument import optics
from instrument.errors import BadInputError

COUNT_OFFSET = 0.02
"""Offset that the first passes add to counts and model, over the root of the mean count of a detector pixel (README)."""


@dataclass(frozen=True)
class Experiment:
    """Everything a reconstruction takes as given. Images of the detector are corner-centred.

    Attributes:
        data: patterns and geometry, checked.
        settings: how to reconstruct.
        backend: where to compute.
        geometry: the object grid and the nominal places on it.
        shape: (ky, kx) of the detector as it is computed.
        padded: whether it is extended with pixels that do not count, beyond what the transforms ask for.
        counts: the patterns in the backend's layout.
        constants: of the forward model; `problem` has them together with the counts.
        apertures: (V, ky, kx) complex64 that a reconstruction starts from, scaled to the counts, on the backend: probe modes,
            then variations of the first.
        tied: what the first probe modes have in common; None: every one is free.
        support: (ky, kx) float32 on the backend, 1 where apertures may pass electrons.
        background: (ky, kx) float32 counts per pattern to start from.
        mask: (ky, kx) bool on the host, True where the detector counts.
        rings: of the detector, on the backend.
        depths: what the counts tell of the slice that a phase belongs to.
        overlap: number of patterns that light a place.
        can_bin: whether the first passes may see the detector in 2 × 2 bins.
        amplitudes_show: whether there are counts enough to tell amplitudes from noise.
        count_offset: counts added to data and model in the residual of the first passes.
    """

    data: DiffractionData
    settings: ReconstructionSettings
    backend: Backend
    geometry: geometry.Geometry
    shape: tuple[int, int]
    padded: bool
    counts: LoadedCounts
    constants: forward.Problem
    apertures: Any
    tied: TiedModes | None
    support: Any
    background: NDArray[np.float32]
    mask: NDArray[np.bool_]
    rings: Rings
    depths: Depths
    overlap: float
    can_bin: bool
    amplitudes_show: bool
    count_offset: float

    def problem(self) -> forward.Problem:
        """The forward model's constants with the counts; reads the pixels where only bins are loaded so far.

        Raises:
            BadInputError: the patterns changed meanwhile, see `LoadedCounts.pixels`.
        """
        return replace(self.constants, counts=self.counts.pixels())

    @property
    def n_modes(self) -> int:
        """Number of probe modes."""
        return self.constants.n_modes

    def tie(self, apertures: Any) -> None:
        """Give the modes that are tied one aperture function again, in place, after a change that has split them.

        Args:
            apertures: (V, ky, kx) on the backend.
        """
        if self.tied is not None:
            apertures[: self.n_modes] = self.tied.spread(self.tied.common(apertures[: self.n_modes]))

    @property
    def electrons(self) -> float:
        """Mean counts per pattern in the counting pixels."""
        return float(self.counts.totals.mean())

    @property
    def resolved(self) -> tuple[float, float]:
        """(y, x) largest frequency that the detector resolves, over the object grid's Nyquist frequency."""
        n_y, n_x = self.data.patterns.shape[1:]
        return n_y / self.shape[0], n_x / self.shape[1]

    @property
    def phase_only(self) -> bool:
        """Whether slices only shift the phase."""
        if self.settings.object_type is not None:
            return self.settings.object_type == "phase"
        return self.settings.slices > 1 or not self.amplitudes_show

    @property
    def follows_law(self) -> bool:
        """Whether amplitudes and unresolved frequencies of several slices follow from their phases (`model.transmission`)."""
        several = self.settings.object_type is None and self.settings.slices > 1
        return several and self.amplitudes_show and (not self.padded or start.slices_are_thin(self.data, self.settings))


def load(
    data: DiffractionData,
    settings: ReconstructionSettings,
    probe_k: NDArray[np.complex64] | None = None,
    *,
    tied: int | None = None,
) -> Experiment:
    """Check `data`, read its patterns and make ready all that stays the same from pass to pass.

    Args:
        data: patterns and geometry.
        settings: how to reconstruct.
        probe_k: (free modes, ky, kx) start of the probe in the aperture plane, corner-centred, the aperture function first; None:
            from the nominal optics.
        tied: number of modes of source size and focal spread; None: as many as the settings ask for.

    Raises:
        BadInputError: the data cannot be reconstructed; the message says why.
    """
    check_data(data, settings.slices)
    padding = start.choose_padding(data, settings)
    shape = geometry.extended(data.patterns.shape, padding)
    geo = _located(data, settings, shape)
    check_memory(geo.object_shape, settings.slices)  # an extended detector has finer pixels than `check_data` knew
    backend = choice.choose(settings.device)
    xp = backend.xp
    mask = _framed_mask(data, geo, shape)
    modes, factors = start.model_probe(data, settings, geo, shape, known=probe_k, tied=tied)
    can_bin = binning.can_bin(modes, mask, data.patterns.shape)
    counts = LoadedCounts.load(backend, data, geo.roll, shape, bins_first=can_bin)
    electrons = _mean_electrons(counts)
    modes = _scaled(modes, electrons)
    support = start.probe_support(modes)
    if settings.variable_modes:
        modes = np.concatenate([modes, start.variations(modes, settings.variable_modes, settings.seed)])
    return Experiment(
        data=data,
        settings=settings,
        backend=backend,
        geometry=geo,
        shape=shape,
        padded=padding > 1,
        counts=counts,
        constants=_constants(
            data, settings, geo, support > 0, mask, counts, xp, n_modes=len(modes) - settings.variable_modes
        ),
        apertures=xp.asarray(modes),
        tied=None if factors is None else TiedModes(xp.asarray(factors)),
        support=xp.asarray(support),
        background=_start_background(settings, counts.mean, mask, modes, geo, can_bin),
        mask=mask,
        rings=Rings(shape, geo.centre_offset, xp),
        depths=Depths(xp, settings.depths, optics.wavelength(data.voltage), geo.pixel_size),
        overlap=start.patterns_per_place(modes[: len(modes) - settings.variable_modes], geo),
        can_bin=can_bin,
        amplitudes_show=start.electrons_per_pixel(data, float(counts.totals.sum())) >= start.TELLING,
        count_offset=float(COUNT_OFFSET * np.sqrt(electrons / float(mask.sum()))),
    )


def _constants(
    data: DiffractionData,
    settings: ReconstructionSettings,
    geo: geometry.Geometry,
    support: NDArray[np.bool_],
    mask: NDArray[np.bool_],
    counts: LoadedCounts,
    xp: Any,
    *,
    n_modes: int,
) -> forward.Problem:
    """What the forward model takes as given, without the counts; masks (ky, kx) on the host."""
    return forward.Problem(
        counts=None,
        mask=xp.asarray(mask.astype(np.float32)),
        n_modes=n_modes,
        propagators=xp.asarray(start.propagators(data, settings, geo, mask.shape)),
        support=support,
        transfer=_optional(start.transfer(data, mask.shape), xp),
        loss=settings.loss,
        # of the brightest pixels: their curvature limits the step
        variance=max(2 * float(counts.mean.max()), 1e-30),
    )


def under(experiment: Experiment, data: DiffractionData) -> Experiment:
    """The same counts under other optics or positions.

    Args:
        experiment: with no variations of the probe.
        data: differs from the experiment's in defocus, aberrations, source size, focal spread, centre, detector_to_scan or
            positions only. There are as many probe modes as before.
    """
    xp, settings, roll = experiment.backend.xp, experiment.settings, experiment.geometry.roll
    row, column = (n // 2 for n in data.patterns.shape[1:]) if data.centre is None else data.centre
    # the counts stay rolled as they are, however far the disc's centre moves
    geo = replace(
        _located(data, settings, experiment.shape), roll=roll, centre_offset=(row + roll[0], column + roll[1])
    )
    number = 1 if experiment.tied is None else len(experiment.tied.factors)
    modes, factors = start.model_probe(data, settings, geo, experiment.shape, tied=number)
    modes = _scaled(modes, experiment.electrons)
    support = start.probe_support(modes)
    propagators = xp.asarray(start.propagators(data, settings, geo, experiment.shape))
    return replace(
        experiment,
        data=data,
        geometry=geo,
        constants=replace(experiment.constants, support=support > 0, propagators=propagators),
        apertures=xp.asarray(modes),
        tied=None if factors is None else TiedModes(xp.asarray(factors)),
        support=xp.asarray(support),
        can_bin=binning.can_bin(modes, experiment.mask, data.patterns.shape),
    )


def thinned(experiment: Experiment, fraction: float, seed: int) -> Experiment:
    """The same experiment with a binomial `fraction` of its counts."""
    counts = experiment.counts
    drawn = experiment.backend.thin_counts(counts.pixels(), fraction, seed)
    return replace(
        experiment,
        counts=counts.replaced(drawn, counts.totals * fraction),
        background=experiment.background * np.float32(fraction),
    )


def appended(experiment: Experiment, patterns: NDArray[Any], positions: NDArray[np.float64]) -> Experiment:
    """The experiment with patterns that arrived later.

    Args:
        experiment: so far.
        patterns: (m, ky, kx) counts.
        positions: (m, 2), Å, in the frame of those before.

    Raises:
        BadInputError: as for the first patterns.
    """
    data, settings = experiment.data, experiment.settings
    check_data(replace(data, patterns=patterns, positions=positions), settings.slices, data)
    everything = replace(
        data, positions=np.concatenate([data.positions, positions]), intensity=_continued(data, len(positions))
    )
    geo = _located(everything, settings, experiment.shape)
    check_memory(geo.object_shape, settings.slices)
    return replace(experiment, data=everything, geometry=geo, counts=experiment.counts.joined(patterns, everything))


def _continued(data: DiffractionData, n: int) -> NDArray[np.float64] | None:
    """Intensities with those of n patterns that came later, of which nothing is known."""
    return None if data.intensity is None else np.concatenate([data.intensity, np.full(n, data.intensity.mean())])


def _located(data: DiffractionData, settings: ReconstructionSettings, shape: tuple[int, int]) -> geometry.Geometry:
    """The object grid, with room for positions that are refined."""
    spare = spare_pixels(settings.refine_positions, data.positions, data.pixel_size)
    return geometry.locate(data, spare, shape)


def _mean_electrons(counts: LoadedCounts) -> float:
    """Mean counts per pattern. Raises BadInputError where there are none."""
    electrons = float(counts.totals.mean())
    if electrons <= 0:
        msg = "every pattern is empty: there is nothing to reconstruct"
        raise BadInputError(msg)
    return electrons


def _framed_mask(data: DiffractionData, geo: geometry.Geometry, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """(ky, kx) bool, corner-centred, True where the detector counts."""
    mask = np.ones(data.patterns.shape[1:], bool) if data.mask is None else np.asarray(data.mask, bool)
    return np.asarray(framed(mask[None], geo.roll, shape)[0])


def _scaled(modes: NDArray[np.complex64], electrons: float) -> NDArray[np.complex64]:
    """Apertures (modes, ky, kx) that pass so many electrons together."""
    return np.asarray((modes * np.sqrt(electrons / (np.abs(modes) ** 2).sum())).astype(np.complex64))


def _start_background(
    settings: ReconstructionSettings,
    mean: NDArray[np.float64],
    mask: NDArray[np.bool_],
    modes: NDArray[np.complex64],
    geo: geometry.Geometry,
    binned: bool,
) -> NDArray[np.float32]:
    """Counts (ky, kx) outside the disc that `modes` (V, ky, kx) light, wider where `mean` is that of bins; 0 if not modelled."""
    if not settings.background:
        return np.zeros(mean.shape, np.float32)
    intensity = (np.abs(modes) ** 2).sum(axis=0)
    bright = intensity > 0.1 * intensity.max()
    if binned:  # intensity has spread to all pixels of the bins on the disc's edge
        bright = binning.enlarge(two_by_two(intensity)) > 0.01 * intensity.max()
    return initial_background(mean, mask, bright, Rings(mean.shape, geo.centre_offset))


def _optional(array: NDArray[Any] | None, xp: Any) -> Any:
    return None if array is None else xp.asarray(array)
