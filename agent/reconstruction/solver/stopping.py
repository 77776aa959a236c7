"""When to stop: counts that were held out tell, and the result is made from all of them (README, "When to stop")."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from agent.reconstruction.model import forward
from agent.reconstruction.solver.experiment import Experiment
from agent.reconstruction.solver.passes import Progress, make_pass
from agent.reconstruction.solver.schedule import Step
from agent.reconstruction.solver.state import SolverState, scale_counts, with_reached

HELD_OUT = 0.1
"""Part of the counts that is held out."""
PATTERNS_JUDGED = 400
"""Patterns whose held-out counts are looked at after a pass; more would cost more than they tell."""
OFFSET = 0.1
"""Part of the first passes' count offset under which held-out counts are judged: a single count in the dark shall not decide."""
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
    best, since, number = np.inf, 0, 0
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
                since = 0 if value < best else since + 1
                best = min(best, value)
                if since >= PATIENCE:
                    break
        finally:
            scale_counts(state, 1 / (1 - HELD_OUT))
    for last in range(FINISH):
        make_pass(experiment, state, steps[number], want_deviance=last == FINISH - 1)
        if on_progress is not None:
            on_progress(len(steps) - FINISH + last + 1, len(steps))


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
