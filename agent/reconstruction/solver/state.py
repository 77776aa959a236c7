"""What is found: the state of a reconstruction, small and mutable. A variant is a fresh state, never a copy that is reset."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.reconstruction.model import forward, probe
from agent.reconstruction.model.transmission import TransmissionLaw
from agent.reconstruction.solver.experiment import Experiment
from agent.reconstruction.solver.positions import Displacement
from agent.reconstruction.solver.prior import Prior


@dataclass
class Reached:
    """What the last full pass reached, before the momentum's extrapolation; all on the backend.

    Attributes:
        object: (S, y, x) complex64.
        apertures: (V, ky, kx) complex64.
        age: of Nesterov's momentum, a scalar.
        numbers: (2,) of the slices' transmission law; None without one.
    """

    object: Any
    apertures: Any
    age: Any
    numbers: Any


@dataclass(frozen=True)
class Sloped:
    """Where the last full pass has taken the slope of the likelihood (`curvature`); all on the backend.

    Attributes:
        object: (1, y, x) complex64.
        slope: (1, y, x) complex64 by log amplitude and phase.
        curved: largest curvature found lately, relative to what steps are divided by; a scalar.
    """

    object: Any
    slope: Any
    curved: Any


@dataclass
class SolverState:
    """Everything that passes change.

    Attributes:
        unknowns: of the forward model, at the extrapolated point.
        prior: what is expected of the object, found along the way.
        law: what goes with the phases of slices; None: nothing.
        displacement: of the positions; None: they stay.
        random: order of the mini-batches.
        reached: None: no full pass was made since the start, or since the extrapolated point was left.
        probe_window: (y, x), corner-centred, 0 … 1: how far a change of the probe stands out of the noise in real space.
        binned: the problem and the unknowns with the detector in 2 × 2 bins, while the first passes need them.
        seen: (y, x//2 + 1) part of the illumination's curvature left at each frequency (`curvature`); None: it is not asked.
        sloped: where the last full pass was; None: there was none.
        gauge: (what the raster cannot tell, or None where there is no raster), once it has been looked for (`raster_gauge`).
        deviances: per detector pixel, on the backend, of the passes that it was wanted of.
        passes: number of passes made.
        notes: what the user should know, one sentence each.
    """

    unknowns: forward.Unknowns
    prior: Prior
    law: TransmissionLaw | None
    displacement: Displacement | None
    random: np.random.Generator
    reached: Reached | None = None
    probe_window: Any = None
    binned: tuple[forward.Problem, forward.Unknowns] | None = None
    gauge: tuple[Any] | None = None
    seen: Any = None
    sloped: Sloped | None = None
    deviances: list[Any] = field(default_factory=list)
    passes: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def law_numbers(self) -> Any:
        """(2,) of the slices' transmission law; None without one."""
        return None if self.law is None else self.law.numbers


def start(experiment: Experiment, unknowns: forward.Unknowns | None = None) -> SolverState:
    """The state before the first pass: an empty object, nominal optics and positions.

    Args:
        experiment: what is given.
        unknowns: to start from instead; they are changed in place.
    """
    return SolverState(
        unknowns=nominal_unknowns(experiment) if unknowns is None else unknowns,
        prior=Prior(experiment.backend.xp, experiment.depths, experiment.resolved, experiment.data.counts_per_electron),
        law=_law(experiment),
        displacement=_displacement(experiment),
        random=np.random.default_rng(experiment.settings.seed),
    )


def nominal_unknowns(experiment: Experiment) -> forward.Unknowns:
    """Vacuum, the probe of the nominal optics, nominal positions, weights of 1 and none for the probe's variations."""
    xp, geo = experiment.backend.xp, experiment.geometry
    return forward.Unknowns(
        object=xp.ones((experiment.settings.slices, *geo.object_shape), xp.complex64),
        apertures=xp.array(experiment.apertures),
        corners=xp.array(geo.corners),
        subpixel_shifts=xp.array(geo.subpixel_shifts),
        weights=_weights(experiment, 0),
        background=xp.array(experiment.background),
        count_offset=0.0,
    )


def grow(before: Experiment, experiment: Experiment, state: SolverState) -> None:
    """Make room, in place, for patterns that only `experiment` has, not `before`; object and probe go on from where they are."""
    settle(state)
    xp, found = experiment.backend.xp, state.unknowns
    old, new = before.geometry, experiment.geometry
    grown = xp.ones((len(found.object), *new.object_shape), found.object.dtype)
    row, column = (round((o - n) / p) for o, n, p in zip(old.origin, new.origin, new.pixel_size, strict=True))
    grown[:, row : row + old.object_shape[0], column : column + old.object_shape[1]] = found.object
    first = len(found.corners)
    found.object = grown
    moved = found.corners + xp.asarray([row, column], dtype=found.corners.dtype)
    found.corners = xp.concatenate([moved, xp.asarray(new.corners[first:])])
    found.subpixel_shifts = xp.concatenate([found.subpixel_shifts, xp.asarray(new.subpixel_shifts[first:])])
    found.weights = xp.concatenate([found.weights, _weights(experiment, first)])
    state.binned = state.gauge = state.seen = state.sloped = None
    state.displacement = _displacement(experiment)


def last_reached(state: SolverState) -> Reached:
    """Object and apertures as they are, without the extrapolation of the momentum."""
    return state.reached or Reached(state.unknowns.object, state.unknowns.apertures, 1.0, state.law_numbers)


def settle(state: SolverState) -> None:
    """Leave the extrapolated point for the last one that was reached; the momentum starts anew from there."""
    if state.reached is None:
        return
    state.unknowns.object[...], state.unknowns.apertures[...] = state.reached.object, state.reached.apertures
    if state.law is not None:
        state.law.numbers = state.reached.numbers
    state.reached = None


def scale_counts(state: SolverState, factor: float) -> None:
    """Expect `factor` times as many electrons in every pattern; the object stays."""
    root = np.float32(np.sqrt(factor))
    state.unknowns.apertures *= root
    state.unknowns.background *= np.float32(factor)
    if state.reached is not None:
        state.reached.apertures *= root
    state.binned = None


def illumination(experiment: Experiment, state: SolverState) -> NDArray[np.float32]:
    """Σ|probe|² of all positions relative to its maximum, (y, x) on the object grid (whole-pixel shifts)."""
    host = experiment.backend.to_host
    apertures = host(last_reached(state).apertures)[: experiment.n_modes]
    intensity = (np.abs(probe.to_real_space(apertures)) ** 2).sum(axis=0)
    n_y, n_x = experiment.geometry.object_shape
    hits = np.zeros((n_y, n_x), np.float32)
    np.add.at(hits, tuple(host(state.unknowns.corners).T), 1)
    # every window lies inside the grid, so that nothing wraps round
    spectrum = np.fft.rfft2(hits) * np.fft.rfft2(intensity, (n_y, n_x))
    total = np.clip(np.fft.irfft2(spectrum, (n_y, n_x)), 0, None).astype(np.float32)
    return total / max(float(total.max()), 1e-30)


def positions(experiment: Experiment, state: SolverState) -> NDArray[np.float64]:
    """(n, 2), Å, in the scan's frame, as they are now."""
    if state.displacement is None:
        return experiment.data.positions
    return state.displacement.positions(state.unknowns, experiment.backend)


def deviances(experiment: Experiment, state: SolverState) -> tuple[float, ...]:
    """Poisson deviance per detector pixel, of the passes that it was wanted of; waits for the device."""
    return tuple(float(experiment.backend.to_host(value)) for value in state.deviances)


def with_reached(state: SolverState, **changes: Any) -> forward.Unknowns:
    """The unknowns at the last point that was reached, with `changes`; nothing of the state is changed."""
    last = last_reached(state)
    return replace(state.unknowns, **{"object": last.object, "apertures": last.apertures, **changes})


def _displacement(experiment: Experiment) -> Displacement | None:
    kind, data = experiment.settings.refine_positions, experiment.data
    if kind is None:
        return None
    first = experiment.settings.positions_start
    return Displacement(kind, experiment.geometry, data.positions, data.position_jitter, first)


def _weights(experiment: Experiment, first: int) -> Any:
    """(n, V) of the patterns from the `first` on: the beam's intensity as it is known, and nothing of variations."""
    xp, intensity = experiment.backend.xp, experiment.data.intensity
    n = len(experiment.geometry.corners)
    weights = xp.ones((n - first, len(experiment.apertures)), xp.float32)
    if intensity is not None:
        weights *= xp.asarray(np.sqrt(intensity[first:] / intensity.mean()).astype(np.float32))[:, None]
    weights[:, experiment.n_modes :] = 0
    return weights


def _law(experiment: Experiment) -> TransmissionLaw | None:
    if not experiment.follows_law:
        return None
    resolved = experiment.resolved if experiment.padded else (1.0, 1.0)
    return TransmissionLaw(experiment.backend.xp, experiment.geometry.pixel_size, resolved)
