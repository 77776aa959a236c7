"""Who goes on, and which trial is taken: by held-out counts and two halves, and the start where neither is sure."""

from __future__ import annotations

from typing import Any

import pytest

from agent.records import Score
from agent.tuning.records import Judged, TuningTrial
from agent.tuning.standing import gains, promoted, taken

SCORE = Score(value=3.0, sd=0.1, resolution=None, frequency=(), frc=(), pairs=())


def trial(number: int, *deviances: float, score: Score | None = None, **changes: Any) -> TuningTrial:
    """A trial with its deviance at each stage, alike in all blocks but for a little."""
    stages = tuple(
        Judged(stage=i, blocks=(value * 1.01, value, value * 0.99), pixels=300.0, cost=1.0, seconds=1.0)
        for i, value in enumerate(deviances)
    )
    return TuningTrial(number=number, values={}, origin="drawn", stages=stages, score=score, **changes)


START = trial(0, 100.0, 100.0, score=SCORE)


def test_only_the_best_go_on_and_none_that_is_worse_than_the_start() -> None:
    trials = [START, trial(1, 99.0), trial(2, 98.0), trial(3, 101.0), trial(4, 97.0), trial(5, 120.0)]
    assert promoted(trials, 2, kept=3) == [(4, 1), (2, 1)]
    assert promoted([START, trial(1, 101.0), trial(2, 103.0)], 2, kept=2) == []


def test_what_has_failed_does_not_go_on() -> None:
    assert promoted([START, trial(1, 90.0, error="diverged"), trial(2, 95.0)], 2, kept=1) == [(2, 1)]


def test_the_best_whole_reconstruction_is_taken() -> None:
    number, why = taken([START, trial(1, 80.0), trial(2, 95.0, 96.0, score=SCORE), trial(3, 97.0, 98.0)], 2)
    assert number == 2
    assert "better by 4.00%" in why


def test_halves_that_agree_less_or_are_not_to_be_trusted_speak_against_a_trial() -> None:
    worse = SCORE.model_copy(update={"value": 2.0})
    doubtful = SCORE.model_copy(update={"veto": "power at the scan's harmonics"})
    trials = [START, trial(1, 90.0, 90.0, score=worse), trial(2, 91.0, 91.0, score=doubtful), trial(3, 92.0, 95.0)]
    assert taken(trials, 2)[0] == 3


def test_halves_that_agree_more_decide_between_trials_that_predict_better() -> None:
    more, hardly = (SCORE.model_copy(update={"value": value}) for value in (3.5, 3.1))
    best = trial(1, 90.0, 90.0, score=SCORE)
    number, why = taken([START, best, trial(2, 95.0, 95.0, score=more)], 2)
    assert number == 2
    assert "less than by trial 1, but two halves agree more" in why
    assert taken([START, best, trial(2, 95.0, 95.0, score=hardly)], 2)[0] == 1, "within the uncertainty"
    assert taken([START, best, trial(2, 105.0, 105.0, score=more)], 2)[0] == 1, "predicts worse"


def test_the_start_stays_where_nothing_is_surely_better() -> None:
    noisy = TuningTrial(
        number=1,
        values={},
        origin="drawn",
        stages=(Judged(stage=0, blocks=(90.0, 108.0, 100.0), pixels=300.0, cost=1.0, seconds=1.0),),
    )
    assert gains([trial(0, 100.0), noisy], 0)[1].value == pytest.approx(2 / 300)
    number, why = taken([trial(0, 100.0), noisy], 1)
    assert number == 0
    assert "the settings of the start" in why
