"""How object and probe climb the likelihood: one preconditioned step a mini-batch, then full passes with momentum."""

from __future__ import annotations

from typing import Any

import numpy as np

from agent.reconstruction.model import forward
from agent.reconstruction.model.depth import DAMPING
from agent.reconstruction.solver import curvature, per_pattern
from agent.reconstruction.solver.experiment import Experiment
from agent.reconstruction.solver.positions import moved
from agent.reconstruction.solver.schedule import Step
from agent.reconstruction.solver.state import Reached, SolverState

ILLUMINATION_FLOOR = 0.05
"""Part of the largest illumination added to the preconditioner, so that the rim of the field is not driven by noise."""

TIED_PHASE = 5.0
"""How much longer the steps of tied modes are in their aperture's phase than in its amplitude (README)."""

PROBE_FREEDOM = 0.1
"""Part of its intensity by which a probe is expected to differ from the one it started from."""


def mini_batch_update(
    experiment: Experiment, state: SolverState, sums: forward.Sums, step: Step, n_patterns: int
) -> None:
    """A step with what a mini-batch adds up to.

    It moves phases only: amplitudes are small and would mostly take up its noise.

    Args:
        experiment: what is given.
        state: changed in place.
        sums: of the mini-batch.
        step: how far.
        n_patterns: in the mini-batch.
    """
    _step_object(experiment, state, sums, step.size, phase_only=True)
    if step.probe > 0 and sums.aperture_numerator is not None:
        found, modes, change = state.unknowns, experiment.n_modes, sums.aperture_numerator * experiment.support
        if experiment.tied is not None:
            change[:modes] = experiment.tied.spread(experiment.tied.common(change[:modes]))
        found.apertures += (step.probe / n_patterns) * change


def full_update(
    experiment: Experiment, state: SolverState, problem: forward.Problem, sums: forward.Sums, step: Step
) -> None:
    """A step with the sums over all patterns, extrapolated after Nesterov; the momentum restarts where it points uphill.

    O'Donoghue & Candès, Found. Comput. Math. 15 (2015) 715, gradient scheme.

    Args:
        experiment: what is given.
        state: changed in place.
        problem: of the experiment, with its counts.
        sums: over all patterns.
        step: how far.
    """
    xp, found = experiment.backend.xp, state.unknowns
    if state.reached is None:
        state.probe_window = _probe_window(experiment, state)
    last = state.reached or Reached(found.object.copy(), found.apertures.copy(), xp.ones(()), state.law_numbers)
    before, apertures_before = found.object.copy(), found.apertures.copy()
    if experiment.phase_only and len(found.object) > 1:
        _step_in_depth(experiment, state, sums, step.size)
    else:
        _step_object(experiment, state, sums, step.size, phase_only=experiment.phase_only)
    _impose_prior(experiment, state, sums, step.size)
    _constrain(experiment, state, sums)
    uphill = ((found.object - before).conj() * (found.object - last.object)).real.sum() < 0
    age = xp.where(uphill, 1.0, (1 + xp.sqrt(1 + 4 * last.age**2)) / 2)
    reach = xp.where(uphill, 0.0, experiment.settings.momentum * (last.age - 1) / age)
    if step.probe > 0:
        _step_probe(experiment, state, sums, step.probe)
    displacement = per_pattern.update(experiment, state, problem, sums, reach)
    if displacement is not None:
        found.object[...] = _moved(experiment, found.object, displacement)
        _constrain(experiment, state, sums)
        last.object = _moved(experiment, last.object, displacement)
    state.reached = Reached(found.object.copy(), found.apertures.copy(), age, state.law_numbers)
    _extrapolate(experiment, state, sums, last, reach, probe_moves=step.probe > 0)
    if experiment.settings.refine_intensity:
        per_pattern.update_intensities(experiment, found, sums, (before, apertures_before))


def _extrapolate(
    experiment: Experiment, state: SolverState, sums: forward.Sums, last: Reached, reach: Any, *, probe_moves: bool
) -> None:
    """Go on, by `reach` of the way from `last`, beyond what was reached."""
    xp, found, modes = experiment.backend.xp, state.unknowns, experiment.n_modes
    if state.law is not None:
        state.law.numbers = state.law.numbers + reach * (state.law.numbers - last.numbers)
    reach = reach.astype(np.float32)
    if experiment.phase_only:
        half = reach * forward.half_tangent(found.object * last.object.conj(), xp)
        # rounding of the modulus would grow threefold with every pass
        found.object *= forward.phasor(half, xp) / xp.abs(found.object)
        _constrain(experiment, state, sums)
    else:
        found.object += reach * (found.object - last.object)
    if probe_moves:
        # variations go without: their weights would have to be extrapolated with them
        found.apertures[:modes] += reach * (found.apertures[:modes] - last.apertures[:modes])


