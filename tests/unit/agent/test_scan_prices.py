"""What a scan costs besides its dose is asked for, and planned with, before the first trial."""

from __future__ import annotations

import asyncio
import math

import numpy as np
import pytest
from examples import between, description

from agent.campaign.planning import first_policy, overheads, plan_campaign
from agent.campaign.pricing import ask_prices, typical_settings
from agent.campaign.rehearsal import made_up_plan
from agent.config import CampaignConfig
from agent.errors import BadInputError
from agent.policy import Observation
from agent.records import Settings
from agent.scan_prices import Overhead, ScanPrices
from instrument.errors import OutOfLimitsError
from instrument.models import ELEMENTARY_CHARGE, AcquisitionPlan, Description, PlanCheck

RATE = 10e-12 / ELEMENTARY_CHARGE
"""Electrons per second of a beam of 10 pA."""


class Column:
    """An instrument with dead time, flyback and a line trigger, the beam on all the while; asked, it says what plans cost."""

    def __init__(self, readout: float = 0.0, flyback: float = 0.0, line_trigger: float = 0.0) -> None:
        self.readout, self.flyback, self.line_trigger = readout, flyback, line_trigger
        self.offered = description(step=between(0.5, 3.0), defocus=between(0.0, 300.0))

    async def check(self, plan: AcquisitionPlan) -> PlanCheck:
        if plan.step > 2.9999:
            raise OutOfLimitsError("the scan engine does not do that")
        dwell = plan.electrons_per_pattern / RATE
        line = plan.shape[1] * (dwell + self.readout) + self.flyback
        if self.line_trigger:
            line = math.ceil(line * self.line_trigger - 1e-9) / self.line_trigger
        seconds = line * plan.passes * plan.shape[0]
        return PlanCheck(
            n_positions=plan.n_positions,
            shape=plan.shape,
            dwell_time=dwell,
            electrons=seconds * RATE,
            duration=seconds + 0.1,
            bytes=0,
            illuminated=plan.field,
        )


def config(**changes: object) -> CampaignConfig:
    values = {
        "name": "t",
        "electrons": 6e6,
        "area": {"height": 30, "width": 30},
        "exploration": {"trials": 6, "height": 24, "width": 24},
        "prior": "none",
    }
    return CampaignConfig.model_validate(values | changes)


def asked(column: Column, wanted: CampaignConfig) -> ScanPrices:
    layout = plan_campaign(wanted, column.offered, [])
    plans = [
        made_up_plan(wanted, column.offered, field, settings)
        for field, settings in typical_settings(wanted, column.offered, layout)
    ]
    return asyncio.run(ask_prices(column, plans))  # type: ignore[arg-type]  # all that is asked of a client


def campaign(column: Column, wanted: CampaignConfig, prices: ScanPrices | None) -> tuple[int, Settings, float]:
    """Trials made, recommended settings, and what they cost over what was left."""
    offered: Description = column.offered
    layout = plan_campaign(wanted, offered, [])
    told: list[Observation] = []
    left = wanted.electrons
    for number in range(1, wanted.exploration.trials + 1):
        policy = first_policy(wanted, offered, layout, prices)
        policy.ingest(told)
        if not (suggested := policy.suggest(1)):
            break
        settings = suggested[0].settings
        cost = asyncio.run(column.check(made_up_plan(wanted, offered, layout.exploration[0], settings))).electrons
        left -= cost
        told.append(
            Observation(trial=number, settings=settings, state="done", score=2.0, variance=0.04, electrons=cost)
        )
    policy = first_policy(wanted, offered, layout, prices)
    policy.ingest(told)
    settings = policy.recommend(left).settings
    final = asyncio.run(column.check(made_up_plan(wanted, offered, layout.final, settings)))
    return len(told), settings, final.electrons / left


def test_what_lines_and_patterns_cost_is_found_from_what_plans_would_cost() -> None:
    prices = asked(Column(readout=2e-6, flyback=5e-4), config())
    assert prices.electrons == pytest.approx((2e-6 * RATE, 5e-4 * RATE, 0.0), rel=0.02, abs=1.0)
    assert prices.seconds == pytest.approx((2e-6, 5e-4, 0.1), rel=0.02)


def test_a_column_without_dead_times_charges_nothing_besides() -> None:
    assert asked(Column(), config()).electrons == pytest.approx((0, 0, 0), abs=1e-3)


@pytest.mark.parametrize("policy", ["botorch", "sobol", "ncem"])
@pytest.mark.parametrize(
    "column", [Column(flyback=5e-4), Column(flyback=1e-4, line_trigger=50)], ids=["flyback", "trigger"]
)
def test_flyback_is_planned_with_so_that_every_trial_is_made_and_the_final_dose_is_paid(
    column: Column, policy: str
) -> None:
    wanted = config(policy=policy, electrons=6e6 if not column.line_trigger else 4e8)
    prices = asked(column, wanted)
    trials, _, part = campaign(column, wanted, prices)
    assert trials == 6
    assert part < 1.1  # of a line trigger only the mean is known
    if not column.line_trigger:
        assert 0.8 < part < 1.03
        assert campaign(column, wanted, None)[0] < 6


def test_a_budget_that_flyback_eats_up_is_refused_with_what_it_takes() -> None:
    column, wanted = Column(flyback=5e-3), config()
    layout = plan_campaign(wanted, column.offered, [])
    with pytest.raises(
        BadInputError, match=r"6 trials at the smallest legal dose .* with what a scan takes besides .* need"
    ):
        first_policy(wanted, column.offered, layout, asked(column, wanted)).suggest(1)


def test_lines_cost_less_dose_where_they_are_long_and_far_apart() -> None:
    prices = ScanPrices(electrons=(0.0, 3000.0, 0.0), seconds=(0.0, 0.0, 0.0))
    wanted, offered = config(), description(two_passes="offset")
    found = overheads(wanted, offered, plan_campaign(wanted, offered, []), prices)
    assert found.trial(np.array([1.0, 2.0])) == pytest.approx([2 * 3000 / 24, 3000 / 24])
    assert found.final(np.array([1.0])) == pytest.approx([2 * 3000 / 30])
    assert Overhead(1.0, 2.0, 3.0)(np.array([2.0])) == pytest.approx([0.25 + 1 + 3])
