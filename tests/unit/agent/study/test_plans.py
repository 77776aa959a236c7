"""What a study tries on a column is what a careful operator, or the command line, would try."""

from __future__ import annotations

import math

import examples
import pytest

from agent.study.plans import Wanted, calibration_plans, score_plans
from instrument import optics

COLUMN = examples.description()


def test_a_first_acquisition_fills_a_third_of_the_window() -> None:
    (planned,) = calibration_plans(0, COLUMN, Wanted())
    plan = planned.plan
    disc = optics.probe_diameter(COLUMN.semiangle, plan.defocus, COLUMN.voltage)
    window = 1 / optics.spatial_frequency(COLUMN.detector.angular_pixel, COLUMN.voltage)
    assert disc == pytest.approx(window / 3)
    assert plan.step == pytest.approx(min(0.18 * disc, 2.0))
    assert min(plan.shape) >= 21
    assert plan.field.height >= 24
    assert (plan.dose, plan.passes) == (1e4, 1)


def test_a_column_that_cannot_go_so_far_begins_nearer_to_focus() -> None:
    near = examples.description(defocus=examples.between(-50, 50))
    (planned,) = calibration_plans(0, near, Wanted())
    assert planned.plan.defocus == 50
    assert 0.4 <= planned.plan.step < 0.5


def test_the_command_line_has_the_last_word() -> None:
    wanted = Wanted(doses=(1e3, 1e5), steps=(0.8,), defoci=(-40, 40))
    plans = [planned.plan for planned in calibration_plans(0, COLUMN, wanted)]
    assert {(p.step, p.defocus, p.dose) for p in plans} == {(0.8, d, e) for d in (-40, 40) for e in (1e3, 1e5)}
    assert len({p.id for p in plans}) == 4


def test_each_setting_is_scored_in_two_passes_and_in_one_at_a_fresh_place() -> None:
    first, *others = score_plans(0, COLUMN, Wanted(quick=True))
    assert first.scored is None
    assert len(others) == 2 * 6
    for two, one in zip(others[::2], others[1::2], strict=True):
        assert (two.plan.passes, one.plan.passes) == (2, 1)
        assert two.scored == one.scored
        assert two.plan.field.contains(two.scored.grown(1.0))  # type: ignore[union-attr]
        assert math.isclose(two.plan.field.height / two.plan.step, two.plan.shape[0])
    fields = [planned.plan.field for planned in (first, *others[::2])]
    assert not any(a.overlaps(b) for i, a in enumerate(fields) for b in fields[:i])
    assert all(COLUMN.area.contains(field) for field in fields)
