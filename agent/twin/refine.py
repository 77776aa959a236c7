"""Columns that could have been measured as a campaign has measured its own, a picture at a time.

A picture takes some tenths of a second of a core. Whoever asks for them decides before each whether a core is idle.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from agent.aims import SpecimenClass
from agent.policy.ensemble import DOSES, PARTS, STEPS, Member
from agent.records import Optics
from agent.twin.build import told
from agent.twin.column import TwinColumn, draw_measured_column
from agent.twin.picture import information
from agent.twin.specimens import CLASSES, Specimen, draw_specimen
from instrument.models import Description, Record

PICTURES = len(STEPS) * len(PARTS)
"""Of a column: one for each step and defocus, at all doses."""


class TwinJob(Record):
    """A column, and which picture of it is wanted."""

    description: Description
    known: Optics = Field(description="as measured")
    specimen: SpecimenClass
    seed: int
    number: int = Field(description="of the column, from 1")
    picture: int = Field(default=0, ge=0, lt=PICTURES, description="in the order of steps and, within, defoci")


class TwinPicture(Record):
    """What a picture is worth."""

    values: tuple[float, ...] = Field(description="bit/Å², at each of DOSES")
    column: dict[str, float] = Field(default_factory=dict, description="its numbers, see agent.policy.ensemble.Member")


def specimen_class(told_class: SpecimenClass | None, number: int) -> SpecimenClass:
    """What lies below a column: the class that was told, or all by turns.

    Args:
        told_class: of the campaign's specimen; None: nobody knows.
        number: of the column, from 1.
    """
    return told_class or CLASSES[(number - 1) % len(CLASSES)]


def drawn(job: TwinJob) -> tuple[TwinColumn, Specimen]:
    """The column of a job and what lies below it, the same for all of its pictures.

    Args:
        job: of any picture.
    """
    rng = np.random.default_rng([job.seed, job.number, 11])
    column = draw_measured_column(job.description, job.known, rng)
    return column, draw_specimen(job.specimen, rng, 0.75 * column.window + 14)


class _Picture:
    """Takes the jobs of `agent.processing.child`."""

    job_type = TwinJob

    def __init__(self) -> None:
        self._last: tuple[TwinJob, TwinColumn, Specimen] | None = None

    def __call__(self, job: TwinJob, _on_progress: object = None) -> TwinPicture:
        of_column = job.model_copy(update={"picture": 0})
        if self._last is None or self._last[0] != of_column:
            self._last = of_column, *drawn(job)
        _, column, specimen = self._last
        step, part = STEPS[job.picture // len(PARTS)], PARTS[job.picture % len(PARTS)]
        rng = np.random.default_rng([job.seed, job.number, 12, job.picture])
        worth = information(column, specimen, step, column.defocus(part), list(DOSES), rng)
        return TwinPicture(values=tuple(round(value, 3) for value in worth), column=told(column))


picture = _Picture()


def member(job: TwinJob, pictures: Sequence[TwinPicture]) -> Member:
    """A column of an ensemble, from its pictures.

    Args:
        job: of any of them.
        pictures: all PICTURES, in order.
    """
    rows = [tuple(p.values for p in pictures[i : i + len(PARTS)]) for i in range(0, PICTURES, len(PARTS))]
    return Member(name="twin", seed=job.number, specimen=job.specimen, column=pictures[0].column, values=tuple(rows))
