"""What a campaign is after, and what it may cost: parts of the campaign file."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Annotated, Literal

from pydantic import Field, model_validator

from agent.errors import BadInputError
from instrument.models import ELEMENTARY_CHARGE, Description, Record

Positive = Annotated[float, Field(gt=0)]
SpecimenClass = Literal["layered", "light", "crystal", "amorphous"]
"""Two-dimensional crystals with heavy atoms; such of light atoms; thin crystals along a zone axis; no order."""


class AreaOfInterest(Record):
    """Where the final picture is taken. Without y, x it lies in the middle of what the instrument can reach."""

    height: Positive = Field(description="height of the final picture, Å", examples=[32.0])
    width: Positive = Field(description="width of the final picture, Å", examples=[32.0])
    y: float | None = Field(default=None, description="upper edge in the specimen frame, Å; None: centred")
    x: float | None = Field(default=None, description="left edge in the specimen frame, Å; None: centred")


class Goal(Record):
    """best_picture: the highest score of the final picture. cheapest: the least dose that reaches a score or a resolution.

    People write `goal: picture`, `goal: {least_dose: {score: 3}}` or `goal: {least_dose: {resolution: 1.2}}`.
    """

    kind: Literal["best_picture", "cheapest"] = Field(default="best_picture", description="what the campaign is after")
    score: Positive | None = Field(default=None, description="cheapest: the score to reach, bit/Å²")
    fraction: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.9, description="cheapest, without score: this part of the score of everything the instrument can give"
    )
    resolution: Positive | None = Field(
        default=None, description="cheapest: the half-bit resolution to reach, Å, in place of a score"
    )
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = Field(
        default=0.9, description="cheapest: probability with which the recommended settings have to reach it"
    )

    @model_validator(mode="before")
    @classmethod
    def _as_people_write_it(cls, raw: object) -> object:
        if raw in ("picture", "best_picture"):
            return {"kind": "best_picture"}
        if raw in ("least_dose", "cheapest"):
            return {"kind": "cheapest"}
        if isinstance(raw, str):
            msg = f"{raw!r} is unknown; legal: picture, or least_dose with a score or a resolution"
            raise ValueError(msg)
        if not isinstance(raw, dict) or "least_dose" not in raw:
            return raw
        told = raw["least_dose"] or {}
        if len(raw) > 1 or not isinstance(told, dict):
            raise ValueError("least_dose takes a score (bit/Å²) or a resolution (Å), and nothing stands beside it")
        for name, value in told.items():
            if isinstance(value, bool) or not isinstance(value, int | float):
                msg = f"least_dose.{name}: {value!r} is not a number"
                raise ValueError(msg)
        return {"kind": "cheapest", **told}

    @model_validator(mode="after")
    def _one_aim(self) -> Goal:
        if self.resolution is not None and self.score is not None:
            raise ValueError("score and resolution are both given; leave one of them out")
        if self.resolution is not None and self.kind != "cheapest":
            raise ValueError("a resolution is a goal of least_dose; write goal: {least_dose: {resolution: …}}")
        return self

    @property
    def measured(self) -> bool:
        """Whether the score to reach has to be measured first."""
        return self.kind == "cheapest" and self.score is None and self.resolution is None

    @property
    def quantile(self) -> float:
        """Of the standard normal distribution, below which `confidence` lies."""
        return NormalDist().inv_cdf(self.confidence)


class Budget(Record):
    """Beside `electrons` or in its place: what the specimen may take, how long the beam may be on it. The tightest counts."""

    dose: Positive | None = Field(
        default=None,
        description="e/Å² that no place on the specimen gets more of; exploration has its share beside the area of interest",
    )
    minutes: Positive | None = Field(
        default=None,
        description="of scanning, for all acquisitions but the expert's together, with flyback, without reconstruction",
    )

    def electrons(self, description: Description, final: float, share: float, lit: float = 1.0) -> float:
        """What the budget is in electrons; infinite where neither is written.

        Args:
            description: of the instrument.
            final: electrons that a final picture of `dose` costs.
            share: largest part that exploration may spend.
            lit: part of the beam time in which electrons are charged.

        Raises:
            BadInputError: the instrument does not say its beam current.
        """
        found = math.inf if self.dose is None else final / (1 - share)
        if self.minutes is None:
            return found
        if description.beam_current is None:
            msg = (
                f"budget.minutes: {description.name} does not say its beam current; write `electrons` or `budget.dose`"
            )
            raise BadInputError(msg)
        return min(found, 60 * self.minutes * lit * description.beam_current * 1e-12 / ELEMENTARY_CHARGE)

    def limited(self, description: Description) -> Description:
        """The description with the dose that a place may get.

        Args:
            description: of the instrument.
        """
        if self.dose is None:
            return description
        return description.model_copy(
            update={"region_dose_limit": min(self.dose, description.region_dose_limit or self.dose)}
        )

    def words(self) -> str:
        """As a person says it; empty where neither is written."""
        found = [f"at most {self.dose:g} e/Å² anywhere"] if self.dose is not None else []
        return ", ".join([*found, *([f"{self.minutes:g} min of beam"] if self.minutes is not None else [])])
