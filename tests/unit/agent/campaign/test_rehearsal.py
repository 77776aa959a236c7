"""Before the first electron: what would fail after it fails on made-up counts, with the key that it hangs on."""

from __future__ import annotations

import sys
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from examples import description, detector
from pydantic import ValidationError

from agent.campaign.layout import plan_layout
from agent.campaign.rehearsal import rehearse
from agent.config import CampaignConfig, ScoreChoice
from agent.errors import BadInputError
from agent.records import Settings, Suggestion
from instrument import Description


def config(**changes: Any) -> CampaignConfig:
    values: dict[str, Any] = {
        "name": "mine",
        "electrons": 1e7,
        "area": {"height": 32, "width": 32},
        "exploration": {"trials": 2, "height": 24, "width": 24},
        "search": {"defocus": (-200, 200)},
    }
    return CampaignConfig.model_validate(values | changes)


def rehearsed(wanted: CampaignConfig, offered: Description | None = None) -> None:
    offered = offered or description()
    rehearse(wanted, offered, plan_layout(offered, wanted))


def test_a_sound_campaign_is_rehearsed_in_a_moment():
    began = time.process_time()
    rehearsed(config(metadata={"sample": "MoS₂ <b>&", "comment": "ä" * 5000}))
    assert time.process_time() - began < 2


def test_a_sample_name_with_a_nul_costs_no_trial():
    rehearsed(config(metadata={"sample": "gold\0foil", "operator": "\0", "comment": "\x1b[2J"}))


def test_a_score_band_beyond_the_detector_is_refused_with_what_there_is():
    with pytest.raises(BadInputError, match=r"score: between k_min 2 and k_max 3 1/Å no ring .* up to 1\.26 1/Å"):
        rehearsed(config(score={"k_min": 2.0, "k_max": 3.0}))


def test_a_score_band_between_two_fourier_pixels_is_refused():
    with pytest.raises(BadInputError, match="has enough Fourier pixels"):
        rehearsed(config(score={"k_min": 0.0, "k_max": 0.03, "ring_width": 0.01}))


@pytest.mark.parametrize("wrong", [{"k_max": 1e6}, {"ring_width": 1e-9}])
def test_more_rings_than_anybody_can_draw_are_refused(wrong: dict[str, float]):
    with pytest.raises(ValidationError, match="at most 10000"):
        ScoreChoice.model_validate(wrong)


def test_a_detector_of_two_dead_corners_and_bytes_is_rehearsed_as_well():
    small = detector(16, 5.0, dtype="uint8", saturation=255, dead_pixels=((0, 0), (15, 15)))
    rehearsed(config(passes=1), description(detector=small))
    assert np.dtype(small.dtype).itemsize == 1


def test_a_score_of_ones_own_that_fails_is_refused_with_its_name():
    with pytest.raises(
        BadInputError, match=r"score\.function math:hypot: cannot be used, as a made-up acquisition shows"
    ):
        rehearsed(config(score={"function": "math:hypot"}))


def test_a_policy_of_ones_own_is_asked_for_its_recommendation_before_it_matters(monkeypatch: pytest.MonkeyPatch):
    class Forgetful:
        name = "forgetful"

        def __init__(self, problem: Any, seed: int) -> None:
            self._problem, self._seed = problem, seed

        def ingest(self, observations: Any) -> None:
            pass

        def suggest(self, n_points: int = 1) -> list[Suggestion]:
            return [Suggestion(settings=Settings(step=1.0, defocus=0.0, dose=100.0), source="own", reason="why not")]

        def recommend(self, electrons_left: float) -> Any:
            raise NotImplementedError

        def view(self, electrons_left: float) -> None:
            return None

    monkeypatch.setitem(sys.modules, "theirs", SimpleNamespace(Forgetful=Forgetful))
    with pytest.raises(BadInputError, match=r"policy theirs:Forgetful: cannot be used, .*NotImplementedError"):
        rehearsed(config(policy="theirs:Forgetful"))
