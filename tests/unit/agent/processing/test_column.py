"""What the column is said to be, with uncertainties: a defocus that no probe of the window can have is never taken in silence."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from examples import description, detector

from agent.processing.column import Measured, measure_column
from agent.processing.column_state import ColumnState
from agent.reconstruction import DiffractionData, Tuned
from instrument.optics import detector_to_scan

DESCRIPTION = description(semiangle=20.0, detector=detector(16, 4.0))


def measured(nominal: float, offset: float) -> Measured:
    """An acquisition at a nominal defocus, of a column whose defocus was last measured `offset` Å above the nominal."""
    data = DiffractionData(
        patterns=np.ones((16, 16, 16), np.uint16),
        positions=np.zeros((16, 2)),
        voltage=80e3,
        semiangle=20.0,
        angular_pixel=4.0,
        defocus=nominal,
    )
    known = ColumnState(centre=(8.0, 8.0), matrix=np.eye(2), defocus_offset=offset)
    return measure_column(data, DESCRIPTION, raster=None, known=known, enabled=False, on_progress=lambda fraction: None)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_defocus_beyond_the_window_is_said_and_the_largest_that_fits_is_used(sign: int) -> None:
    limit = measured(0.0, 0.0).data.largest_defocus
    found = measured(sign * (limit - 5), sign * 20.0)
    assert found.data.defocus == pytest.approx(sign * limit)
    (note,) = found.notes
    assert f"defocus of {sign * (limit + 15):.4g} Å" in note
    assert f"{sign * limit:.4g} Å, the largest that fits" in note


def test_a_defocus_within_the_window_is_taken_as_it_was_measured() -> None:
    found = measured(100.0, 20.0)
    assert found.data.defocus == 120.0
    assert found.notes == ()


def tuned(data: DiffractionData, *, improved: bool = True) -> Tuned:
    """What `find` finds: astigmatism along 30°, and every standard deviation."""
    found = replace(
        data,
        defocus=103.0,
        detector_to_scan=detector_to_scan(0.2, True),
        aberrations={"C12": 20.0, "phi12": np.radians(30.0)},
    )
    sd = {"defocus": 1.5, "C12a": 2.0, "C12b": 4.0, "rotation": 0.01}
    return Tuned(
        found if improved else data, sd, 1.0, 1, improved, doubt="" if improved else "two explain the counts alike"
    )


def first_acquisition(monkeypatch: pytest.MonkeyPatch, *, improved: bool = True) -> Measured:
    disc = np.hypot(*np.indices((16, 16)) - 7.5) < 5
    data = DiffractionData(
        patterns=np.random.default_rng(0).poisson(100.0 * disc, (64, 16, 16)).astype(np.uint16),
        positions=np.zeros((64, 2)),
        voltage=80e3,
        semiangle=20.0,
        angular_pixel=4.0,
        defocus=100.0,
    )
    monkeypatch.setattr("agent.reconstruction.find", lambda data, widths, **_: tuned(data, improved=improved))
    monkeypatch.setattr("agent.reconstruction.deviance_of_part", lambda data: 1.0)
    advertised = DESCRIPTION.model_copy(update={"scan_rotation": 0.19, "mirrored": True})
    return measure_column(data, advertised, raster=None, known=None, enabled=True, on_progress=lambda fraction: None)


def test_what_was_measured_is_carried_with_its_uncertainty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = first_acquisition(monkeypatch)
    found.state.save(tmp_path / "column.json")
    state = ColumnState.load(tmp_path / "column.json")
    optics = state.optics_at(103.0)
    assert optics.rotation == pytest.approx(0.2)
    assert optics.mirrored
    assert optics.centre == pytest.approx((7.5, 7.5), abs=0.1)
    assert optics.sd["defocus"] == 1.5
    assert optics.sd["rotation"] == 0.01
    assert 0 < optics.sd["row"] < 0.1
    # at 2φ = 60°: along, √((2 cos)² + (4 sin)²); across, √((2 sin)² + (4 cos)²), over 2 C12 for the angle
    assert optics.sd["C12"] == pytest.approx(np.hypot(1.0, 4 * np.sqrt(0.75)))
    assert optics.sd["phi12"] == pytest.approx(np.hypot(2 * np.sqrt(0.75), 2.0) / 40)
    assert optics.handedness is None, "the instrument says it"
    (note,) = found.notes
    assert "rotation 11.46 ± 0.6°" in note


def test_the_next_acquisition_keeps_what_belongs_to_the_column_and_measures_its_defocus(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known = first_acquisition(monkeypatch).state
    known = replace(known, sd={**known.sd, "defocus": 99.0})
    data = DiffractionData(np.ones((16, 16, 16), np.uint16), np.zeros((16, 2)), 80e3, 20.0, 4.0, 100.0)
    again = measure_column(data, DESCRIPTION, raster=None, known=known, enabled=True, on_progress=lambda fraction: None)
    assert again.state.sd["defocus"] == 1.5
    assert again.state.sd["rotation"] == 0.01


@pytest.mark.parametrize(("counts", "asked"), [(1, {"defocus"}), (100, {"defocus", "rotation"})])
def test_few_counts_are_asked_for_their_defocus_only_and_leave_the_column_alone(
    counts: int, asked: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = first_acquisition(monkeypatch).state
    assert known.counts > 0
    names: set[str] = set()

    def find(data: DiffractionData, widths: dict[str, float], **_: object) -> Tuned:
        names.update(widths)
        return tuned(data)

    monkeypatch.setattr("agent.reconstruction.find", find)
    data = DiffractionData(np.full((64, 16, 16), counts, np.uint16), np.zeros((64, 2)), 80e3, 20.0, 4.0, 100.0)
    again = measure_column(data, DESCRIPTION, raster=None, known=known, enabled=True, on_progress=lambda fraction: None)
    assert names >= asked
    assert ("rotation" in names) == ("rotation" in asked)
    assert again.state.counts >= known.counts


def test_counts_that_tell_nothing_of_the_optics_are_said_to(monkeypatch: pytest.MonkeyPatch) -> None:
    found = first_acquisition(monkeypatch, improved=False)
    assert set(found.state.sd) == {"row", "column"}
    (note,) = found.notes
    assert "do not tell the defocus" in note
    assert "two explain the counts alike" in note, "why"


def test_a_column_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    old = {"centre": [8.0, 8.0], "detector_to_scan": [[1, 0], [0, 1]], "defocus_offset_A": 3.0, "aberrations": {}}
    (tmp_path / "column.json").write_text(json.dumps({**old, "aperture": "round"}))
    assert ColumnState.load(tmp_path / "column.json").sd == {}


@pytest.mark.parametrize(("before", "centre"), [(20.0, 8.0), (12.0, 7.0)])
def test_another_aperture_has_its_own_centre_and_the_column_keeps_the_rest(before: float, centre: float) -> None:
    rows, columns = np.indices((16, 16)) - 7.0
    data = DiffractionData(
        patterns=np.repeat((200 * (np.hypot(rows, columns) < 5)).astype(np.uint16)[None], 16, axis=0),
        positions=np.zeros((16, 2)),
        voltage=80e3,
        semiangle=20.0,
        angular_pixel=4.0,
        defocus=50.0,
    )
    known = ColumnState(
        centre=(8.0, 8.0),
        matrix=np.eye(2),
        defocus_offset=20.0,
        aberrations={"C12": 15.0},
        source_size=0.5,
        widths={"row": 0.01, "C12a": 1.0},
        semiangle=before,
    )
    found = measure_column(
        data, DESCRIPTION, raster=None, known=known, enabled=False, on_progress=lambda fraction: None
    )
    assert found.data.centre == pytest.approx((centre, centre), abs=0.1)
    assert (found.data.aberrations, found.data.source_size, found.data.defocus) == ({"C12": 15.0}, 0.5, 70.0)
    assert found.state.semiangle == 20.0 or before == 20.0
    assert ("row" in found.state.widths) == (before == 20.0)
