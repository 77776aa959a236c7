"""How a person shares in a campaign's decisions: the `steering` block of a campaign file."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from instrument.models import Record

Level = Literal["advise", "confirm", "auto"]


class SteeringChoice(Record):
    """A person in the loop; `--autonomy` says how much the campaign does by itself as a whole."""

    step: Level = Field(
        default="auto", description="autonomy over suggestions that change the step; never above the campaign's"
    )
    defocus: Level = Field(default="auto", description="likewise, defocus")
    dose: Level = Field(default="auto", description="likewise, dose")
    semiangle: Level = Field(default="auto", description="likewise, the aperture, where it may be chosen")
    approval_expires: Annotated[float, Field(gt=0, le=86400)] = Field(
        default=900.0, description="s after which an approval, or a person's own settings, have to be approved again"
    )
    pause_within: Annotated[float, Field(ge=1, le=600)] = Field(
        default=10.0,
        description="s within which every part must acknowledge a pause; otherwise the beam goes off (SAFE)",
    )
