"""From an acquisition file to a score and a reconstruction file: the work of the child process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pydantic import Field

from agent.config import ReconstructionChoice, ScoreChoice
from agent.records import Score
from instrument.models import Record, Rectangle

Progress = Callable[[str, float], None]
"""Called with the phase's name and the fraction done."""


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
    seed: int = 0


class ProcessingResult(Record):
    """What the campaign needs to know of a finished job; the pictures are in the output file."""

    score: Score
    defocus_measured: float
    deviance: float
    passes: int
    device: str
    seconds: dict[str, float]
    notes: tuple[str, ...] = ()
