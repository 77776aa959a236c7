"""Two passes over a field: the same electrons and area as one, each half of them between the other's positions."""

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
from instrument.models import AcquisitionPlan, Rectangle

INTERLACINGS = ("offset", "checkerboard")


def two(interlacing: str = "offset", **changes: Any) -> AcquisitionPlan:
    field = Rectangle(y=10, x=20, height=10, width=14)
    return plan(field=field, **({"step": 2.0, "dose": 10.0} | changes), passes=2, interlacing=interlacing)


def test_offset_passes_visit_every_cell_twice_half_a_step_apart_along_both_axes() -> None:
    wanted = two()
    first, second = (wanted.scan_positions()[wanted.pass_index() == k] for k in (0, 1))
    assert len(first) == len(second) == wanted.n_cells == 35
    np.testing.assert_allclose(second - first, 1.0)
    np.testing.assert_allclose((first + second) / 2, wanted.model_copy(update={"passes": 1}).scan_positions())
    assert wanted.field.contains(Rectangle(y=10.5, x=20.5, height=9, width=13))
    assert (first.min(axis=0) == (10.5, 20.5)).all()
    assert (second.max(axis=0) == (19.5, 33.5)).all()


def test_checkerboard_passes_visit_every_cell_once() -> None:
    wanted = two("checkerboard")
    cells = (wanted.scan_positions() - (11, 21)) / 2
    np.testing.assert_array_equal(cells.sum(axis=1) % 2, wanted.pass_index())
    assert len(np.unique(cells, axis=0)) == wanted.n_positions == 35


@pytest.mark.parametrize("interlacing", INTERLACINGS)
def test_two_passes_take_the_electrons_of_one(interlacing: str, tmp_path: Path) -> None:
    wanted = two(interlacing)
    assert wanted.electrons == pytest.approx(10.0 * 4.0 * 35)
    ledger = Ledger(tmp_path)
    ledger.open_campaign("c", 1e6)
    ledger.reserve(wanted, check(wanted), None)
    assert ledger.accumulated_dose(wanted.field) == pytest.approx(10.0)
    ledger.close()


@pytest.mark.parametrize("interlacing", INTERLACINGS)
def test_rasters_find_the_patterns_of_a_cell(interlacing: str) -> None:
    wanted = two(interlacing)
    rasters = wanted.rasters()
    assert sorted(np.concatenate([raster.ravel() for raster in rasters])) == list(range(wanted.n_positions))
    for raster in rasters:
        y, x = np.moveaxis(wanted.scan_positions()[raster], -1, 0)
        np.testing.assert_allclose(np.diff(y, axis=0), 2.0)
        np.testing.assert_allclose(np.diff(x, axis=1), 2.0)


def test_one_pass_goes_over_the_wire_as_it_did_before_there_were_two() -> None:
    text = plan(passes=1, interlacing="checkerboard").model_dump_json()
    assert "passes" not in text
    assert "interlacing" not in text
    assert AcquisitionPlan.model_validate_json(text).passes == 1
    assert AcquisitionPlan.model_validate_json(two("checkerboard").model_dump_json()) == two("checkerboard")


def test_an_instrument_that_does_not_offer_two_passes_refuses_them() -> None:
    with pytest.raises(OutOfLimitsError, match="two passes with offset interlacing are not possible here; legal: one;"):
        check_limits(two(dose=100.0), description())
    with pytest.raises(OutOfLimitsError, match="legal: one, or two with offset interlacing"):
        check_limits(two("checkerboard", dose=100.0), description(two_passes="offset"))


def test_the_limits_of_a_pattern_hold_for_those_of_each_pass() -> None:
    fewest = {"electrons_per_pattern": (30.0, 1e6), "dose": between(1.0, 1e6, "e/Å²")}
    check_limits(two("checkerboard"), description(two_passes="checkerboard", **fewest))
    with pytest.raises(OutOfLimitsError, match="in two passes puts 20 into a pattern; legal: 30 "):
        check_limits(two(), description(two_passes="offset", **fewest))


def test_explicit_positions_are_scanned_once() -> None:
    with pytest.raises(ValidationError, match="explicit positions are scanned once; set passes to 1"):
        two(positions=((11.0, 21.0), (12.0, 22.0)))
