"""A picture does not depend on the order in which its positions were visited."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import examples
import numpy as np
import phantom

from agent.config import Metadata, ScoreChoice
from agent.processing.process import ProcessingJob, process
from agent.reconstruction_choice import ReconstructionChoice
from agent.storage.acquisition_file import AcquisitionWriter
from agent.storage.reconstruction_file import read_reconstruction
from instrument import stream
from instrument.models import Outcome

EDGE, STEP, DOSE = 15.0, 1.5, 1e4
CHOICE = ReconstructionChoice.model_validate({"model": "given", "passes": 4, "calibrate": False, "device": "cpu"})
DESCRIPTION = examples.description(
    detector=examples.detector(phantom.N, phantom.ANGULAR_PIXEL),
    scan_rotation=0.0,
    mirrored=False,
    electrons_per_pattern=(1, 1e7),
    scan_patterns=("raster", "serpentine", "spiral", "positions"),
)


def processed(folder: Path, **changes: Any) -> tuple[float, float]:
    """Of an acquisition that is stored and read again: correlation of its phase with the truth, and its score."""
    plan = examples.plan("p-001", EDGE, 0, 0, step=STEP, defocus=200.0, dose=DOSE, **changes)
    each = DOSE / plan.patterns_per_cell
    data = phantom.experiment(positions=plan.scan_positions(), step=STEP, dose=each)
    path = folder / "acquisition.h5"
    with AcquisitionWriter(path, plan, DESCRIPTION, Metadata()) as writer:
        for index, pattern in enumerate(data.patterns):
            writer.frame(index, stream.compress(pattern), pattern.shape, pattern.dtype)
        writer.finish(Outcome(id=plan.id, state="done", frames=plan.n_positions))
    job = ProcessingJob(
        acquisition=path,
        output=folder / "reconstruction.h5",
        column_output=folder / "column.json",
        scored=examples.square(10.0, 2.5, 2.5),
        reconstruction=CHOICE,
        score=ScoreChoice(),
    )
    score = process(job).score
    picture = read_reconstruction(job.output).reconstruction
    assert score is not None
    return phantom.phase_scale(*phantom.inner(picture, field=EDGE))[1], score.value


def test_two_passes_in_spirals_are_reconstructed_and_scored(tmp_path: Path) -> None:
    likeness, score = processed(tmp_path, passes=2, pattern="spiral")
    assert likeness > 0.85
    assert score > 2.0, "a raster has 3.2 here"


def test_a_list_of_positions_is_reconstructed(tmp_path: Path) -> None:
    jitter = np.random.default_rng(7).uniform(-0.3, 0.3, (100, 2))
    places = np.random.default_rng(8).permutation(phantom.raster(STEP, EDGE) + jitter)
    assert processed(tmp_path, positions=tuple(map(tuple, places.tolist())))[0] > 0.85
