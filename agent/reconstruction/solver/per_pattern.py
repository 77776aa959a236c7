"""What each pattern has of its own: its position, its intensity, its share of the probe's variations."""

from __future__ import annotations

from typing import Any

import numpy as np

from agent.reconstruction.model import forward
from agent.reconstruction.model.settings import ReconstructionSettings
from agent.reconstruction.solver.experiment import Experiment
from agent.reconstruction.solver.illumination import PatternIllumination
from agent.reconstruction.solver.state import SolverState

STEP = 0.5
"""Of the Newton steps of variations and weights, each: both together reach for the same residual."""
PHASE_GAIN = 5.0
"""How much longer steps in the aperture's phase are than those in its amplitude.

A drift of the defocus is found in 40 passes with 5 and not in 100 with 1; with 20 it diverges (random phase objects, 1e5 e/Å²).
"""
SEEN = 0.25
"""The gain at most, times the variations' part of the electrons.

Phases of a strong variation are seen like amplitudes. With a gain of 5 variations that have a fifth of the electrons diverge.
"""


def needs_slopes(settings: ReconstructionSettings) -> bool:
    """Whether `update` needs `Sums.slopes`."""
    return settings.refine_positions is not None or settings.variable_modes > 0


def needs_all(settings: ReconstructionSettings) -> bool:
    """Whether every pattern has quantities of its own, so that none can be left out of a pass."""
    return needs_slopes(settings) or settings.refine_intensity


def update(experiment: Experiment, state: SolverState, problem: forward.Problem, sums: forward.Sums, reach: Any) -> Any:
    """One step of every quantity that each pattern has of its own; call it after the apertures have taken theirs.

    Args:
        experiment: what is given.
        state: changed in place.
        problem: of the experiment, with its counts.
        sums: over all patterns in their order.
        reach: of the momentum, 0 … 1.

    Returns:
        The displacement (2, y, x) in pixels that the object has to follow (`positions.moved`), or None.
    """
    if experiment.settings.variable_modes:
        _update_variations(experiment, state.unknowns, sums)
    if state.displacement is None:
        return None
    return state.displacement.update(state.unknowns, sums, problem, experiment.backend, reach)


def update_intensities(experiment: Experiment, unknowns: forward.Unknowns, sums: forward.Sums, before: Any) -> None:
    """Weights of the modes from counts over modelled counts, both without the background, mean intensity 1.

    Call it last. What a step has made of the object's amplitudes is in the counts expected by then: where both an object and an
    intensity made up for the same counts, they would be made up for twice, and the passes would swing and diverge.

    Args:
        experiment: what is given.
        unknowns: as the next pass will start from them; the weights are changed in place.
        sums: over all patterns in their order, of unknowns with the object and apertures `before`.
        before: (object, apertures) of the sums.
    """
    xp, modes = experiment.backend.xp, experiment.n_modes
    background = (experiment.constants.mask * unknowns.background).sum().astype(np.float64)
    now = unknowns.weights[:, 0].astype(np.float64) ** 2
    modelled = sums.modelled.astype(np.float64)
    coherent = xp.maximum(modelled - background, 1e-3 * modelled.mean())
    if not experiment.phase_only:
        passed = [_passed(experiment, unknowns, *of) for of in (before, (unknowns.object, unknowns.apertures))]
        coherent = coherent * passed[1] / xp.maximum(passed[0], 1e-30)
    found = now * (xp.asarray(experiment.counts.totals) - background) / coherent
    scale = found.mean()
    noise = (now / (scale * coherent)) ** 2 * xp.maximum(modelled, 1e-30)
    found = xp.maximum(_shrunk(found / scale, noise, xp), 0)
    unknowns.weights[:, :modes] = xp.sqrt(found / found.mean()).astype(np.float32)[:, None]


def _passed(experiment: Experiment, unknowns: forward.Unknowns, obj: Any, apertures: Any) -> Any:
    """Electrons (n,) that an object (S, y, x) lets pass of each pattern, but for its intensity, in the windows of `unknowns`."""
    xp = experiment.backend.xp
    illumination = PatternIllumination(unknowns, apertures[: experiment.n_modes], 1.0, xp)
    return illumination.seen(xp.abs(obj.prod(axis=0)) ** 2).astype(np.float64)


def _update_variations(experiment: Experiment, unknowns: forward.Unknowns, sums: forward.Sums) -> None:
    """A Newton step of the variations and of their weights, then their gauge.

    What changes the amplitude of the aperture is seen at once, with the information that the first mode has (weights have
    variance 1). What changes its phase is seen only where scattered waves interfere, and partly taken up by the object.
    """
    xp, modes, n = experiment.backend.xp, experiment.n_modes, len(unknowns.corners)
    apertures = unknowns.apertures
    turn = apertures[0] / xp.maximum(xp.abs(apertures[0]), 1e-30)
    shape = apertures[modes:] * turn.conj()
    energy = (xp.abs(apertures) ** 2).sum(axis=(1, 2))
    part = energy[modes:].sum() / xp.maximum(energy[0] + energy[modes:].sum(), 1e-30)
    gain = xp.minimum(PHASE_GAIN, SEEN / xp.maximum(part, 1e-30)).astype(np.float32)
    information = (shape.real**2 + shape.imag**2 / gain).sum(axis=(1, 2))
    unknowns.weights[:, modes:] += STEP * sums.slopes[:, 2 + modes :] / xp.maximum(information, 1e-30)
    slope = sums.aperture_numerator[modes:] * turn.conj() * xp.asarray(experiment.constants.support)
    change = (STEP / n) * (slope.real + 1j * (gain * slope.imag)) * turn
    apertures[modes:] += change.astype(apertures.dtype)
    in_gauge(unknowns, modes, xp)
    experiment.tie(apertures)  # what the gauge has given the first mode is given to all that it is tied to


def _shrunk(found: Any, noise: Any, xp: Any) -> Any:
    """Estimates (n,) whose noise has the variances `noise` (n,), drawn towards their mean."""
    true = xp.maximum(0.0, found.var() - noise.mean())
    return found.mean() + (found - found.mean()) * (true / xp.maximum(true + noise, 1e-30))


def in_gauge(unknowns: forward.Unknowns, modes: int, xp: Any) -> None:
    """The same variations with weights of mean 0 and variance 1, orthogonal to the first mode and to each other.

    What follows the first mode is left out: its real part is an intensity, its imaginary part a phase of the pattern that no
    count tells. (Gauge of orthogonal probe relaxation: Odstrčil et al., Opt. Express 24 (2016) 8360, without their SVD.)
    """
    apertures, weights = unknowns.apertures, unknowns.weights
    mean = weights[:, modes:].mean(axis=0)
    apertures[0] += (mean[:, None, None] * apertures[modes:]).sum(axis=0)
    weights[:, modes:] -= mean
    for v in range(modes, len(apertures)):
        for other in (0, *range(modes, v)):
            size = xp.maximum((xp.abs(apertures[other]) ** 2).sum(), 1e-30)
            overlap = (apertures[other].conj() * apertures[v]).sum() / size
            apertures[v] -= overlap * apertures[other]
            if other > 0:  # real weights: only the real part of the overlap can go to the other variation
                weights[:, other] += overlap.real * weights[:, v]
    spread = xp.sqrt((weights[:, modes:] ** 2).mean(axis=0))
    spread = xp.where(spread > 0, spread, 1)
    weights[:, modes:] /= spread
    apertures[modes:] *= spread[:, None, None]