def _step_object(
    experiment: Experiment, state: SolverState, sums: forward.Sums, size: float, *, phase_only: bool
) -> None:
    """One preconditioned step of every slice; all together they shift the phase by what one slice would."""
    obj, floor = state.unknowns.object, ILLUMINATION_FLOOR * sums.illumination.max()
    if state.seen is not None:
        _step_frequencies(experiment, state, sums, size, phase_only=phase_only)
    elif phase_only:
        experiment.backend.step_phases(obj, sums, size / len(obj), floor, experiment.settings.positivity)
    else:
        obj += sums.object_numerator * (np.float32(size / len(obj)) / (sums.illumination + floor))


def _step_frequencies(
    experiment: Experiment, state: SolverState, sums: forward.Sums, size: float, *, phase_only: bool
) -> None:
    """A step of one slice, divided by what is seen of each frequency (`curvature`) between the roots of the illumination."""
    xp, obj = experiment.backend.xp, state.unknowns.object
    root = 1 / xp.sqrt(sums.illumination + ILLUMINATION_FLOOR * sums.illumination.max())
    slope = obj.conj() * sums.object_numerator
    slope = 1j * slope.imag if phase_only else slope
    longest = curvature.held_back(state, slope, root, size, xp) if state.reached is not None else np.float32(size)
    step = curvature.divided(slope, state.seen, root, xp) * longest
    if not phase_only:
        obj += obj * step
        return
    phases = step.imag
    if experiment.settings.positivity:
        phases = xp.maximum(phases, -2 * forward.half_tangent(obj, xp))
    obj *= forward.phasor(phases / 2, xp)


def _step_in_depth(experiment: Experiment, state: SolverState, sums: forward.Sums, size: float) -> None:
    """A step of the phases of several slices, divided by what is seen of their depths (`model.depth`), and of their law."""
    xp, obj, illumination = experiment.backend.xp, state.unknowns.object, sums.illumination
    slope = obj.conj() * sums.object_numerator
    gradient = slope.imag if state.law is None else state.law.take_step(obj, slope, illumination, size)
    change = gradient / (illumination + ILLUMINATION_FLOOR * illumination.max())
    change = experiment.depths.filtered(change, lambda seen: size / (seen + DAMPING))
    obj *= xp.exp(1j * change)


def _step_probe(experiment: Experiment, state: SolverState, sums: forward.Sums, size: float) -> None:
    """One step of the probe modes, small where a change of the probe would be noise."""
    xp, found, modes, tied = experiment.backend.xp, state.unknowns, experiment.n_modes, experiment.tied
    slope = sums.aperture_numerator[:modes] * experiment.support
    if tied is not None:
        slope = tied.common(slope)
        turn = xp.exp(1j * xp.angle(tied.common(found.apertures[:modes])[0]))
        slope[0] += (TIED_PHASE - 1) * 1j * turn * (turn.conj() * slope[0]).imag
    change = xp.fft.fft2(xp.fft.ifft2(slope) * state.probe_window) * experiment.support
    change = change if tied is None else tied.spread(change)
    found.apertures[:modes] += (size / len(found.corners)) * change
    if tied is not None:
        tied.free_orthogonal(found.apertures[:modes], xp)


def _impose_prior(experiment: Experiment, state: SolverState, sums: forward.Sums, size: float) -> None:
    """Let slices differ, or all be what they are, as far as the counts tell."""
    obj, regularise = state.unknowns.object, experiment.settings.regularise
    if regularise or len(obj) > 1:
        obj[...] = state.prior.imposed(obj, sums.illumination, size, experiment.phase_only, regularise)


def _constrain(experiment: Experiment, state: SolverState, sums: forward.Sums) -> None:
    """Let slices be what follows from their phases, and no phase below that of vacuum where that is asked for."""
    obj, xp = state.unknowns.object, experiment.backend.xp
    if state.law is not None:
        obj[...] = state.law.imposed(obj, sums.illumination)
    if experiment.settings.positivity:
        obj *= xp.exp(-1j * xp.minimum(xp.angle(obj), 0))


def _probe_window(experiment: Experiment, state: SolverState) -> Any:
    """(y, x) s/(s + b): expected variance s of a change of the probe, and b = 1/(2n) of the noise that n patterns leave.

    Where the probe is dark, a change of it is noise, and the object's makes up for it: at 3e2 e/Å² it costs a twentieth of the
    error. The steps only get smaller there; what many counts say is found all the same.
    """
    xp = experiment.backend.xp
    modes = experiment.apertures[: experiment.n_modes]
    intensity = (xp.abs(xp.fft.ifft2(modes, norm="ortho")) ** 2).sum(axis=0)
    return (intensity / (intensity + 1 / (2 * PROBE_FREEDOM * len(state.unknowns.corners)))).astype(np.float32)


def _moved(experiment: Experiment, obj: Any, displacement: Any) -> Any:
    obj = moved(obj, displacement, experiment.backend.xp)
    return obj / abs(obj) if experiment.phase_only else obj
