"""When to stop, and with which pass to end: counts that were held out tell (README, "When to stop")."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from agent.reconstruction.model import forward
from agent.reconstruction.solver.best_pass import BestPass, Kept
from agent.reconstruction.solver.experiment import Experiment
from agent.reconstruction.solver.passes import Progress, make_pass
from agent.reconstruction.solver.schedule import Step
from agent.reconstruction.solver.state import SolverState, deviances, scale_counts, with_reached

HELD_OUT = 0.1
"""Part of the counts that is held out."""
PATTERNS_JUDGED = 400
"""Patterns whose held-out counts are looked at after a pass; more would cost more than they tell."""
OFFSET = 0.1
"""Part of the first passes' count offset under which held-out counts are judged: a single count in the dark shall not decide."""
JUDGED_EVERY = 4
"""Passes from one deviance to the next where no counts are held out: a logarithm for each pixel takes a tenth of a pass."""
PATIENCE = 3
"""Passes without gain after which nothing more is expected."""
FINISH = 8
"""Passes over all counts at the end; the momentum goes on from what was reached without those held out."""


def can_hold_out(experiment: Experiment) -> bool:
    """Whether counts can be held out: they are whole numbers, and there are passes enough to choose from."""
    return experiment.settings.max_passes > 3 + FINISH and experiment.counts.pixels().dtype.kind == "u"


def run_with_held_out(
    experiment: Experiment, state: SolverState, steps: list[Step], on_progress: Progress | None = None
) -> None:
    """Passes with a tenth of the counts held out until these see no gain; then the last ones with all counts.

    Args:
        experiment: whose counts are whole numbers.
        state: changed in place.
        steps: the passes planned, of which the last few are made with all counts.
        on_progress: told after each pass.
    """
    seed, n = experiment.settings.seed, len(state.unknowns.corners)
    judged = np.sort(np.random.default_rng(seed).permutation(n)[:PATTERNS_JUDGED])
    best, since, number = BestPass(state, len(judged) * float(experiment.mask.sum())), 0, 0
    with experiment.counts.holding_out(HELD_OUT, seed + 1) as held:
        scale_counts(state, 1 - HELD_OUT)
        try:
            for number, step in enumerate(steps[:-FINISH]):
                make_pass(experiment, state, step)
                if on_progress is not None:
                    on_progress(number + 1, len(steps))
                if step.batch is not None:
                    continue
                value = _held_out_deviance(experiment, state, held, judged)
                since = 0 if value < best.deviance else since + 1
                best.judge(value)
                if since >= PATIENCE:
                    break
            best.return_to(experiment.settings)
        finally:
            scale_counts(state, 1 / (1 - HELD_OUT))
    all_counts, kept = BestPass(state, _pixels(experiment)), Kept.of(state)
    for last in range(FINISH):
        make_pass(experiment, state, steps[number], want_deviance=last in (0, FINISH - 1))
        if on_progress is not None:
            on_progress(len(steps) - FINISH + last + 1, len(steps))
    for value in deviances(experiment, state)[-2:]:
        all_counts.judge(value * all_counts.pixels, kept)
    _end(experiment, state, all_counts)


def run_all(experiment: Experiment, state: SolverState, steps: list[Step], on_progress: Progress | None = None) -> None:
    """All passes that are planned.

    Args:
        experiment: what is given.
        state: changed in place.
        steps: the passes planned.
        on_progress: told after each pass.
    """
    best = BestPass(state, _pixels(experiment))
    for number, step in enumerate(steps):
        left = len(steps) - 1 - number
        # with another count offset deviances would be others
        judged = left % JUDGED_EVERY == 0 and step.offset_fraction == steps[-1].offset_fraction
        kept = Kept.of(state) if judged else None
        make_pass(experiment, state, step, want_deviance=judged)
        if judged:
            best.judge(deviances(experiment, state)[-1] * best.pixels, kept)
        if on_progress is not None:
            on_progress(number + 1, len(steps))
    _end(experiment, state, best)


def _end(experiment: Experiment, state: SolverState, best: BestPass) -> None:
    if best.return_to(experiment.settings):
        state.deviances.append(best.deviance / best.pixels)


def _pixels(experiment: Experiment) -> float:
    """Counts that a deviance is the sum over."""
    return len(experiment.counts.totals) * float(experiment.mask.sum())


def _held_out_deviance(experiment: Experiment, state: SolverState, held: Any, judged: Any) -> float:
    share = HELD_OUT / (1 - HELD_OUT)
    expected = with_reached(
        state,
        background=state.unknowns.background * np.float32(share),
        count_offset=OFFSET * experiment.count_offset,
    )
    expected.apertures = expected.apertures * np.float32(np.sqrt(share))
    wanted = forward.Wanted(adjoint=False, probe=False, ratio=False, deviance=True)
    problem = replace(experiment.constants, counts=held)
    return float(experiment.backend.accumulate(problem, expected, judged, wanted).deviance)
