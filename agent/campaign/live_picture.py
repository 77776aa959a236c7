"""What the live process does: reconstruct a scan from the frames that are there, again and again, until it has ended.

`agent.processing.child` calls `follow` with a LiveJob, as it calls the processing with its jobs.
"""

from __future__ import annotations

import base64
import logging
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from agent.config import ScoreChoice
from agent.encoding import OsPath
from agent.errors import BadInputError
from agent.known_geometry import KnownGeometry
from agent.processing.column import measure_column
from agent.processing.column_state import ColumnState
from agent.processing.how_much_model import Modelled, applied
from agent.reconstruction import DiffractionData, Reconstructor
from agent.reconstruction_choice import ReconstructionChoice
from agent.records import Score
from agent.report.thumbnails import Thumbnails, unfinished
from agent.scoring.regions import tiles
from agent.scoring.so_far import CHECKPOINTS, score_so_far
from agent.storage.frame_mirror import MirroredFrames
from instrument.models import AcquisitionPlan, Description, Record, Rectangle

logger = logging.getLogger(__name__)
SHARE = 0.1
"""Part of a scan from one picture to the next."""
PASSES = 4
"""Over all patterns so far, whenever some have come."""
PICTURES = ("phase", "spectrum")
LARGEST_PICTURE = 80_000
"""Bytes: about half of what the contract allows, since there is a new one with every tenth of a scan."""
_PLAIN: dict[str, Any] = {
    "max_passes": PASSES,
    "stop_early": False,
    "quantitative": False,
    "refine_positions": None,
    "refine_intensity": False,
    "variable_modes": 0,
    "device": "cpu",
}
Tell = Callable[[str, dict[str, Any]], None]
"""Called with a kind, `view` or `estimate`, and its record as JSON values."""
_LOOK_AGAIN_S = 0.05


class LiveJob(Record):
    """A scan to follow. Paths are absolute."""

    trial: int
    frames: OsPath = Field(description="see storage.frame_mirror; gone when the scan has ended")
    pictures: OsPath = Field(description="folder for the pictures")
    plan: AcquisitionPlan
    description: Description
    geometry: KnownGeometry = KnownGeometry()
    column: OsPath | None = Field(default=None, description="what is known of the column; None: what is advertised")
    reconstruction: ReconstructionChoice
    score: ScoreChoice = Field(description="of the campaign; `field` is the edge of a scored square, Å")
    scored: Rectangle = Field(description="the part of the field that is scored, specimen frame")
    judged: bool = Field(default=False, description="whether to tell what score is to be expected; of two passes")
    seed: int = 0
    niceness: int = Field(
        default=0, description="of the process from now on: whatever else wants the processor goes first"
    )


class LiveView(Record):
    """What the frames so far show."""

    received: int
    extent: tuple[float, float] = Field(description="(height, width), Å")
    levels: tuple[float, float] = Field(description="phases at the ends of the colour scale, rad")
    k_edge: float = Field(description="spatial frequency at the edge of the transform, 1/Å")
    phase: str = Field(description="PNG, base64", repr=False)
    spectrum: str = Field(description="PNG, base64", repr=False)


class LiveEstimate(Record):
    """The score that is expected of the whole scan."""

    part: float = Field(description="of the scan, that it was judged by")
    score: Score


class LiveResult(Record):
    """The scan has ended."""

    pictures: int = Field(description="how many were drawn")


class _Follow:
    """See `follow`."""

    job_type = LiveJob

    def __call__(self, job: LiveJob, tell: Tell) -> LiveResult:
        os.nice(max(0, job.niceness - os.nice(0)))
        try:
            return LiveResult(pictures=_watched(job, tell))
        except FileNotFoundError:  # the scan was over before it was looked at
            return LiveResult(pictures=0)


follow = _Follow()
"""follow(job, tell) -> LiveResult: `tell` hears of a LiveView, as JSON values, with every tenth of the scan, and of what
score is to be expected."""


def _watched(job: LiveJob, tell: Tell) -> int:
    detector = job.description.detector
    number = job.plan.n_positions
    frames = MirroredFrames(job.frames, number, detector.shape, np.dtype(detector.dtype))
    _forget_others(job)
    used, drawn = np.zeros(number, bool), 0
    found: Reconstructor | None = None
    checkpoints = list(CHECKPOINTS) if job.judged else []
    while not frames.over:
        if checkpoints and frames.received()[: round(checkpoints[0] * number)].all():
            _tell_score(job, frames, checkpoints.pop(0), tell)
            continue
        new = np.flatnonzero(frames.received() & ~used)
        if len(new) < min(SHARE * number, number - used.sum()) or not len(new):
            if used.all():
                break
            time.sleep(_LOOK_AGAIN_S)
            continue
        used[new] = True
        found = continued(job, frames, found, np.flatnonzero(used), new)
        view = _view(job, found, int(used.sum()))
        if view is not None and not frames.over:
            tell("view", view.model_dump(mode="json"))
            drawn += 1
    return drawn


