"""The product's score of acquisitions beside the information that their pictures really carry."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agent.config import ScoreChoice
from agent.errors import StoppedError
from agent.processing.column_state import ColumnState
from agent.processing.how_much_model import with_model
from agent.processing.process import ProcessingJob, process_acquisition
from agent.reconstruction_choice import ReconstructionChoice
from agent.scoring.regions import crop
from agent.scoring.truth import true_information
from agent.storage.acquisition_file import Acquisition
from agent.storage.reconstruction_file import read_reconstruction
from agent.study.calibration import calibrated
from agent.study.exposures import Exposed
from agent.study.plans import SCORED
from agent.study.records import ScoreRecord

LEVELS = 64
"""Of the histogram whose entropy is taken, over four standard deviations to each side."""


def score_records(exposed: Iterable[Exposed]) -> Iterator[ScoreRecord]:
    """One record for each acquisition that is scored, from what its column's first acquisition taught.

    Args:
        exposed: acquisitions, column by column; the first of a column is not scored and calibrates.
    """
    with tempfile.TemporaryDirectory(prefix="ptychopilot-study-") as folder:
        state = Path(folder) / "column.json"
        for each in exposed:
            record = ScoreRecord.asked(each.column, each.planned)
            if each.error is not None:
                record = record.failed(each.error)
            try:
                if each.planned is not None and each.planned.scored is None:
                    state.unlink(missing_ok=True)
                    if each.acquisition is not None:
                        _taught(each.acquisition).save(state)
                    continue
                yield record if each.acquisition is None else _scored(each, record, state)
            except StoppedError:
                raise
            except Exception as error:  # one acquisition that fails must not end a study
                why = " ".join(str(error).split()) or type(error).__name__
                # Where a first acquisition fails, the others calibrate by themselves, as a campaign's next trial would.
                if each.planned is None or each.planned.scored is not None:
                    yield record.failed(why)


def _taught(acquisition: Acquisition) -> ColumnState:
    """What a campaign's first acquisition teaches: the column's optics, and how much a reconstruction may explain."""
    measured, plan = calibrated(acquisition), acquisition.plan
    modelled = with_model(measured, ReconstructionChoice(), plan.dose, plan.defocus, lambda fraction: None)
    return replace(measured.state, model=modelled.chosen)


def _scored(each: Exposed, record: ScoreRecord, state: Path) -> ScoreRecord:
    """The acquisition processed as a campaign does, and its picture held against the truth."""
    assert each.planned is not None
    assert each.planned.scored is not None
    assert each.acquisition is not None
    assert each.truth is not None
    assert each.truth.phase is not None
    choice, scored = ScoreChoice(field=SCORED), each.planned.scored
    passes = ReconstructionChoice()
    output = state.with_name("picture.h5")
    job = ProcessingJob(
        acquisition=state.with_name("none.h5"),  # it is in memory
        output=output,
        column=state if state.exists() else None,
        column_output=state.with_name("after.json"),
        scored=scored,
        reconstruction=passes.to_the_end() if each.planned.final else passes,
        score=choice,
        seed=each.column.seed,
    )
    started = time.perf_counter()
    result = process_acquisition(each.acquisition, job)
    seconds = round(time.perf_counter() - started, 3)
    picture = read_reconstruction(output).reconstruction
    output.unlink()
    image = crop(picture.phase, picture.origin, picture.pixel_size, scored)
    truth = true_information(image, picture.pixel_size, each.truth.phase, each.truth.pixel, choice)
    return ScoreRecord.model_validate(  # refuses a number that is none
        {
            **record.model_dump(),
            "score": result.score.value,
            "sd": result.score.sd,
            "halves": result.score.halves or record.halves,
            "veto": result.score.veto,
            "thinned": result.score.thinned,
            "truth": truth,
            "seconds": seconds,
            "data_error": result.deviance,
            "fourier_error": result.score.fourier_error,
            "contrast": float(image.std()),
            "entropy": entropy(image),
        }
    )


def entropy(image: NDArray[np.float64]) -> float:
    """Entropy of the histogram of an image, bit: what some tune reconstructions by.

    Args:
        image: (y, x).
    """
    spread = float(image.std())
    if spread == 0:
        return 0.0
    counts, _ = np.histogram((image - image.mean()) / spread, bins=LEVELS, range=(-4, 4))
    part = counts[counts > 0] / counts.sum()
    return float(-(part * np.log2(part)).sum())
