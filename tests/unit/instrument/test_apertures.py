"""Condenser apertures: what an instrument offers, what a plan may name, and the beam that each gives."""

from __future__ import annotations

from typing import Any

import pytest
from examples import description, plan
from pydantic import ValidationError

from instrument import Aperture, OutOfLimitsError
from instrument.limits import check_limits, with_legal_dose
from instrument.models import AcquisitionPlan, Description
from instrument.terms import OwnersLimits


def offering(*angles: float, **changes: Any) -> Description:
    return description(apertures=tuple(Aperture(semiangle=angle) for angle in angles), **changes)


def test_the_current_goes_with_the_area_of_the_aperture_unless_it_is_said():
    told = offering(10.7, 21.4, electrons_per_pattern=(10.0, 2e5))
    small = told.through(10.7)
    assert (small.semiangle, small.beam_current) == (10.7, pytest.approx(2.5))
    assert small.electrons_per_pattern == pytest.approx((2.5, 5e4))
    assert told.through(None) is told
    assert told.through(21.4).beam_current == told.beam_current
    said = description(apertures=(Aperture(semiangle=10.7, beam_current=4.0), Aperture(semiangle=21.4)))
    assert said.through(10.7).beam_current == 4.0
    # A shortest dwell time goes with the current, a full disc with its area.
    assert said.through(10.7).electrons_per_pattern == pytest.approx((4.0, 5e4))


def test_fixed_dwell_times_give_the_electrons_of_the_apertures_own_current():
    told = offering(
        10.7, 21.4, electrons_per_pattern=(100.0, 400.0), electrons_per_pattern_values=(100.0, 200.0, 400.0)
    )
    small = told.through(10.7)
    assert small.electrons_per_pattern_values == pytest.approx((25.0, 50.0, 100.0))
    assert small.dwell_times == pytest.approx(told.dwell_times)
    legal = with_legal_dose(plan(dose=60.0, semiangle=10.7), told)
    assert legal.electrons_per_pattern == pytest.approx(50.0)
    with pytest.raises(OutOfLimitsError, match="no dwell time"):
        check_limits(plan(dose=200.0, semiangle=10.7), told)


@pytest.mark.parametrize("told", [offering(10.0, 21.4, 30.0), description()])
def test_a_semi_angle_that_no_aperture_gives_is_refused_with_those_that_are_legal(told: Description):
    legal = "10, 21.4, 30 mrad" if told.apertures else "21.4 mrad"
    with pytest.raises(OutOfLimitsError, match=f"semiangle of 25 mrad is not possible here; legal: {legal}"):
        check_limits(plan(dose=100.0, semiangle=25.0), told)
    check_limits(plan(dose=100.0, semiangle=21.4), told)
    check_limits(plan(dose=100.0), told)


@pytest.mark.parametrize("angles", [(10.0, 30.0), (21.4, 21.4), (10.0, 10.0, 21.4)])
def test_apertures_differ_and_the_present_one_is_among_them(angles: tuple[float, ...]):
    with pytest.raises(ValidationError, match="have to differ"):
        offering(*angles)


def test_a_plan_through_the_present_aperture_goes_over_the_wire_as_it_always_did():
    assert "semiangle" not in plan().model_dump(mode="json")
    chosen = plan(semiangle=30.0)
    assert AcquisitionPlan.model_validate_json(chosen.model_dump_json()) == chosen
    older = {name: value for name, value in description().model_dump(mode="json").items() if name != "apertures"}
    assert Description.from_wire(older) == description()


def test_an_owner_narrows_the_apertures_and_the_electrons_of_each():
    told = offering(10.7, 21.4, 30.0, electrons_per_pattern=(10.0, 2e5))
    narrowed = OwnersLimits(semiangle=(10.0, 25.0), electrons_per_pattern=(20.0, 1e4)).narrowed(told)
    assert narrowed.semiangles == (10.7, 21.4)
    assert narrowed.through(10.7).electrons_per_pattern == (20.0, 1e4)
    assert OwnersLimits(electrons_per_pattern=(6e4, 1e5)).narrowed(told).semiangles == (21.4, 30.0)
    assert "leaves out the present aperture" in OwnersLimits(semiangle=(25.0, 40.0)).wider(told)
    assert "offers none" in OwnersLimits(semiangle=(10.0, 40.0)).wider(description())