def continued(
    job: LiveJob,
    frames: MirroredFrames,
    found: Reconstructor | None,
    so_far: np.ndarray[Any, np.dtype[np.int64]],
    new: np.ndarray[Any, np.dtype[np.int64]],
) -> Reconstructor:
    """A reconstruction that knows some frames more.

    Args:
        job: of the scan.
        frames: of the scan.
        found: what there is; None: nothing yet.
        so_far: (n,) scan positions of all frames, of those that are `new`, too.
        new: (m,) scan positions of those that it does not know.
    """
    positions = job.plan.scan_positions()
    if found is not None:
        try:
            found.append(frames.patterns(new), positions[new])
        except BadInputError:  # too few to stand alone, or not beside the others: begin again with all
            found = None
    if found is None:
        modelled = _modelled(job, frames, so_far)
        found = Reconstructor(modelled.data, replace(modelled.settings, **_PLAIN))
    found.run()
    return found


def _tell_score(job: LiveJob, frames: MirroredFrames, part: float, tell: Tell) -> None:
    """What is to be expected after part of the scan; nothing where that cannot be said."""
    number = job.plan.n_positions
    modelled = _modelled(job, frames, np.arange(min(round(part * number), number // 2)))
    edge = job.score.field or min(job.scored.height, job.scored.width)
    try:
        settings = replace(modelled.settings, device="cpu")
        score = score_so_far(modelled.data, settings, tiles(job.scored, edge), job.score, job.seed)
    except (BadInputError, ArithmeticError, ValueError) as error:
        logger.info("trial %d after %g of the scan: %s", job.trial, part, error)
        return
    tell("estimate", LiveEstimate(part=part, score=score).model_dump(mode="json"))


def _modelled(job: LiveJob, frames: MirroredFrames, index: np.ndarray[Any, np.dtype[np.int64]]) -> Modelled:
    """Frames with the optics, and the model, that are known by now: nothing is measured or chosen here."""
    description = job.geometry.applied(job.description)
    detector = description.detector
    mask = np.ones(detector.shape, bool)
    for row, column in detector.dead_pixels:
        mask[row, column] = False
    data = DiffractionData(
        patterns=frames.patterns(index),
        positions=job.plan.scan_positions()[index],
        voltage=description.energy,
        semiangle=description.semiangle,
        angular_pixel=detector.angular_pixel,
        defocus=job.plan.defocus,
        centre=job.geometry.centre,
        mask=None if mask.all() else mask,
        aberrations=description.nominal_aberrations,
    )
    known = None if job.column is None else ColumnState.load(job.column)
    data = measure_column(
        data, description, raster=None, known=known, enabled=False, on_progress=lambda fraction: None
    ).data
    settings = replace(job.reconstruction.settings(), refine_optics=())
    if known is None or known.model is None or not job.reconstruction.chosen:
        return Modelled(data, settings, 0.0, None)
    return applied(known.model, data, settings)


def _view(job: LiveJob, found: Reconstructor, received: int) -> LiveView | None:
    try:
        drawn = unfinished(found.result(), _scanned(job), job.score.k_max, LARGEST_PICTURE)
    except (ArithmeticError, ValueError) as error:  # too little to see
        logger.info("trial %d after %d frames: %s", job.trial, received, error)
        return None
    _keep(job, drawn)
    return LiveView(
        received=received,
        extent=drawn.extent,
        levels=drawn.levels,
        k_edge=drawn.k_edge,
        phase=base64.b64encode(drawn.phase).decode(),
        spectrum=base64.b64encode(drawn.spectrum).decode(),
    )


def _scanned(job: LiveJob) -> Any:
    field = job.plan.field
    if field is None:
        raise ValueError("explicit positions have no field")
    return field


def picture_path(folder: Path, trial: int, name: str) -> Path:
    """Where the picture of a running scan lies.

    Args:
        folder: for pictures.
        trial: its number.
        name: of PICTURES.
    """
    return folder / f"{trial:03d}-{name}.png"


def _keep(job: LiveJob, drawn: Thumbnails) -> None:
    """For a page beside the folder. A reader finds the old picture or the new one; after a power cut none is needed."""
    for name in PICTURES:
        path = picture_path(job.pictures, job.trial, name)
        part = path.with_suffix(".part")
        part.write_bytes(getattr(drawn, name))
        part.replace(path)


def _forget_others(job: LiveJob) -> None:
    job.pictures.mkdir(parents=True, exist_ok=True)
    for path in job.pictures.iterdir():
        if not path.name.startswith(f"{job.trial:03d}-"):
            path.unlink(missing_ok=True)
