"""What a search remembers of each trial, and how it is conducted."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from agent.records import Score
from instrument.models import Record


class Stage(Record):
    """How much of a reconstruction a trial is given at first, and further on where it is worth it."""

    positions: float = Field(
        gt=0, le=1, description="part of the positions, the dense square in the middle of the scan"
    )
    passes: float = Field(gt=0, le=1, description="part of the passes")


LADDER = (Stage(positions=0.15, passes=0.7), Stage(positions=0.4, passes=0.85), Stage(positions=1.0, passes=1.0))
"""The stages of a trial; the last one is a whole reconstruction. Positions are saved rather than passes: corrections of positions
begin with the sixth pass, and cannot be judged before."""
WHOLE = (LADDER[-1],)
"""No cheap stage."""


class Plan(Record):
    """How a search is conducted. Cost is counted in whole reconstructions with the settings where the search begins."""

    ladder: tuple[Stage, ...] = LADDER
    reconstructions: float = Field(default=40.0, gt=0, description="that all stages and scores may cost together")
    minutes: float | None = Field(default=None, gt=0, description="after which no further stage begins; None: no limit")
    drawn: int = Field(default=12, ge=0, description="trials drawn at random before the model proposes")
    kept: int = Field(default=4, ge=2, description="one of so many trials goes on from a stage to the next")
    together: int = Field(default=8, ge=1, description="stages that are begun together")
    finalists: int = Field(
        default=2, ge=0, description="trials whose two halves are scored at the end, beside the start's"
    )
    seed: int = Field(default=0, ge=0)


class Judged(Record):
    """What held-out counts say of a stage."""

    stage: int
    blocks: tuple[float, ...] = Field(description="deviance of the held-out counts, summed over blocks of the scan")
    pixels: float = Field(description="detector pixels that the sums are over")
    cost: float = Field(description="whole reconstructions")
    seconds: float


class TuningTrial(Record):
    """A set of values and how far it has come."""

    number: int
    values: dict[str, bool | int | float | str | None]
    origin: Literal["start", "one changed", "drawn", "model"]
    why: str = ""
    stages: tuple[Judged, ...] = ()
    error: str | None = Field(default=None, description="why it came to nothing, or no farther")
    score: Score | None = Field(default=None, description="what two halves have in common; None: not asked")
    score_cost: float = 0.0
    score_seconds: float = 0.0

    @property
    def stage(self) -> int:
        """Number of the last stage that was judged; −1: none."""
        return self.stages[-1].stage if self.stages else -1

    def at(self, stage: int) -> Judged | None:
        """What was judged at a stage; None: it did not get there."""
        return next((each for each in self.stages if each.stage == stage), None)
