"""From an acquisition file to a score and a reconstruction file: the work of the child process."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from agent.config import ReconstructionChoice, ScoreChoice
from agent.errors import BadInputError
from agent.plugins import load_attribute
from agent.processing.column import ColumnState, bad_pixels, measure_column
from agent.records import Score
from instrument.models import Record, Rectangle

if TYPE_CHECKING:
    from agent.storage.acquisition_file import Acquisition

Progress = Callable[[str, float], None]
"""Called with the phase's name and the fraction done."""

FEWEST_PATTERNS = 16
"""An acquisition with fewer patterns received cannot be reconstructed."""


class ProcessingJob(Record):
    """One acquisition to turn into a picture and a score. Paths are absolute."""

    acquisition: Path
    output: Path = Field(description="reconstruction file to write (HDF5)")
    column: Path | None = Field(
        default=None, description="what earlier acquisitions taught about the column; None: nothing yet"
    )
    column_output: Path = Field(description="where to write what is known of the column now")
    scored: Rectangle = Field(description="the part of the field that is scored, specimen frame")
    reconstruction: ReconstructionChoice
    score: ScoreChoice
    splits: int = Field(default=1, ge=1, description="random splits of the counts whose scores are averaged")
    seed: int = 0


class ProcessingResult(Record):
    """What the campaign needs to know of a finished job; the pictures are in the output file."""

    score: Score
    defocus_measured: float
    deviance: float | None = Field(
        description="Poisson deviance per detector pixel; None: the reconstruction does not tell"
    )
    passes: int
    device: str
    seconds: dict[str, float]
    notes: tuple[str, ...] = ()


def process(job: ProcessingJob, on_progress: Progress = lambda phase, fraction: None) -> ProcessingResult:
    """Calibrate (first time), measure the defocus, reconstruct all counts and both halves, score, write the files.

    Raises:
        BadInputError: the acquisition cannot be reconstructed; the message says why.
        StoppedError: the disk is full.
    """
    from agent.storage.acquisition_file import read_acquisition

    started = time.perf_counter()
    acquisition = read_acquisition(job.acquisition)
    reading = time.perf_counter() - started
    result = process_acquisition(acquisition, job, on_progress)
    return result.model_copy(update={"seconds": {"read": round(reading, 4), **result.seconds}})


def process_acquisition(
    acquisition: Acquisition, job: ProcessingJob, on_progress: Progress = lambda phase, fraction: None
) -> ProcessingResult:
    """As `process`, for an acquisition that is in memory already; `job.acquisition` is not read."""
    from agent.reconstruction import DiffractionData, ReconstructionSettings
    from agent.reconstruction.counts.patterns import selected
    from agent.scoring.halves import judge, score_halves
    from agent.scoring.ring_correlation import tiles
    from agent.scoring.splitting import excess_variance
    from agent.storage.reconstruction_file import write_reconstruction

    plan, description = acquisition.plan, acquisition.description
    received = acquisition.received
    if received.sum() < FEWEST_PATTERNS:
        lost = "" if received.all() else f" ({len(received)} were asked for)"
        msg = f"there are only {int(received.sum())} patterns{lost}; {FEWEST_PATTERNS} are needed to reconstruct"
        raise BadInputError(msg)
    patterns = selected(acquisition.patterns, received)
    data = DiffractionData(
        patterns=patterns,
        positions=plan.scan_positions()[received],
        voltage=description.voltage,
        semiangle=description.semiangle,
        angular_pixel=description.detector.angular_pixel,
        defocus=plan.defocus,
        mask=~bad_pixels(patterns, description.detector.dead_pixels),
    )
    choice = job.reconstruction
    before = time.perf_counter()
    column = ColumnState.load(job.column) if job.column is not None else None
    measured = measure_column(
        data,
        description,
        shape=plan.shape if received.all() and plan.positions is None else None,
        known=column,
        enabled=choice.calibrate,
        on_progress=lambda fraction: on_progress("calibrate", fraction),
    )
    data = measured.data
    seconds = {"calibrate": time.perf_counter() - before}

    settings = ReconstructionSettings(
        probe_modes=choice.probe_modes,
        max_passes=choice.passes,
        stop_early=False,  # the same number of passes for every trial: scores are compared
        refine_probe=choice.refine_probe,
        regularise=choice.regularise,
        background=choice.background,
        device=choice.device,
    )
    edge = job.score.field or min(job.scored.height, job.scored.width)
    before = time.perf_counter()
    judged = judge(
        data,
        settings,
        tiles(job.scored, edge),
        job.score,
        job.seed,
        reconstruct_with=None if choice.function is None else load_attribute(choice.function),
        score_with=score_halves if job.score.function is None else load_attribute(job.score.function),
        splits=job.splits,
        on_progress=lambda fraction: on_progress("reconstruct", fraction),
    )
    seconds["reconstruct"] = time.perf_counter() - before
    before = time.perf_counter()
    notes = (*measured.notes, *_halving(job.score, excess_variance(patterns, data.positions)))
    write_reconstruction(
        job.output, judged.reconstruction, judged.score, judged.half_phases, job.scored, acquisition, notes
    )
    measured.state.save(job.column_output)
    seconds["write"] = time.perf_counter() - before
    picture = judged.reconstruction
    return ProcessingResult(
        score=judged.score,
        defocus_measured=picture.defocus,
        deviance=picture.deviance[-1] if picture.deviance else None,
        passes=picture.passes,
        device=picture.device,
        seconds={name: round(value, 4) for name, value in seconds.items()},
        notes=(*notes, *picture.notes),
    )


def _halving(choice: ScoreChoice, excess: float) -> tuple[str, ...]:
    """What a person should know of halves that share electrons, or are made so that they do not."""
    from agent.scoring.splitting import SEVERAL_COUNTS

    if not excess > SEVERAL_COUNTS:
        return ()
    scatter = f"counts have {excess:.1f} times the variance of single electrons"
    if choice.split == "positions":
        return (f"{scatter}: every other position is one half of the score",)
    return (f"{scatter}: halves drawn from them share noise, the score is too high; set score.split to positions",)
