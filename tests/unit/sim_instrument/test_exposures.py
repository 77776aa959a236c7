# SPDX-License-Identifier: GPL-3.0-or-later
"""Exposures for studies: what is asked for is made, the same each time, and the truth lies beside it."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import examples
import h5py
import numpy as np
import pytest

from sim_instrument.exposures import Request, entries_of, expose
from sim_instrument.zoo.files import make_entry

EMPTY = {
    "name": "empty",
    "seed": 5,
    "specimen": {"material": "vacuum", "size": 300},
    "column": {"detector_pixels": 32, "angular_pixel": 3.2, "rotation": 0.5, "rotation_error": 0.02, "mirrored": True},
}
MISSING = {"name": "missing", "specimen": {"structure": "nowhere.cif"}}
PLAN = examples.plan("a1", 8, 150, 150, step=2.0, defocus=100, dose=500)
WHOLE = Request(column=0, plan=PLAN, truth=examples.square(6, 151, 151))


def answers(capfd: pytest.CaptureFixture[str], folder: Path, *requests: Request) -> list[dict[str, Any]]:
    """What the process says to requests about an empty specimen, and about one that does not exist."""
    lines = io.StringIO("".join(request.model_dump_json() + "\n" for request in requests))
    expose([make_entry(EMPTY), make_entry(MISSING)], folder, lines)
    return [json.loads(line) for line in capfd.readouterr().out.splitlines()]


def test_a_study_gets_counts_and_the_truth_beside_them(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    told, answer = answers(capfd, tmp_path, WHOLE)
    assert told == {"columns": [{"name": "empty", "seed": 5}, {"name": "missing", "seed": 0}]}
    with h5py.File(answer["file"]) as file:
        assert file["counts"].shape == (16, 32, 32)
        assert file["counts"][()].sum() == pytest.approx(500 * 64, rel=0.05)
        truth = file["truth"]
        assert truth.attrs["defocus"] == pytest.approx(1.02 * 100 + 25)
        assert (truth.attrs["rotation"], truth.attrs["mirrored"]) == (0.5, True)
        assert truth["phase"].shape == (60, 60)
        advertised = json.loads(file.attrs["description"])
    assert advertised["scan_rotation"] == pytest.approx(0.48)
    assert "defocus_offset" not in json.dumps(advertised)


def test_the_same_request_gives_the_same_counts(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    _, first, second = answers(capfd, tmp_path, WHOLE, WHOLE)
    with h5py.File(first["file"]) as one, h5py.File(second["file"]) as other:
        assert np.array_equal(one["counts"][()], other["counts"][()])


def test_two_passes_come_one_after_the_other(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    plan = PLAN.model_copy(update={"passes": 2})
    _, answer = answers(capfd, tmp_path, Request(column=0, plan=plan))
    with h5py.File(answer["file"]) as file:
        assert len(file["counts"]) == plan.n_positions == 32
        assert "phase" not in file["truth"]


def test_a_specimen_that_cannot_be_made_does_not_end_a_study(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    _, failed, described = answers(capfd, tmp_path, Request(column=1), Request(column=0))
    assert "nowhere.cif" in failed["error"]
    assert described["description"]["semiangle"] == 21.4


def test_columns_are_drawn_from_test_seeds() -> None:
    entries = entries_of(None, 3, 1000)
    assert [(entry.name, entry.seed) for entry in entries] == [(f"random-{seed}", seed) for seed in (1000, 1001, 1002)]
    assert len({entry.column.voltage for entry in entries_of(None, 30, 1000)}) == 5
