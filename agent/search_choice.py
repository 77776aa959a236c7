"""From which settings a policy chooses: the `search` block of a campaign file."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from agent.aims import Positive
from agent.errors import BadInputError
from instrument import optics
from instrument.errors import OutOfLimitsError
from instrument.models import Description, Record

Range = tuple[float, float]


class Search(Record):
    """What the policy may choose from; narrowed further by what the instrument can do. None: all the instrument offers."""

    step: Range | None = Field(default=None, description="scan step size, Å")
    defocus: Range | None = Field(default=None, description="nominal defocus, Å, positive for underfocus")
    dose: Range | None = Field(default=None, description="dose of a trial, e/Å²")
    semiangle: tuple[Positive, ...] | Literal["auto"] | None = Field(
        default=None,
        description="convergence semi-angles to choose from, mrad, where the instrument offers apertures; auto: all; None: the "
        "present one",
        examples=[[15.0, 21.4, 30.0]],
    )
    overlap: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.4, description="smallest linear overlap 1 − step/probe diameter"
    )
    window: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.8, description="largest part of the window 1/Δk the geometric probe disc may fill"
    )

    def has_apertures(self, description: Description) -> bool:
        """Whether an aperture is to be chosen: the campaign wants it, and the instrument offers some."""
        return self.semiangle is not None and bool(description.apertures)

    def through(self, description: Description) -> tuple[Description, ...]:
        """The instrument with each of the apertures that may be chosen, ascending; itself where there is no choice.

        Args:
            description: of the instrument.

        Raises:
            BadInputError: it does not offer one of them.
        """
        if self.semiangle is None:
            return (description,)
        wanted = description.semiangles if self.semiangle == "auto" else tuple(sorted(self.semiangle))
        try:
            return tuple(description.through(angle) for angle in wanted)
        except OutOfLimitsError as error:
            raise BadInputError(f"search.{error}") from error

    def largest_defocus(self, description: Description) -> float:
        """Largest |defocus|, Å, at which the geometric probe disc fills no more than `window` of one pattern's 1/Δk."""
        detector = description.detector
        return self.window * optics.largest_defocus(description.semiangle, detector.angular_pixel, description.voltage)

    @field_validator("semiangle")
    @classmethod
    def _are_angles(cls, angles: tuple[float, ...] | str | None) -> tuple[float, ...] | str | None:
        if isinstance(angles, tuple) and (not angles or len(set(angles)) < len(angles)):
            raise ValueError("write different semi-angles in mrad, like [15, 21.4], or auto, or leave it out")
        return angles

    @model_validator(mode="after")
    def _ordered(self) -> Search:
        for name in ("step", "defocus", "dose"):
            value = getattr(self, name)
            if value is not None and value[0] > value[1]:
                msg = f"{name}: the lower limit {value[0]:g} is above the upper limit {value[1]:g}"
                raise ValueError(msg)
            if value is not None and name != "defocus" and value[0] <= 0:
                msg = f"{name}: {value[0]:g} is not positive; the lower limit must be more than 0"
                raise ValueError(msg)
        return self
