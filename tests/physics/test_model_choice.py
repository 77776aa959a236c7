"""How much model the counts ask for, of specimens and columns whose faults are known."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from agent.reconstruction import DiffractionData, ReconstructionSettings, choose_model

sys.path.insert(0, str(Path(__file__).parent))
import phantom

SETTINGS = ReconstructionSettings(max_passes=10)
ASKED = ("background", "amplitude", "slices", "positions")


def taken(data: DiffractionData, *parts: str, n_positions: int = 64) -> set[str]:
    choice = choose_model(data, SETTINGS, parts or ASKED, n_positions=n_positions)
    return {each.part for each in choice.tried if each.taken}


def test_a_thin_specimen_in_a_steady_column_keeps_the_simplest_model() -> None:
    assert taken(phantom.experiment(), n_positions=49) == set()


def test_two_layers_far_apart_take_slices_and_the_defocus_is_counted_from_the_upper_one() -> None:
    data = phantom.experiment(layers=(5, 9), spacing=60.0)
    middle = replace(data, defocus=data.defocus - 30.0)
    choice = choose_model(middle, replace(SETTINGS, max_passes=5), ("amplitude", "slices"), n_positions=36)
    depth = (choice.settings["slices"] - 1) * choice.settings["slice_spacing"]
    assert choice.settings["slices"] >= 2
    assert choice.data["defocus"] == pytest.approx(middle.defocus + depth / 2)


def test_counts_that_no_probe_scatters_take_a_background() -> None:
    data = phantom.experiment()
    hazy = data.patterns + np.random.default_rng(3).poisson(0.02 * data.patterns.mean(), data.patterns.shape)
    assert taken(replace(data, patterns=hazy.astype(np.uint16)), "background", "positions") == {"background"}


def test_a_scan_that_jitters_has_its_positions_refined() -> None:
    positions = phantom.raster()
    jittered = positions + np.random.default_rng(4).normal(0, 0.3, positions.shape)
    assert taken(phantom.experiment(true_positions=jittered), "positions") == {"positions"}


def test_a_beam_that_flickers_has_an_intensity_for_each_pattern() -> None:
    brightness = 1 + 0.15 * np.random.default_rng(4).normal(size=256)
    assert taken(phantom.experiment(intensity=brightness), "intensity") == {"intensity"}


def test_what_is_not_free_stays_as_it_was_set() -> None:
    choice = choose_model(phantom.experiment(), replace(SETTINGS, slices=2), ("background",), n_positions=36)
    assert dict(choice.settings) == {"background": False}
    assert not choice.data


def test_counts_that_come_several_for_an_electron_are_judged_by_patterns_left_out() -> None:
    data = phantom.experiment()
    several = replace(data, patterns=4 * data.patterns, counts_per_electron=4.0)
    choice = choose_model(several, SETTINGS, ("background", "positions", "intensity"), n_positions=64)
    assert [each.part for each in choice.tried] == ["background"]
