"""A scan is given up only where another trial is ahead of it by more than what is uncertain of either."""

from __future__ import annotations

import numpy as np
import pytest

from agent.records import Score
from agent.scoring.hopeless import SCATTER, SURENESS, LiveScore, Rival, winner
from agent.scoring.information import score_spectrum
from agent.scoring.ring_correlation import Spectrum


def score(frc: float, pairs: float = 200.0) -> Score:
    """Of ten rings alike."""
    edges = np.linspace(0.15, 1.15, 11)
    return score_spectrum(Spectrum(edges, np.full(10, frc), np.full(10, pairs)))


def rival(frc: float, dose: float = 1e3, number: int = 1) -> Rival:
    return Rival(number, score(frc), dose)


def test_a_scan_that_is_far_behind_loses_against_the_best() -> None:
    lost = winner(LiveScore(score(0.02), 0.5), 1e3, [rival(0.5), rival(0.7, number=2), rival(0.6, number=3)])
    assert lost is not None
    assert lost[0].number == 2
    assert lost[1] == pytest.approx(score(0.7).value)


def test_one_that_is_behind_by_less_than_its_uncertainty_goes_on() -> None:
    live = LiveScore(score(0.4), 0.5)
    assert winner(live, 1e3, [rival(0.5)]) is None
    expected = live.expected()
    assert expected.sd > SCATTER * expected.value, "beginnings tell little"
    uncertain = LiveScore(score(0.02, pairs=3.6), 0.5)
    assert winner(uncertain, 1e3, [rival(0.5)]) is None, "few rings tell little"


def test_nothing_is_given_up_without_a_trial_to_compare_with() -> None:
    assert winner(LiveScore(score(0.0), 0.5), 1e3, []) is None
    assert winner(LiveScore(score(0.0), 0.5), 1e3, [rival(0.9, dose=1e4)]) is None, "another dose has other settings"


def test_trials_of_another_dose_are_compared_at_the_same() -> None:
    live, best = LiveScore(score(0.05), 0.5), rival(0.3, dose=2e3)
    lost = winner(live, 1e3, [best])
    assert lost is None or lost[1] < best.score.value
    assert SURENESS >= 2.06, "false stops are at most 2 %"
