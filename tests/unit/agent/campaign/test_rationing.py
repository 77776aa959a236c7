"""A recording that is used up is shared out, so that the last acquisition finds counts like the first."""

from __future__ import annotations

from typing import Any

import pytest
from examples import between, description, detector, one_of, square

from agent.campaign.planning import ration
from agent.config import CampaignConfig
from agent.records import Settings, Suggestion, Trial
from instrument.models import Description

CONFIG = CampaignConfig.model_validate(
    {
        "name": "t",
        "electrons": 1e9,
        "area": {"height": 100, "width": 100},
        "exploration": {"trials": 4, "height": 100, "width": 100, "share": 0.6},
    }
)


def recording(left: float) -> Description:
    return description(
        detector=detector(8, 0.1, counts_per_electron=None),
        step=one_of(1.0, 2.0),
        defocus=one_of(1000.0),
        dose=between(1, 1000, "counts/Å²"),
        electrons_per_pattern=(1.0, left),
        area=square(100),
        repeatable=True,
    )


def trial(number: int, per_pattern: float, role: Any = "exploration") -> Trial:
    settings = Settings(step=2.0, defocus=1000, dose=per_pattern / 4)
    suggestion = Suggestion(settings=settings, source="sobol", reason="")
    return Trial(number=number, role=role, state="done", suggestion=suggestion, electrons=1e6)


def largest(description: Description, trials: list[Trial], *, final: bool = False) -> float:
    return ration(description, recording(1000.0), trials, CONFIG, final=final).electrons_per_pattern[1]


def test_every_trial_that_takes_all_it_may_leaves_the_same_to_the_next() -> None:
    trials = [trial(1, 500.0, "reference")]
    for number in range(2, 6):
        allowed = largest(recording(500.0), trials)
        assert allowed == pytest.approx(0.6 * 500 / 4)
        trials.append(trial(number, allowed))
    assert largest(recording(500.0), trials, final=True) == pytest.approx(0.4 * 500)


def test_what_a_trial_leaves_goes_to_the_others() -> None:
    trials = [trial(1, 500.0, "reference"), trial(2, 15.0)]
    assert largest(recording(500.0), trials) == pytest.approx((300 - 15) / 3)


def test_a_trial_that_was_refused_has_taken_nothing() -> None:
    refused = trial(2, 400.0).model_copy(update={"state": "failed", "electrons": 0.0})
    assert largest(recording(500.0), [trial(1, 500.0, "reference"), refused]) == pytest.approx(300 / 4)
