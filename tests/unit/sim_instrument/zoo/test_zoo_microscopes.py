# SPDX-License-Identifier: GPL-3.0-or-later
"""Each column of the zoo as a microscope: what it describes is what it does, and the agent proposes nothing else."""

from __future__ import annotations

from contextlib import aclosing

import numpy as np
import pytest

from agent.config import AreaOfInterest, CampaignConfig, Exploration
from agent.policy import SearchSpace
from agent.policy.coordinates import as_settings
from instrument import AcquisitionPlan, Description, OutOfLimitsError, Rectangle
from instrument.limits import with_legal_dose
from sim_instrument import Column, SimulatedMicroscope, SpecimenOptions
from sim_instrument.zoo import COLUMNS, random_column

VACUUM = SpecimenOptions(material="vacuum")
CAMPAIGN = CampaignConfig(
    name="t",
    electrons=1e8,
    area=AreaOfInterest(height=60, width=60),
    exploration=Exploration(height=40, width=40, trials=4, initial=2),
)
SOME = {**COLUMNS, **{f"random-{seed}": random_column(seed) for seed in range(12)}}


def plan(description: Description, step: float, defocus: float, dose: float, rows: int = 2) -> AcquisitionPlan:
    area = description.area
    field = Rectangle(y=area.y, x=area.x, height=rows * step, width=3 * step)
    values = {"id": "a1", "campaign": "c", "region": "r", "field": field}
    return AcquisitionPlan(**values, step=step, defocus=defocus, dose=dose)


@pytest.mark.parametrize("column", SOME.values(), ids=SOME)
async def test_from_the_description_to_a_legal_plan_to_counts(column: Column) -> None:
    microscope = SimulatedMicroscope(VACUUM, column)
    description = await microscope.describe()
    scan = with_legal_dose(plan(description, 2.0, 100.0, 2000.0), description)
    check = await microscope.check(scan)
    assert check.electrons >= scan.electrons * (1 - 1e-6)
    assert check.duration >= check.n_positions * (check.dwell_time + column.readout)
    if column.dwell_times is not None:
        assert min(abs(check.dwell_time / time - 1) for time in column.dwell_times) < 1e-6
    async with aclosing(microscope.acquire(scan)) as frames:  # type: ignore[type-var]
        counts = np.array([frame.pattern.sum() async for frame in frames])
    assert counts.shape == (6,)
    assert counts.mean() == pytest.approx(scan.electrons_per_pattern, rel=0.1)
    microscope.close()


@pytest.mark.parametrize("passes", [1, 2])
@pytest.mark.parametrize("column", SOME.values(), ids=SOME)
async def test_the_agent_draws_only_what_the_microscope_takes(column: Column, passes: int) -> None:
    microscope = SimulatedMicroscope(VACUUM, column)
    description = await microscope.describe()
    space = SearchSpace(description, CAMPAIGN.model_copy(update={"passes": passes}))
    points = space.draw(np.random.default_rng(0).random((30, 3)), dose_max=1e5)
    assert len(points) >= 10
    for settings in map(as_settings, points):
        scan = plan(description, settings.step, settings.defocus, settings.dose)
        await microscope.check(scan.model_copy(update={"passes": passes}))
    microscope.close()


async def test_a_dwell_time_that_the_scan_engine_does_not_have_is_refused_with_those_it_has() -> None:
    microscope = SimulatedMicroscope(VACUUM, COLUMNS["mono-300"])
    description = await microscope.describe()
    (electrons,) = description.electrons_per_pattern_values or ()
    with pytest.raises(OutOfLimitsError, match=f"legal at this step: {electrons / 4:.7g} e/Å²; change the dose"):
        await microscope.check(plan(description, 2.0, 100.0, 1.001 * electrons / 4))
    twice = plan(description, 2.0, 100.0, electrons / 4).model_copy(update={"passes": 2})
    with pytest.raises(OutOfLimitsError, match="no dwell time"):
        await microscope.check(twice)
    await microscope.check(twice.model_copy(update={"dose": 2 * twice.dose}))
    microscope.close()


async def test_lines_wait_for_the_mains_with_the_beam_off() -> None:
    """11.5 µs a position, but 1/60 s a line: 40 lines take 0.67 s and cost what their patterns hold."""
    microscope = SimulatedMicroscope(VACUUM, COLUMNS["mono-300"])
    description = await microscope.describe()
    scan = with_legal_dose(plan(description, 1.0, 100.0, 1000.0, rows=40), description)
    check = await microscope.check(scan)
    assert check.duration == pytest.approx(40 / 60 + microscope.column.settle)
    assert check.electrons == pytest.approx(scan.electrons)
    microscope.close()


async def test_dead_time_of_the_detector_is_paid_for() -> None:
    column = COLUMNS["schottky-60"]
    microscope = SimulatedMicroscope(VACUUM, column)
    description = await microscope.describe()
    scan = with_legal_dose(plan(description, 2.0, 100.0, 1e4), description)
    check = await microscope.check(scan)
    assert check.electrons == pytest.approx(scan.electrons + 6 * 0.86e-3 * column.electrons_per_second)
    microscope.close()
