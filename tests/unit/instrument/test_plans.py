"""Scan patterns: every one visits the same cells once, in its own order; what an instrument does not offer is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from examples import between, check, description, plan
from pydantic import ValidationError

from instrument.errors import OutOfLimitsError
from instrument.ledger import Ledger
from instrument.limits import check_limits
from instrument.models import AcquisitionPlan, Description, Rectangle

FIELD = Rectangle(y=10, x=20, height=10, width=14)
PATTERNS = ("raster", "serpentine", "spiral")


def scan(pattern: str, **changes: Any) -> AcquisitionPlan:
    return plan(**({"field": FIELD, "step": 2.0, "dose": 10.0, "pattern": pattern} | changes))


def offering(*patterns: str, **changes: Any) -> Description:
    limits = {"step": between(0.5, 4), "dose": between(1, 1e4), "defocus": between(-200, 200)}
    return description(scan_patterns=patterns, electrons_per_pattern=(1, 1e6), area=FIELD.grown(5), **limits, **changes)


@pytest.mark.parametrize("passes", [{}, {"passes": 2}, {"passes": 2, "interlacing": "checkerboard"}])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_pattern_visits_the_cells_of_the_raster_once(pattern: str, passes: dict[str, Any]) -> None:
    wanted, raster = scan(pattern, **passes), scan("raster", **passes)
    assert wanted.electrons == raster.electrons
    for own, other in zip(wanted.rasters(), raster.rasters(), strict=True):
        np.testing.assert_allclose(wanted.scan_positions()[own], raster.scan_positions()[other])
        np.testing.assert_array_equal(wanted.pass_index()[own], raster.pass_index()[other])


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (6, 1), (5, 7), (8, 8), (7, 4)])
@pytest.mark.parametrize("pattern", ["serpentine", "spiral"])
def test_a_serpentine_and_a_spiral_never_jump(pattern: str, size: tuple[int, int]) -> None:
    wanted = scan(pattern, field=Rectangle(y=0, x=0, height=2 * size[0], width=2 * size[1]))
    steps = np.abs(np.diff(wanted.scan_positions(), axis=0)).sum(axis=1)
    np.testing.assert_allclose(steps, 2.0)


def test_a_spiral_begins_in_the_middle_and_ends_at_the_edge() -> None:
    wanted = scan("spiral", field=Rectangle(y=0, x=0, height=14, width=14))
    distance = np.abs(wanted.scan_positions() - 7.0).max(axis=1)
    assert distance[0] == 0.0
    assert (np.diff(distance) >= 0).all(), "ring by ring"


def test_flyback_is_between_rows_or_between_passes() -> None:
    assert [scan(pattern).line_length for pattern in PATTERNS] == [7, 35, 35]
    assert [scan(pattern, passes=2).line_length for pattern in PATTERNS] == [7, 35, 35]
    assert scan("raster", positions=((12, 22), (13, 25))).line_length == 2


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"pattern": "spiral"}, "a spiral scan is not possible here; legal: raster, serpentine; change the pattern"),
        (
            {"pattern": "raster", "positions": ((12, 22),)},
            "explicit positions are not possible here; legal: raster, serpentine; leave positions out",
        ),
    ],
)
def test_what_is_not_offered_is_refused_with_what_is(changes: dict[str, Any], sentence: str) -> None:
    check_limits(scan("serpentine"), offering("raster", "serpentine"))
    with pytest.raises(OutOfLimitsError, match=sentence):
        check_limits(scan(**changes), offering("raster", "serpentine"))
    check_limits(scan(**changes), offering("raster", "spiral", "positions"))


def test_positions_have_an_order_of_their_own() -> None:
    with pytest.raises(ValidationError, match="positions have an order of their own; leave pattern spiral out"):
        scan("spiral", positions=((12, 22),))


def test_older_instruments_and_files_understand_a_raster() -> None:
    assert "pattern" not in scan("raster").model_dump()
    assert AcquisitionPlan.model_validate_json(scan("spiral").model_dump_json()) == scan("spiral")
    told = description().model_dump()
    for new in ("scan_patterns", "line_trigger", "flyback_blanked"):
        told.pop(new)
    assert Description.model_validate(told).scan_patterns == ("raster",)


def test_positions_on_top_of_each_other_are_booked_with_all_their_dose(tmp_path: Path) -> None:
    apart = plan(field=FIELD, step=2.0, dose=10.0, positions=tuple((y, 22.0) for y in (11.0, 13.0, 15.0, 17.0)))
    piled = apart.model_copy(update={"id": "piled", "positions": ((11.0, 22.0),) * 4})
    assert (apart.crowding, piled.crowding) == (1, 4)
    ledger = Ledger(tmp_path)
    ledger.open_campaign("c", 1e6)
    ledger.reserve(apart, check(apart), None)
    assert ledger.accumulated_dose(FIELD) == pytest.approx(10.0)
    ledger.reserve(piled, check(piled), None)
    assert ledger.accumulated_dose(FIELD) == pytest.approx(50.0)
    ledger.close()


def test_dwell_times_are_what_puts_the_legal_electrons_into_a_pattern() -> None:
    told = description(beam_current=10.0, electrons_per_pattern_values=(624.15, 6241.5))
    assert told.dwell_times == pytest.approx((1e-5, 1e-4), rel=1e-4)
    assert description(beam_current=10.0).dwell_times is None
