"""What is searched: integers, choices and switches stay what they are, and every point is a reconstruction."""

from __future__ import annotations

import numpy as np
import phantom
import pytest

from agent.reconstruction import DiffractionData, ReconstructionSettings
from agent.tuning.searcher import sobol
from agent.tuning.space import data_of, settings_of, space_of
from instrument import optics
from instrument.errors import BadInputError

DATA = phantom.experiment(positions=phantom.raster(2.0, 8.0), shape=(32, 32), angular_pixel=4.0, dose=1e3)
SETTINGS = ReconstructionSettings(max_passes=10, stop_early=False)


def coherent(data: DiffractionData = DATA) -> DiffractionData:
    from dataclasses import replace

    return replace(data, source_size=0.5)


def test_more_than_eight_kinds_are_searched_at_once_and_each_point_is_a_legal_reconstruction() -> None:
    space = space_of(coherent(), SETTINGS, None, own_quantities=True)
    assert len(space.dimensions) >= 15
    assert {each.kind for each in space.dimensions} == {"number", "integer", "choice", "switch"}
    for point in sobol(space, 64, seed=3):
        values = space.values(point)
        settings = settings_of(values, SETTINGS, len(DATA.patterns))  # raises where it is not legal
        assert settings.probe_modes == values["probe_modes"]
        assert space.values(space.point(values)) == values


def test_what_calibration_measures_is_searched_only_where_it_is_named() -> None:
    everything = space_of(DATA, SETTINGS, None, own_quantities=True)
    assert not {"defocus", "rotation"} & set(everything.start)
    named = space_of(DATA, SETTINGS, ["defocus", "rotation"], own_quantities=True)
    assert set(named.start) == {"defocus", "rotation"}
    values = named.values(np.array([1.0, 0.0]))
    changes = data_of(values, DATA, SETTINGS, middle=False)
    assert changes["defocus"] > DATA.defocus + 5
    angle, _ = optics.rotation_and_hand(changes["detector_to_scan"])
    assert np.degrees(angle) == pytest.approx(-3.0, abs=0.01)


def test_a_reconstruction_is_not_tried_again_under_values_that_have_no_effect() -> None:
    space = space_of(DATA, SETTINGS, ["slices", "slice_spacing"], own_quantities=True)
    assert space.plain({"slices": 1, "slice_spacing": 33.0}) == space.start
    assert space.plain({"slices": 2, "slice_spacing": 33.0})["slice_spacing"] == 33.0


def test_the_settings_where_a_search_begins_are_among_those_searched() -> None:
    begun = ReconstructionSettings(max_passes=11, probe_modes=7, step_size=0.1, stop_early=False)
    space = space_of(DATA, begun, ["probe_modes", "step_size", "passes"], own_quantities=True)
    again = settings_of(space.values(space.point(space.start)), begun, len(DATA.patterns))
    assert (again.probe_modes, again.step_size, again.max_passes) == (7, pytest.approx(0.1), 11)


def test_several_slices_are_centred_on_the_plane_whose_defocus_was_measured() -> None:
    settings = settings_of({"slices": 3, "slice_spacing": 20.0}, SETTINGS, len(DATA.patterns))
    assert data_of({}, DATA, settings, middle=True)["defocus"] == pytest.approx(DATA.defocus + 20)
    assert data_of({}, DATA, settings, middle=False)["defocus"] == pytest.approx(DATA.defocus)


def test_a_name_that_is_not_searched_is_refused_with_those_that_are() -> None:
    with pytest.raises(BadInputError, match="contrast cannot be searched with these data; legal: probe_modes, slices"):
        space_of(DATA, SETTINGS, ["contrast"], own_quantities=True)
    with pytest.raises(BadInputError, match="refine_positions cannot be searched"):
        space_of(DATA, SETTINGS, ["refine_positions"], own_quantities=False)
