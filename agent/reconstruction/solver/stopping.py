"""When to stop: counts that were held out tell, and the result is made from all of them.

A tenth of the counts is split off binomially, so that fitted and held-out counts are independent. Their likelihood under
the model rises with every pass that finds something of the specimen and falls with passes that fit noise. When it rises no
more, the held-out counts are given back, and the last passes use all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from agent.reconstruction.model import forward

if TYPE_CHECKING:
    from agent.reconstruction.solver.reconstructor import Reconstructor
    from agent.reconstruction.solver.schedule import Step

HELD_OUT = 0.1
"""Part of the counts that is held out."""
JUDGES = 400
"""Patterns whose held-out counts are looked at after a pass; more would cost more than they tell."""
GUARD = 0.1
"""Part of the first passes' guard under which held-out counts are judged: a single count in the dark shall not decide."""
PATIENCE = 3
"""Passes without gain after which nothing more is expected."""
FINISH = 8
"""Passes over all counts at the end; the momentum goes on from what was reached without those held out."""


def possible(worker: Reconstructor) -> bool:
    """Whether counts can be held out: they are whole numbers, and there are passes enough to choose from."""
    return worker.problem.counts.dtype.kind == "u" and worker.settings.max_passes > 3 + FINISH


def run(worker: Reconstructor, steps: list[Step], on_progress: Callable[[int, int], None] | None = None) -> None:
    """Passes with a tenth of the counts held out until these see no gain; then the last ones with all counts."""
    problem, n = worker.problem, len(worker.unknowns.corners)
    judges = np.sort(np.random.default_rng(worker.settings.seed).permutation(n)[:JUDGES])
    held = worker.backend.thin(problem.counts, HELD_OUT, worker.settings.seed + 1)
    problem.counts -= held
    worker.scale_counts(1 - HELD_OUT)
    try:
        best, since, number = np.inf, 0, 0
        for number, step in enumerate(steps[:-FINISH]):
            worker.one_pass(step)
            if on_progress is not None:
                on_progress(number + 1, len(steps))
            if step.batch is not None:
                continue
            value = _held_out_deviance(worker, held, judges)
            since = 0 if value < best else since + 1
            best = min(best, value)
            if since >= PATIENCE:
                break
    finally:
        problem.counts += held
        worker.scale_counts(1 / (1 - HELD_OUT))
    for last in range(FINISH):
        worker.one_pass(steps[number], want_deviance=last == FINISH - 1)
        if on_progress is not None:
            on_progress(len(steps) - FINISH + last + 1, len(steps))


def _held_out_deviance(worker: Reconstructor, held: Any, judges: Any) -> float:
    share = HELD_OUT / (1 - HELD_OUT)
    found = worker.unknowns
    last = worker.reached()
    expected = replace(
        found,
        object=last.object,
        apertures=last.apertures * np.float32(np.sqrt(share)),
        background=found.background * np.float32(share),
        guard=GUARD * worker.guard,
    )
    wanted = forward.Wanted(adjoint=False, probe=False, ratio=False, deviance=True)
    return float(worker.backend.accumulate(replace(worker.problem, counts=held), expected, judges, wanted).deviance)
