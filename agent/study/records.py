"""What a study finds out about one acquisition. Lengths in Å, angles in degrees, doses in e/Å², scores in bit/Å²."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from instrument.models import Record

Kind = Literal["passes", "thinned"]
"""Halves that are two passes over a field, and halves drawn from the counts of one."""
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


class ScoreRecord(Record):
    """The score of an acquisition and the information that its picture really carries."""

    name: str = Field(description="of the column")
    seed: int = Field(description="of the column")
    step: float | None = None
    defocus: float | None = Field(default=None, description="the set-point")
    dose: float | None = None
    halves: Kind | None = None
    score: float | None = None
    sd: float | None = None
    truth: float | None = Field(default=None, description="information in the picture, against the true phase")
    veto: str | None = Field(default=None, description="why the score is not to be trusted; None: it is")
    seconds: float | None = Field(default=None, description="of the whole processing")
    cell: int = Field(default=0, description="number of the setting in the grid, the same for all columns and kinds")
    thinned: float | None = Field(
        default=None, description="beside the score of two passes: that of halves drawn from the counts of both"
    )
    data_error: float | None = Field(default=None, description="Poisson deviance per detector pixel")
    contrast: float | None = Field(default=None, description="standard deviation of the phase, rad")
    entropy: float | None = Field(default=None, description="of the phase's histogram, bit")
    error: str | None = Field(default=None, description="why it came to nothing")
