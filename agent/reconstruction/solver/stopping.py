"""When to stop, and with which pass to end: counts that were held out tell (README, "When to stop")."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.reconstruction.model import forward
from agent.reconstruction.solver.best_pass import BestPass, Kept
from agent.reconstruction.solver.experiment import Experiment
from agent.reconstruction.solver.passes import Progress, make_pass
from agent.reconstruction.solver.per_pattern import needs_all
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
SEVERAL_COUNTS, FEWEST_PATTERNS = 1.5, 100
"""Counts per electron from which on patterns are held out, not counts; and how many there have to be."""
FINISH = 8
"""Passes over all counts at the end; the momentum goes on from what was reached without those held out."""


def can_hold_out(experiment: Experiment) -> bool:
    """Whether counts can be held out: they are whole numbers, or patterns without, and there are passes enough to choose from."""
    if experiment.settings.max_passes <= 3 + FINISH:
        return False
    if experiment.data.counts_per_electron > SEVERAL_COUNTS:
        return not needs_all(experiment.settings) and len(experiment.counts.totals) >= FEWEST_PATTERNS
    return bool(experiment.counts.pixels().dtype.kind == "u")


def run_with_held_out(
    experiment: Experiment, state: SolverState, steps: list[Step], on_progress: Progress | None = None
) -> None:
    """Passes with a tenth of the counts held out until these see no gain; then the last ones with all counts.

    Where an electron gives several counts, these are of no use: patterns are held out.

    Args:
        experiment: `can_hold_out`.
        state: changed in place.
        steps: the passes planned, of which the last few are made with all counts.
        on_progress: told after each pass.
    """
    several = experiment.data.counts_per_electron > SEVERAL_COUNTS
    number = (_hold_patterns if several else _hold_counts)(experiment, state, steps, on_progress)
    all_counts, kept = BestPass(state, _pixels(experiment)), Kept.of(state)
    for last in range(FINISH):
        make_pass(experiment, state, steps[number], want_deviance=last in (0, FINISH - 1))
        if on_progress is not None:
            on_progress(len(steps) - FINISH + last + 1, len(steps))
    for value in deviances(experiment, state)[-2:]:
        all_counts.judge(value * all_counts.pixels, kept)
    _end(experiment, state, all_counts)


def _hold_counts(experiment: Experiment, state: SolverState, steps: list[Step], on_progress: Progress | None) -> int:
    """Passes with a tenth of every pattern's counts held out; the number of the last."""
    seed, n = experiment.settings.seed, len(state.unknowns.corners)
    judged = np.sort(np.random.default_rng(seed).permutation(n)[:PATTERNS_JUDGED])
    best = BestPass(state, len(judged) * float(experiment.mask.sum()))
    with experiment.counts.holding_out(HELD_OUT, seed + 1) as held:
        scale_counts(state, 1 - HELD_OUT)
        try:
            problem = replace(experiment.constants, counts=held)
            share = HELD_OUT / (1 - HELD_OUT)
            return _until_no_gain(
                experiment,
                state,
                steps,
                on_progress,
                best,
                lambda: _deviance(experiment, state, problem, judged, share),
            )
        finally:
            scale_counts(state, 1 / (1 - HELD_OUT))


def _hold_patterns(experiment: Experiment, state: SolverState, steps: list[Step], on_progress: Progress | None) -> int:
    """Passes without a tenth of the patterns, which their neighbours have to predict; the number of the last."""
    n = len(state.unknowns.corners)
    held = np.random.default_rng(experiment.settings.seed).permutation(n)[: max(1, round(HELD_OUT * n))]
    judged = np.sort(held[:PATTERNS_JUDGED])
    best = BestPass(state, len(judged) * float(experiment.mask.sum()))
    return _until_no_gain(
        experiment,
        state,
        steps,
        on_progress,
        best,
        lambda: _deviance(experiment, state, experiment.problem(), judged, 1.0),
        np.sort(held),
    )


def _until_no_gain(
    experiment: Experiment,
    state: SolverState,
    steps: list[Step],
    on_progress: Progress | None,
    best: BestPass,
    deviance: Callable[[], float],
    without: NDArray[np.int64] | None = None,
) -> int:
    """Passes until what was held out sees no gain, back to the best of them where the last is worse; the number of the last."""
    since, number = 0, 0
    for number, step in enumerate(steps[:-FINISH]):
        make_pass(experiment, state, step, without=without)
        if on_progress is not None:
            on_progress(number + 1, len(steps))
        if step.batch is not None:
            continue
        value = deviance()
        since = 0 if value < best.deviance else since + 1
        best.judge(value)
        if since >= PATIENCE:
            break
    best.return_to(experiment.settings)
    return number


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


def _deviance(experiment: Experiment, state: SolverState, problem: forward.Problem, judged: Any, share: float) -> float:
    """Of the counts of `problem` in the patterns `judged`, where they are so much of what the state expects."""
    expected = with_reached(
        state,
        background=state.unknowns.background * np.float32(share),
        count_offset=OFFSET * experiment.count_offset,
    )
    expected.apertures = expected.apertures * np.float32(np.sqrt(share))
    wanted = forward.Wanted(adjoint=False, probe=False, ratio=False, deviance=True)
    return float(experiment.backend.accumulate(problem, expected, judged, wanted).deviance)
