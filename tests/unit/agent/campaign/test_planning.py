"""In how many passes a campaign scans, and what that asks of its settings."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from examples import description, plan, square

from agent.campaign.planning import expert_settings, with_electrons
from agent.campaign.rehearsal import made_up_plan
from agent.config import CampaignConfig, electrons_per_cell, interlacing
from agent.policy import SearchSpace
from agent.records import Settings
from instrument.limits import check_limits
from instrument.models import Aperture


def config(**changes: Any) -> CampaignConfig:
    values: dict[str, Any] = {
        "name": "t",
        "electrons": 1e6,
        "area": {"height": 30, "width": 30},
        "exploration": {"trials": 4, "height": 20, "width": 20},
        "expert": (0.85, 500.0),
    }
    return CampaignConfig.model_validate({**values, **changes})


OFFSET = description(two_passes="offset", electrons_per_pattern=(1000.0, 1e5))


def test_two_passes_are_the_default_where_the_instrument_offers_them() -> None:
    assert interlacing(config(), OFFSET) == "offset"
    assert interlacing(config(passes=1), OFFSET) is None
    assert interlacing(config(), description()) is None


@pytest.mark.parametrize(("passes", "smallest"), [(1, 1.0), (2, np.sqrt(2))])
def test_the_smallest_step_leaves_each_pass_the_electrons_a_pattern_needs(passes: int, smallest: float) -> None:
    wanted = config(passes=passes)
    assert electrons_per_cell(wanted, OFFSET) == (passes * 1000.0, passes * 1e5)
    space = SearchSpace(OFFSET, wanted)
    low, _ = space.step_interval(np.array([200.0]), dose_max=1000.0)
    assert low[0] == pytest.approx(smallest)
    assert space.why_illegal(Settings(step=1.01 * smallest, defocus=200, dose=1000)) is None
    assert "electrons per" in str(space.why_illegal(Settings(step=0.99 * smallest, defocus=200, dose=1000)))


def test_an_expert_too_fast_for_two_passes_gets_as_many_patterns_on_wider_rasters() -> None:
    field = square(34.0)
    final = plan("final", field=field, step=2.0, dose=2000.0, passes=2)
    slow = expert_settings(config(), final, field, OFFSET)
    assert slow.settings.step == pytest.approx(0.85 * np.sqrt(2))
    assert "√2 times the step of 0.85 Å" in slow.reason
    fast = expert_settings(config(), final, field, description(two_passes="offset"))
    assert fast.settings.step == 0.85
    for suggestion in (slow, fast):
        settings = suggestion.settings
        scanned = final.model_copy(update={"step": settings.step, "dose": settings.dose})
        assert scanned.electrons == pytest.approx(final.electrons)


APERTURES = description(
    apertures=(Aperture(semiangle=10.7), Aperture(semiangle=21.4), Aperture(semiangle=42.8)), two_passes="offset"
)


def test_minutes_of_beam_suffice_with_every_aperture() -> None:
    searched = {"search": {"semiangle": "auto"}, "electrons": 0, "budget": {"minutes": 1.0}}
    through_all = with_electrons(config(**searched), APERTURES)
    through_one = with_electrons(config(**searched | {"search": {}}), APERTURES)
    assert through_all.electrons == pytest.approx(through_one.electrons / 4)


def test_the_expert_compares_through_the_usual_aperture_where_that_is_offered() -> None:
    final = plan("final", field=square(34.0), step=2.0, dose=2000.0, passes=2, semiangle=10.7)
    searched = config(search={"semiangle": [10.7, 42.8]})
    assert expert_settings(searched, final, square(34.0), APERTURES).settings.semiangle == 21.4
    assert expert_settings(config(), final, square(34.0), description()).settings.semiangle is None


def test_a_plan_takes_no_more_electrons_than_its_aperture_gives() -> None:
    narrow = description(apertures=APERTURES.apertures, electrons_per_pattern=(10.0, 1000.0))
    settings = Settings(step=1.0, defocus=100.0, dose=1e5, semiangle=10.7)
    made = made_up_plan(config(search={"semiangle": "auto"}), narrow, square(20.0, 100.0, 100.0), settings)
    assert (made.semiangle, made.electrons_per_pattern) == (10.7, 250.0)
    check_limits(made, narrow)
