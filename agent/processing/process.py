"""From an acquisition file to a score and a reconstruction file: the work of the child process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from pydantic import Field

from agent.cleaning_record import Cleaning
from agent.config import ScoreChoice
from agent.encoding import OsPath
from agent.errors import BadInputError
from agent.known_geometry import KnownGeometry
from agent.model_record import ChosenModel
from agent.plugins import load_attribute
from agent.processing.cleaning import Cleaned, clean
from agent.processing.column import Measured, measure_column, refined
from agent.processing.column_state import ColumnState
from agent.processing.how_much_model import Modelled, with_model
from agent.processing.initial_probe import initial_probe
from agent.reconstruction import DiffractionData, check_data, in_the_corners
from agent.reconstruction_choice import ReconstructionChoice
from agent.records import Optics, Score
from agent.scoring.halves import Judged, judge
from agent.scoring.regions import tiles
from agent.scoring.splitting import SEVERAL_COUNTS
from agent.storage.acquisition_file import Acquisition, read_acquisition
from agent.storage.reconstruction_file import write_reconstruction
from instrument.models import Record, Rectangle

Progress = Callable[[str, float], None]
"""Called with the phase's name and the fraction done."""


class ProcessingJob(Record):
    """One acquisition to turn into a picture and a score. Paths are absolute."""

    acquisition: OsPath
    output: OsPath = Field(description="reconstruction file to write (HDF5)")
    column: OsPath | None = Field(
        default=None, description="what earlier acquisitions taught about the column; None: nothing yet"
    )
    column_output: OsPath = Field(description="where to write what is known of the column now")
    scored: Rectangle = Field(description="the part of the field that is scored, specimen frame")
    geometry: KnownGeometry = KnownGeometry()
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
    optics: Optics | None = Field(default=None, description="as measured; None: the processing does not tell")
    cleaning: Cleaning | None = Field(
        default=None, description="what was left out, masked and found; None: the processing does not tell"
    )
    model: ChosenModel | None = Field(
        default=None,
        description="how much the reconstruction may explain, as held-out counts chose; None: as configured",
    )


def process(job: ProcessingJob, on_progress: Progress = lambda phase, fraction: None) -> ProcessingResult:
    """Read an acquisition file, measure the column, reconstruct all counts and both halves, score, write the files.

    Args:
        job: what to do; paths are absolute.
        on_progress: called with the phase's name and the fraction done.

    Raises:
        BadInputError: the acquisition cannot be reconstructed; the message says why.
        StoppedError: the disk is full.
    """
    seconds: dict[str, float] = {}
    with _timed(seconds, "read"):
        acquisition = read_acquisition(job.acquisition)
    result = process_acquisition(acquisition, job, on_progress)
    return result.model_copy(update={"seconds": {**seconds, **result.seconds}})


def process_acquisition(
    acquisition: Acquisition, job: ProcessingJob, on_progress: Progress = lambda phase, fraction: None
) -> ProcessingResult:
    """As `process`, for an acquisition that is in memory already; `job.acquisition` is not read."""
    seconds: dict[str, float] = {}
    cleaned, measured = prepare(acquisition, job, on_progress, seconds)
    acquisition = replace(acquisition, description=job.geometry.applied(acquisition.description))
    with _timed(seconds, "model"):
        modelled = _modelled(measured, acquisition, job, on_progress)
    told = () if modelled.chosen in (None, measured.state.model) else (modelled.chosen.sentence(),)
    measured = replace(measured, state=replace(measured.state, model=modelled.chosen or measured.state.model))
    with _timed(seconds, "reconstruct"):
        excess = cleaned.record.counts_per_electron
        judged = _reconstruct_and_score(modelled, job, excess, on_progress)
    with _timed(seconds, "write"):
        notes = (
            *cleaned.record.sentences(),
            *measured.notes,
            *told,
            *_notes_on_halves(judged, excess),
        )
        _write(acquisition, job, judged, measured, cleaned, modelled, notes)
    picture = judged.reconstruction
    defocus = picture.defocus - modelled.depth
    return ProcessingResult(
        score=judged.score,
        defocus_measured=defocus,
        deviance=picture.deviance[-1] if picture.deviance else None,
        passes=picture.passes,
        device=picture.device,
        seconds=seconds,
        notes=(*notes, *picture.notes),
        optics=measured.state.optics_at(defocus),
        cleaning=cleaned.record,
        model=modelled.chosen,
    )


def prepare(
    acquisition: Acquisition,
    job: ProcessingJob,
    on_progress: Progress = lambda phase, fraction: None,
    seconds: dict[str, float] | None = None,
) -> tuple[Cleaned, Measured]:
    """The patterns, cleaned and with the optics that they were taken with: all that comes before a reconstruction.

    Args:
        acquisition: in memory.
        job: as for `process`.
        on_progress: called with the phase's name and the fraction done.
        seconds: phase -> what it took, is added to.

    Raises:
        BadInputError: the acquisition cannot be reconstructed.
    """
    took = {} if seconds is None else seconds
    described = replace(acquisition, description=job.geometry.applied(acquisition.description))
    with _timed(took, "clean"):
        cleaned = cleaned_data(described)
    cleaned = replace(cleaned, data=replace(cleaned.data, centre=job.geometry.centre))
    check_data(replace(cleaned.data, defocus=0.0))  # the defocus is nominal, and may be measured to be another
    with _timed(took, "calibrate"):
        measured = _measure(cleaned, described, job, on_progress)
    return cleaned, measured


