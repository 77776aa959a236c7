"""A plan is graded before the first electron: what is dangerous is bad, what is tight asks for care."""

from __future__ import annotations

from typing import Any

import pytest
from examples import description, detector, square

from agent.campaign.dry_run import DryRun
from agent.campaign.grades import grade
from agent.config import CampaignConfig, parse_config
from agent.records import CampaignLayout, Recommendation, Settings, Suggestion

PLENTY = 1e12


def config(**changes: Any) -> CampaignConfig:
    values: dict[str, Any] = {
        "name": "g",
        "electrons": 1e7,
        "area": {"height": 32, "width": 32},
        "exploration": {"trials": 6, "height": 24, "width": 24},
    }
    return parse_config(values | changes, "test")


def plan(step: float = 0.6, defocus: float = 300.0, **changes: Any) -> DryRun:
    settings = Settings(step=step, defocus=defocus, dose=4000.0)
    values: dict[str, Any] = {
        "trials": 6,
        "acquisitions": 7,
        "electrons": 1e7,
        "exploration_electrons": 3e6,
        "final_dose": 5000.0,
        "duration": 60.0,
        "first": Suggestion(settings=settings, source="sobol", reason=""),
        "layout": CampaignLayout(final=square(32), expert=None, exploration=(square(24),) * 6, margin=20),
        "description": description(detector=detector(128, 0.8)),
        "expected": Recommendation(settings=settings, predicted=5.0, predicted_sd=0.8),
    }
    return DryRun(**(values | changes))


def test_a_sound_plan_is_good_throughout_and_needs_no_advice() -> None:
    graded = grade(plan(), config(), PLENTY)
    assert {each.verdict for each in graded} == {"good"}
    assert not any(each.advice for each in graded)


@pytest.mark.parametrize(
    ("found", "changes", "subject", "verdict"),
    [
        (plan(step=6.0, defocus=300.0), {}, "overlap", "careful"),
        (plan(step=13.0, defocus=300.0), {}, "overlap", "bad"),
        (plan(defocus=1400.0), {}, "window", "bad"),
        (plan(duration=90.0), {"time_limit": 60.0}, "time", "bad"),
        (plan(duration=50.0), {"time_limit": 60.0}, "time", "careful"),
        (plan(description=description(detector=detector(128, 0.8), region_dose_limit=4000.0)), {}, "damage", "bad"),
        (plan(), {"free": 1e6}, "disk", "bad"),
        (plan(expected=None), {}, "expected score", "careful"),
        (plan(exploration_electrons=3e7), {}, "budget", "careful"),
        (plan(final_dose=20.0), {}, "frame rate", "careful"),
    ],
)
def test_what_is_tight_or_dangerous_is_said(found: DryRun, changes: dict[str, Any], subject: str, verdict: str) -> None:
    changes = dict(changes)
    free = changes.pop("free", PLENTY)
    graded = {each.subject: each for each in grade(found, config(**changes), free)}
    assert graded[subject].verdict == verdict
    assert graded[subject].advice
