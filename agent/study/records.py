"""What a study finds out about one acquisition. Lengths in Å, angles in degrees, doses in e/Å², scores in bit/Å²."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field

from agent.records import HalvesKind
from agent.study.exposures import StudyColumn
from agent.study.plans import Planned
from instrument.models import Record

Kind = Literal["passes", "thinned"]
"""Halves that are two passes over a field, and halves drawn from the counts of one."""
Key = tuple[str, int, float | None, float | None, float | None, int | None]
"""What tells the records of a study apart: name, seed, step, defocus, dose, passes."""
KINDS: tuple[Kind, ...] = ("passes", "thinned")


class CalibrationRecord(Record):
    """What a first acquisition told of its column, and what is true. None: the acquisition came to nothing."""

    name: str = Field(description="of the column")
    seed: int = Field(description="of the column")
    nominal_defocus: float | None = Field(default=None, description="the set-point")
    true_defocus: float | None = Field(default=None, description="of the specimen's middle plane")
    defocus: float | None = Field(default=None, description="as measured; the set-point where it was not found")
    defocus_sd: float | None = Field(default=None, description="None: not found")
    rotation_error: float | None = Field(default=None, description="measured less true, within ± 180")
    rotation_sd: float | None = Field(default=None, description="None: not measured")
    found: bool = Field(default=False, description="whether the defocus was measured")
    right_hand: bool | None = Field(default=None, description="whether the detector's handedness came out right")
    step: float | None = None
    dose: float | None = None
    seconds: float | None = Field(default=None, description="of calibration")
    notes: tuple[str, ...] = Field(default=(), description="what a person is told")
    error: str | None = Field(default=None, description="why it came to nothing")

    @classmethod
    def records(cls, planned: Planned) -> bool:
        """Whether an acquisition of the study has a record: all have."""
        del planned
        return True

    @classmethod
    def asked(cls, column: StudyColumn, planned: Planned | None) -> Self:
        """The record of an acquisition that is to be made; None: the column cannot be simulated."""
        if planned is None:
            return cls(name=column.name, seed=column.seed)
        plan = planned.plan
        return cls(name=column.name, seed=column.seed, nominal_defocus=plan.defocus, step=plan.step, dose=plan.dose)

    @property
    def key(self) -> Key:
        """See `Key`."""
        return self.name, self.seed, self.step, self.nominal_defocus, self.dose, None


class ScoreRecord(Record):
    """The score of an acquisition and the information that its picture really carries."""

    name: str = Field(description="of the column")
    seed: int = Field(description="of the column")
    step: float | None = None
    defocus: float | None = Field(default=None, description="the set-point")
    dose: float | None = None
    halves: HalvesKind | None = Field(default=None, description="that the score compares")
    score: float | None = Field(
        default=None, description="None: the acquisition came to nothing, and the veto says why"
    )
    sd: float | None = None
    truth: float | None = Field(default=None, description="information in the picture, against the true phase")
    veto: str | None = Field(default=None, description="why the score is not to be trusted; None: it is")
    seconds: float | None = Field(default=None, description="of the whole processing")
    passes: int | None = Field(default=None, description="over the field; of two, one may have been of no use")
    cell: int = Field(default=0, description="number of the setting in the grid, the same for all columns and kinds")
    thinned: float | None = Field(
        default=None, description="beside the score of two passes: that of halves drawn from the counts of both"
    )
    data_error: float | None = Field(default=None, description="Poisson deviance per detector pixel")
    contrast: float | None = Field(default=None, description="standard deviation of the phase, rad")
    fourier_error: float | None = Field(default=None, description="Σ(√n − √I)²/Σn of counts n and model I")
    entropy: float | None = Field(default=None, description="of the phase's histogram, bit")
    error: str | None = Field(default=None, description="why it came to nothing")

    @classmethod
    def records(cls, planned: Planned) -> bool:
        """Whether an acquisition of the study has a record: the first of a column has none."""
        return planned.scored is not None

    @classmethod
    def asked(cls, column: StudyColumn, planned: Planned | None) -> Self:
        """The record of an acquisition that is to be made; None: the column cannot be simulated."""
        if planned is None:
            return cls(name=column.name, seed=column.seed)
        plan = planned.plan
        return cls(
            name=column.name,
            seed=column.seed,
            step=plan.step,
            defocus=plan.defocus,
            dose=plan.dose,
            halves="passes" if plan.passes == 2 else "thinned",
            passes=plan.passes,
            cell=planned.cell,
        )

    def failed(self, why: str) -> Self:
        """Without a score; the veto says why, for those who read no other field."""
        return self.model_copy(update={"error": why, "veto": f"no score: {why}"})

    @property
    def key(self) -> Key:
        """See `Key`."""
        return self.name, self.seed, self.step, self.defocus, self.dose, self.passes