def cleaned_data(acquisition: Acquisition) -> Cleaned:
    """The patterns that arrived and are whole, with nominal optics and bad pixels masked; not calibrated.

    Raises:
        BadInputError: too few arrived, or their zero beam lies in the corners.
    """
    plan, description = acquisition.plan, acquisition.description
    detector = description.detector
    data = DiffractionData(
        patterns=acquisition.patterns,
        positions=plan.scan_positions(),
        pass_index=plan.pass_index() if plan.passes > 1 else None,
        voltage=description.energy,
        semiangle=description.semiangle,
        angular_pixel=detector.angular_pixel,
        defocus=plan.defocus,
        aberrations=description.nominal_aberrations,
    )
    if in_the_corners(data.look().mean, data.mask, data.semiangle / data.angular_pixel):
        msg = (
            "the patterns have their zero beam in the corners of the detector, not in its middle; apply numpy.fft.fftshift to "
            "the two detector axes"
        )
        raise BadInputError(msg)
    return clean(
        data,
        acquisition.received,
        plan.rasters(),
        dead_pixels=detector.dead_pixels,
        saturation=detector.saturation,
    )


def _measure(cleaned: Cleaned, acquisition: Acquisition, job: ProcessingJob, on_progress: Progress) -> Measured:
    """The data with the optics that they were taken with: from earlier acquisitions where there are some."""
    measured = measure_column(
        cleaned.data,
        acquisition.description,
        raster=cleaned.raster,
        known=None if job.column is None else ColumnState.load(job.column),
        enabled=job.reconstruction.calibrate,
        on_progress=lambda fraction: on_progress("calibrate", fraction),
    )
    wanted, start = job.reconstruction.settings().refine_optics, job.reconstruction.probe
    if wanted:
        measured = refined(measured, wanted, lambda fraction: on_progress("optics", fraction))
    if start is None:
        return measured
    if (probe := initial_probe(start, measured.data)) is None:
        note = f"the probe of {start} went through another aperture: this one starts from the optics"
        return replace(measured, notes=(*measured.notes, note))
    return replace(measured, data=replace(measured.data, probe=probe))


def _modelled(measured: Measured, acquisition: Acquisition, job: ProcessingJob, on_progress: Progress) -> Modelled:
    """The acquisition with the model that it is reconstructed with."""
    plan = acquisition.plan
    return with_model(
        measured, job.reconstruction, plan.dose, plan.defocus, lambda fraction: on_progress("model", fraction)
    )


def _reconstruct_and_score(
    modelled: Modelled, job: ProcessingJob, excess: float | None, on_progress: Progress
) -> Judged:
    """Picture, halves and score, with the user's own functions where the campaign names some."""
    choice, settings = job.reconstruction, modelled.settings
    scoring = job.score
    if (excess or 0.0) > SEVERAL_COUNTS:  # counts of one electron must not be in both halves
        scoring = scoring.model_copy(update={"split": "positions"})
    edge = job.score.field or min(job.scored.height, job.scored.width)
    return judge(
        modelled.data,
        settings,
        tiles(job.scored, edge),
        scoring,
        job.seed + settings.seed,
        reconstruct_with=None if choice.function is None else load_attribute(choice.function),
        score_with=None if job.score.function is None else load_attribute(job.score.function),
        splits=job.splits,
        on_progress=lambda fraction: on_progress("reconstruct", fraction),
    )


def _write(
    acquisition: Acquisition,
    job: ProcessingJob,
    judged: Judged,
    measured: Measured,
    cleaned: Cleaned,
    modelled: Modelled,
    notes: tuple[str, ...],
) -> None:
    picture = judged.reconstruction
    known = measured.state.optics_at(picture.defocus - modelled.depth)
    write_reconstruction(
        job.output,
        picture,
        judged.score,
        judged.half_phases,
        job.scored,
        acquisition,
        notes,
        optics=known,
        cleaning=cleaned.record,
        mask=cleaned.data.mask,
        model=modelled.chosen,
    )
    measured.state.save(job.column_output)


def _notes_on_halves(judged: Judged, excess: float | None) -> tuple[str, ...]:
    """What a person should know of halves that share electrons, or are made so that they do not, and of two passes' drift."""
    if judged.drift is not None:
        (y, x), sd = judged.drift.by, max(judged.drift.sd)
        if judged.drift.size < 2 * sd:
            return ()
        return (f"the specimen moved by y {y:.2f}, x {x:.2f} ± {sd:.2g} Å from pass to pass, which is undone",)
    if excess is None or not excess > SEVERAL_COUNTS:
        return ()
    return (
        f"counts have {excess:.1f} times the variance of single electrons: every other position is one half of the score",
    )


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Note how long the block takes."""
    started = time.perf_counter()
    yield
    seconds[name] = round(time.perf_counter() - started, 4)
