"""One pass: every pattern, or every second one, through the model and back, and what that changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from agent.reconstruction.counts.layout import two_by_two
from agent.reconstruction.model import background, binning, forward
from agent.reconstruction.solver import curvature, object_update, per_pattern, raster_gauge
from agent.reconstruction.solver.experiment import Experiment
from agent.reconstruction.solver.schedule import Step, schedule
from agent.reconstruction.solver.state import SolverState

Progress = Callable[[int, int], None]
"""Called with (passes done, passes in all)."""


def planned(experiment: Experiment, state: SolverState) -> list[Step]:
    """The passes that the settings ask for."""
    return schedule(experiment.settings, len(state.unknowns.corners), experiment.overlap)


def make_pass(
    experiment: Experiment,
    state: SolverState,
    step: Step,
    *,
    want_deviance: bool = False,
    without: NDArray[np.int64] | None = None,
) -> None:
    """Use every pattern once, in random batches or all in one update with momentum.

    Nothing here waits for the device, except for positions that are refined; arrays that it reads stay in their place.

    Args:
        experiment: what is given.
        state: changed in place.
        step: how.
        without: numbers of patterns that are left out, (m,); None: none. For quantities that each pattern has of its own all
            are needed.
        want_deviance: add to `state.deviances`; the detector's pixels are used then, not its bins.
    """
    xp, found, settings = experiment.backend.xp, state.unknowns, experiment.settings
    order = np.arange(len(found.corners)) if step.half is None else np.arange(step.half, len(found.corners), 2)
    order = order if without is None else np.setdiff1d(order, without)
    n = len(order)
    binned = step.binned and experiment.can_bin and not want_deviance
    problem, model = seen_in_bins(experiment, state) if binned else (experiment.problem(), found)
    # a bin has four times the counts of a pixel
    model.count_offset = experiment.count_offset * step.offset_fraction * (2 if binned else 1)
    if step.by_frequency:
        curvature.look(experiment, state, experiment.count_offset * step.offset_fraction)
    probe_moves = step.probe > 0 and not binned
    slopes = probe_moves or (step.batch is None and per_pattern.needs_slopes(experiment.settings))
    wanted = forward.Wanted(probe=slopes, ratio=settings.background, deviance=want_deviance)
    ratio, deviance = xp.zeros(problem.mask.shape, xp.float32), 0.0
    parts = 1 if step.batch is None else max(1, round(n / step.batch))
    order = order if step.batch is None else state.random.permutation(order)
    for batch in np.array_split(order, parts):
        sums = experiment.backend.accumulate(problem, model, batch, wanted)
        if step.batch is None:
            object_update.full_update(experiment, state, problem, sums, step)
            if step.probe > 0 and state.passes % raster_gauge.EVERY == 0:
                fix_gauge(experiment, state)
        else:
            object_update.mini_batch_update(experiment, state, sums, step, len(batch))
        ratio = ratio if sums.ratio is None else ratio + sums.ratio
        deviance += sums.deviance
    if settings.background:
        ratio = binning.enlarge(ratio) if binned else ratio
        found.background *= background.gain(ratio / n, experiment.constants.mask, experiment.rings)
    if not binned:  # bins are for the first passes only, and take memory
        state.binned = None
        experiment.counts.forget_bins()
    state.passes += step.half != 0
    if want_deviance:
        state.deviances.append(deviance / (n * float(experiment.mask.sum())))


def fix_gauge(experiment: Experiment, state: SolverState) -> None:
    """Keep the scan's own periods out of the object, where the probe is refined too.

    Args:
        experiment: what is given.
        state: changed in place.
    """
    if state.gauge is None:
        state.gauge = (raster_gauge.RasterGauge.of(experiment),)
    if state.gauge[0] is not None:
        state.gauge[0].fix(experiment, state)


def seen_in_bins(experiment: Experiment, state: SolverState) -> tuple[forward.Problem, forward.Unknowns]:
    """Problem and unknowns with the detector in 2 × 2 bins; the object is shared."""
    if state.binned is None:
        state.binned = binning.bin_problem(
            replace(experiment.constants, counts=experiment.counts.bins()),
            state.unknowns,
            experiment.data,
            experiment.settings,
            experiment.geometry,
            experiment.backend.xp,
        )
    problem, found = state.binned
    found.background[...] = two_by_two(state.unknowns.background)
    return problem, found
