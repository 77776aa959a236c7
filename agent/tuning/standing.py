"""How trials stand against the start: gains in held-out counts, who goes on, and which one is taken in the end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from agent.reconstruction import Prediction
from agent.tuning.records import Judged, TuningTrial

WORSE = 2.0
"""Standard deviations by which the score of two halves may lie below the start's."""


@dataclass(frozen=True)
class Gain:
    """By how much better counts that were held out are predicted than with the settings of the start.

    Attributes:
        value: deviance per detector pixel that is gained.
        sd: its standard deviation, from blocks of the scan.
        relative: `value` over the start's deviance.
    """

    value: float
    sd: float
    relative: float


def gain(trial: TuningTrial, start: TuningTrial, stage: int) -> Gain | None:
    """The gain of a trial over the start at a stage; None where either has not been there."""
    here, there = trial.at(stage), start.at(stage)
    if here is None or there is None:
        return None
    before = _prediction(there)
    value, sd = _prediction(here).gain_over(before)
    return Gain(value, sd, value / before.deviance)


def gains(trials: Sequence[TuningTrial], stage: int) -> dict[int, Gain]:
    """Number of each trial that was judged at a stage -> its gain there."""
    if not trials:
        return {}
    found = {trial.number: gain(trial, trials[0], stage) for trial in trials}
    return {number: each for number, each in found.items() if each is not None}


def promoted(trials: Sequence[TuningTrial], stages: int, kept: int) -> list[tuple[int, int]]:
    """Trials that should go on, each with the stage to go to: the best of `kept` at their stage, the highest stage first.

    Asynchronous successive halving (Li et al., MLSys 2020), which waits for nobody.

    Args:
        trials: of the search, the start first.
        stages: of the ladder.
        kept: one of so many goes on.
    """
    found = []
    for stage in reversed(range(stages - 1)):
        at = gains(trials, stage)
        best = sorted((number for number in at if number != 0), key=lambda number: -at[number].value)
        for number in best[: math.ceil(len(best) / kept)]:
            trial = trials[number]
            if trial.stage == stage and trial.error is None and at[number].value > 0:
                found.append((number, stage + 1))
    return found


def ranked(trials: Sequence[TuningTrial], stages: int) -> list[int]:
    """Numbers of the trials that have come farthest, the best first; the start has gain 0 at each stage."""
    order = []
    for stage in reversed(range(stages)):
        at = gains(trials, stage)
        here = [number for number in at if number not in order and trials[number].stage == stage]
        order += sorted(here, key=lambda number: -at[number].value)
    return order


def taken(trials: Sequence[TuningTrial], stages: int) -> tuple[int, str]:
    """Number of the trial whose values are recommended, and why.

    It predicts counts better that were held out from a whole reconstruction, by more than its uncertainty, and its two halves
    agree no worse than the start's, where they were asked. Of these trials it is the one whose halves agree most, where that
    tells it from the one that predicts best. Where there is none such, the start stays.
    """
    top = gains(trials, stages - 1)
    better = [
        trials[number]
        for number in sorted(top, key=lambda each: -top[each].value)
        if number != 0 and top[number].value > top[number].sd and _score_doubt(trials[number], trials[0]) is None
    ]
    if not better:
        return (
            0,
            "nothing predicts held-out counts better, and agrees as well between two halves, than the settings of the start",
        )
    best = max(better, key=lambda trial: (_surely_above(trial, better[0]), trial is better[0]))
    found = top[best.number]
    why = (
        f"held-out counts are predicted better by {found.relative:.2%} ± {found.sd / found.value * found.relative:.2%}"
    )
    if best is not better[0]:
        why += f", less than by trial {better[0].number}, but two halves agree more"
    return best.number, why


def _surely_above(trial: TuningTrial, other: TuningTrial) -> float:
    """By how much two halves of a trial agree more than those of another, bit/Å²; 0 where that is within its uncertainty."""
    if trial.score is None or other.score is None:
        return 0.0
    more = trial.score.value - other.score.value
    return more if more > math.hypot(trial.score.sd, other.score.sd) else 0.0


def _score_doubt(trial: TuningTrial, start: TuningTrial) -> str | None:
    if trial.score is None or start.score is None:
        return None
    if trial.score.veto is not None and start.score.veto is None:
        return trial.score.veto
    least = start.score.value - WORSE * math.hypot(trial.score.sd, start.score.sd)
    return None if trial.score.value >= least else "its two halves agree less"


def _prediction(judged: Judged) -> Prediction:
    return Prediction(np.asarray(judged.blocks), judged.pixels)
