"""What a campaign is after, and what it may cost: parts of the campaign file."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from agent.errors import BadInputError
from instrument.models import ELEMENTARY_CHARGE, Description, Record

Positive = Annotated[float, Field(gt=0)]


class Goal(Record):
    """best_picture: the highest score of the final picture. cheapest: the fewest electrons that reach a score."""

    kind: Literal["best_picture", "cheapest"] = Field(default="best_picture", description="what the campaign is after")
    score: Positive | None = Field(default=None, description="cheapest: the score to reach, bit/Å²")
    fraction: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.9, description="cheapest, without score: this part of the score of everything the instrument can give"
    )


class Budget(Record):
    """Beside `electrons` or in its place: what the specimen may take, how long the beam may be on it. The tightest counts."""

    dose: Positive | None = Field(
        default=None,
        description="e/Å² that no place on the specimen gets more of; exploration has its share beside the area of interest",
    )
    minutes: Positive | None = Field(
        default=None,
        description="of beam, for all acquisitions but the expert's together, with flyback, without reconstruction",
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
