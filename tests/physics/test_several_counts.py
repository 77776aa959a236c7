"""Detectors that give several counts for an electron: the passes stop, the bootstrap and the misfit know of the larger noise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from phantom import experiment, inner, phase_scale

from agent.errors import BadInputError
from agent.reconstruction import DiffractionData, ReconstructionSettings, reconstruct

SETTINGS = ReconstructionSettings(device="cpu", quantitative=False)
COUNTS = 4


def several_counts(dose: float) -> DiffractionData:
    """A quarter of the electrons, each of which gives four counts, a third of them in the next row."""
    data = experiment(dose=dose / COUNTS)
    random = np.random.default_rng(3)
    counts = COUNTS * data.patterns.astype(np.int64)
    shared = random.binomial(counts, 0.3)
    return replace(data, patterns=(counts - shared + np.roll(shared, 1, axis=1)).astype(np.uint16))


def test_passes_stop_where_electrons_give_several_counts_and_the_picture_is_better() -> None:
    data = several_counts(4e3)
    known = reconstruct(replace(data, counts_per_electron=float(COUNTS)), SETTINGS)
    every = reconstruct(data, replace(SETTINGS, stop_early=False))
    assert known.passes <= 40
    error = [1 - phase_scale(*inner(found))[1] ** 2 for found in (known, every)]
    assert error[0] < 1.02 * error[1]


def test_counts_of_several_an_electron_are_no_misfit() -> None:
    data, settings = experiment(dose=1e4), replace(SETTINGS, stop_early=False, max_passes=12)
    data = replace(data, patterns=(2 * COUNTS * data.patterns).astype(np.uint16))
    assert any("times what counting noise explains" in note for note in reconstruct(data, settings).notes)
    known = reconstruct(replace(data, counts_per_electron=2.0 * COUNTS), settings)
    assert not any("times what counting noise explains" in note for note in known.notes)


def test_impossible_counts_per_electron_are_refused() -> None:
    with pytest.raises(BadInputError, match="counts_per_electron of 0 is not possible"):
        reconstruct(replace(experiment(), counts_per_electron=0), SETTINGS)
